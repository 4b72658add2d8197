"""``jaxprm calibrate``: a planted temperature is found on some problems and repairs the others; bad rows end in one line."""

import json

import numpy as np
import pytest

from jaxprm.cli.main import main
from jaxprm.errors import InputError
from jaxprm.pipelines import calibrate
from jaxprm.scoring.calibration import Temperature, logit


@pytest.fixture
def scored(tmp_path):
    """Scores of 300 problems, four steps each, three times too certain."""
    random = np.random.default_rng(0)
    path = tmp_path / "scored.jsonl"
    with open(path, "w") as out:
        for index in range(300):
            truth = random.uniform(0.02, 0.98, 4)
            scores = 1 / (1 + np.exp(-3 * logit(truth)))
            labels = np.where(random.uniform(size=4) < truth, 1, -1).tolist()
            row = {"problem": f"Q{index}", "steps": list("abcd"), "labels": labels, "final_correct": labels[0] > 0,
                   "scores": scores.tolist(), "aggregate": float(scores[0])}
            out.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def call(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(["calibrate", *map(str, arguments)])
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run


@pytest.mark.parametrize("kind", calibrate.KINDS)
def test_every_kind_repairs_other_problems(scored, tmp_path, kind):
    report = calibrate.fit([scored], tmp_path / "c.json", kind=kind)
    assert report.fitted + report.checked == 1200 and report.fitted % 4 == 0 and 500 < report.fitted < 700
    assert report.error[1] < 0.5 * report.error[0] and report.brier[1] < report.brier[0] - 0.02
    fitted, level = calibrate.load(tmp_path / "c.json")
    assert level == "step" and (kind != "temperature" or fitted.temperature == pytest.approx(3, rel=0.15))


def test_scores_become_calibrated_once(scored, tmp_path, call):
    calibrator, output = tmp_path / "c.json", tmp_path / "out.jsonl"
    code, out, _ = call(scored, "--level", "solution", "--kind", "platt", "--bins", 5, "--output", calibrator)
    assert code == 0 and "calibration error (5 bins)" in out and "measured on" in out and "solutions" in out
    assert call(scored, "--use", calibrator, "--output", output)[0] == 0
    rows, before = ([json.loads(line) for line in path.read_text().splitlines()] for path in (output, scored))
    fitted, _ = calibrate.load(calibrator)
    assert rows[7]["raw_aggregate"] == before[7]["aggregate"] and rows[7]["scores"] == before[7]["scores"]
    assert rows[7]["aggregate"] == float(fitted(before[7]["aggregate"]))
    code, _, err = call(output, "--use", calibrator, "--output", tmp_path / "again.jsonl")
    assert code == 2 and err == f"error: {output}:1: field 'raw_aggregate': is there already: the row is calibrated\n"


def test_steps_without_a_score_stay_so(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"calibrator": {"kind": "Temperature", "temperature": 2.0}, "level": "step"}))
    (tmp_path / "x.jsonl").write_text(json.dumps({"problem": "p", "steps": ["a", ""], "scores": [0.9, None]}) + "\n")
    assert calibrate.use([tmp_path / "x.jsonl"], tmp_path / "c.json", tmp_path / "y.jsonl") == 1
    row = json.loads((tmp_path / "y.jsonl").read_text())
    assert row["scores"] == [float(Temperature(2.0)(0.9)), None] and row["raw_scores"] == [0.9, None]


def test_bad_input(scored, tmp_path, without_type_checks):
    output = tmp_path / "c.json"
    for options, message in [({"kind": "beta"}, "must be one of temperature, platt"), ({"level": "token"}, "one of step, sol"),
                             ({"share": 1.0}, "must be between 0 and 1")]:
        with pytest.raises(InputError, match=message):
            calibrate.fit([scored], output, **options)
    bad = tmp_path / "bad.jsonl"
    row = {"problem": "p", "steps": ["a"], "labels": [1]}
    for change, message in [({}, "bad.jsonl:1: field 'scores' = None: must be a list of 1 numbers"),
                            ({"scores": [1, 2]}, "must be a list of 1 numbers"),
                            ({"scores": ["x"]}, "'scores.0.' = 'x': must be a finite"),
                            ({"scores": [0.5]}, "has no labelled score to")]:
        bad.write_text(json.dumps(row | change) + "\n")
        with pytest.raises(InputError, match=message):
            calibrate.fit([bad], output)
    rows = [json.dumps(row | {"problem": f"p{index}", "scores": [2.5]}) for index in range(40)]
    bad.write_text("\n".join(rows))
    with pytest.raises(InputError, match="field 'kind' = 'temperature': cannot be calibrated .a score is not finite or no"):
        calibrate.fit([bad], output)
    assert calibrate.fit([bad], output, kind="isotonic").brier == (None, 0.0)
    output.write_text("[]")
    with pytest.raises(InputError, match="c.json: is no calibrator .*; `jaxprm calibrate` writes them"):
        calibrate.load(output)
