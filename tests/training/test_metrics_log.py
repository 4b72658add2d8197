"""``metrics.jsonl`` under kill and resume."""

import json

from jaxprm.training import MetricsLog, read_metrics


def test_lines_after_the_resumed_step_are_cut_off(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    log = MetricsLog(path)
    for step in (2, 4, 6):
        log.write(step, {"loss": step / 10})
    log.close()
    again = MetricsLog(path, resume_step=4)
    assert [line["step"] for line in read_metrics(path)] == [2, 4]
    again.write(6, {"loss": 9.0})
    again.close()
    assert read_metrics(path) == [{"step": 2, "loss": 0.2}, {"step": 4, "loss": 0.4}, {"step": 6, "loss": 9.0}]
    MetricsLog(path).close()  # a new run in the same place starts from nothing
    assert read_metrics(path) == []


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 0.5}) + "\n" + '{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}]
    MetricsLog(path, resume_step=2).close()
    assert path.read_text() == '{"step": 1, "loss": 0.5}\n'


def test_every_line_is_on_disk_at_once(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(1, {"loss": 0.25})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 0.25}]
    log.close()


def test_a_missing_file_has_no_lines(tmp_path):
    assert read_metrics(tmp_path / "none.jsonl") == []
