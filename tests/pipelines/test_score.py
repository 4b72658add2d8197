"""``jaxprm score`` and ``jaxprm inspect``: the same rows with a score per step, all or nothing."""

import json

import numpy as np
import pytest

from jaxprm.hub import load_reward_model
from jaxprm.pipelines.inspect_model import describe
from jaxprm.records import Problem, Solution
from jaxprm.scoring.scorer import StepScorer


@pytest.fixture
def files(tmp_path):
    return tmp_path / "in.jsonl", tmp_path / "out.jsonl"


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_stay_and_get_scores(toy, trained, files, tmp_path):
    rows = [{"problem": "Add 3 and 4 .", "steps": ["so we have 7", "oops maybe 3"], "mine": {"kept": [1, None]}},
            {"id": 7, "problem": "Add 1 and 1 .", "steps": ["so we have 2"], "labels": [1], "scores": "old"}]
    toy.write(files[0], rows)
    page = tmp_path / "out.html"
    assert toy.call("score", "--model", trained, "--input", files[0], "--output", files[1], "--html", page) == 0
    scored = rows_of(files[1])
    assert [set(row) - {"scores", "aggregate"} for row in scored] == [set(row) - {"scores"} for row in rows]
    assert scored[0]["mine"] == {"kept": [1, None]} and scored[1]["id"] == 7
    right, wrong = scored[0]["scores"]
    assert right > 0.9 > 0.1 > wrong and scored[0]["aggregate"] == pytest.approx(wrong)

    loaded = load_reward_model(trained)
    expected = StepScorer(loaded.model, loaded.encoder).score(
        [Solution(Problem("", row["problem"]), tuple(row["steps"])) for row in rows])
    for row, values in zip(scored, expected):
        np.testing.assert_allclose(row["scores"], values, rtol=1e-5)
    assert "oops maybe 3" in page.read_text()
    # The model directory itself gives the same as its run.
    again = tmp_path / "again.jsonl.gz"
    assert toy.call("score", "--model", trained / "model", "--input", files[1], "--output", again,
                    "--batch-tokens", 64) == 0
    assert again.is_file()


def test_empty_steps(toy, trained, files):
    toy.write(files[0], [{"problem": "Add 3 and 4 .", "steps": ["", "so we have 7", " \n", "oops maybe 3"]}])
    assert toy.call("score", "--model", trained, "--input", files[0], "--output", files[1], "--drop-empty") == 0
    row = rows_of(files[1])[0]
    assert row["steps"] == ["", "so we have 7", " \n", "oops maybe 3"]
    assert [score is None for score in row["scores"]] == [True, False, True, False]
    toy.write(files[0], [{"problem": "Add 3 and 4 .", "steps": ["so we have 7", "oops maybe 3"]}])
    assert toy.call("score", "--model", trained, "--input", files[0], "--output", files[1]) == 0
    assert rows_of(files[1])[0]["scores"] == pytest.approx([row["scores"][1], row["scores"][3]])


GOOD = {"problem": "Add 3 and 4 .", "steps": ["so we have 7"]}


@pytest.mark.parametrize(("lines", "message"), [
    (None, "in.jsonl: no such file; check the path"),
    ([], "in.jsonl: has no rows"),
    (["{"], "in.jsonl:2: is not valid JSON"),
    ([{"steps": ["a"]}], "in.jsonl:2: field 'problem': is missing"),
    ([{"problem": "x"}], "in.jsonl:2: field 'steps': is missing"),
    ([{"problem": 3, "steps": ["a"]}], "in.jsonl:2: field 'problem' = 3: has type int"),
    ([{"problem": "x", "steps": []}], "in.jsonl:2: field 'steps' = []: has no steps"),
    ([{"problem": "x", "steps": ["a", 5]}], "in.jsonl:2: field 'steps[1]' = 5: must be a text"),
    ([{"problem": "x", "steps": ["a", " "]}], "in.jsonl:2: field 'steps[1]' = ' ': is an empty step; drop empty steps"),
    ([{"problem": "x", "steps": ["a", "b<step>c"]}],
     "in.jsonl:2: field 'steps[1]' = 'b<step>c': contains the separator '<step>'; split it there"),
    ([{"problem": "x", "steps": ["so " * 99]}],
     "in.jsonl:2: field 'steps': needs 1"),
    ([{"problem": "x", "steps": ["a"], "labels": [1, 1]}],
     "in.jsonl:2: field 'labels': has 2 labels for 1 steps; one label per step is needed"),
])
def test_bad_input_is_one_line_and_no_output(toy, trained, files, capfd, lines, message):
    if lines is not None:
        text = [line if isinstance(line, str) else json.dumps(line) for line in ([GOOD, *lines] if lines else [])]
        files[0].write_text("".join(line + "\n" for line in text))
    page = files[1].with_suffix(".html")
    arguments = ("score", "--model", trained, "--input", files[0], "--output", files[1], "--html", page)
    assert toy.call(*arguments) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    left = [path for path in files[1].parent.iterdir() if path != files[0]]
    assert left == []


@pytest.mark.parametrize(("place", "message"), [
    ("absent", "absent: no such directory; give a model or run directory"),
    ("data", "data: holds no weights; give a model or run directory"),
    ("other", "other: holds no weights; give a model or run directory"),
])
def test_bad_models(toy, files, tmp_path, capsys, place, message):
    (tmp_path / "data").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "llama"}')
    toy.write(files[0], [GOOD])
    assert toy.call("score", "--model", tmp_path / place, "--input", files[0], "--output", files[1]) == 2
    assert message in capsys.readouterr().err and not files[1].exists()


def test_inspect(toy, trained, capsys):
    facts = dict(describe(trained))
    assert facts["kind"].startswith("reward_model, jaxprm-model-1")
    loaded = load_reward_model(trained)
    assert facts["separator"] == f"'<step>' (id {loaded.encoder.separator_id})"
    assert facts["score is read"] == "at the separator" and "width 16" in facts["architecture"]
    assert facts["head"] == "scalar, 1 output(s) per step" and "value" in facts["info: threshold"]
    assert toy.call("inspect", trained) == 0
    assert "<step>" in capsys.readouterr().out
    assert toy.call("inspect", trained / "absent") == 2
