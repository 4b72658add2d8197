"""``jaxprm train`` with bad input: one line that names file, row, field and value, exit code 2, no model."""

import json

import pytest


@pytest.fixture
def place(toy, tmp_path, monkeypatch):
    """A working directory with the config ``tiny.gin`` over ``data.jsonl``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.gin").write_text(toy.gin("data.jsonl", steps=2))
    return tmp_path


def refused(toy, place, capfd, *more) -> str:
    assert toy.call("train", "tiny.gin", "--run", "run", *more) == 2
    lines = capfd.readouterr().err.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1 and "Traceback" not in "".join(lines)
    assert not (place / "run" / "model").exists() and not (place / "run" / "results.json").exists()
    return lines[-1].removeprefix("error: ")


@pytest.mark.parametrize(("line", "message"), [
    ("{", "data.jsonl:5: is not valid JSON"),
    ("[1]", "data.jsonl:5: a row must be a JSON object, not list"),
    ({"steps": ["so"], "labels": [1]}, "data.jsonl:5: field 'problem': is missing"),
    ({"problem": "x", "labels": [1]}, "data.jsonl:5: field 'steps': is missing"),
    ({"problem": "x", "steps": ["so", ""], "labels": [1, 1]},
     "data.jsonl:5: field 'steps[1]' = '': is an empty step; drop empty steps with drop_empty_steps = True"),
    ({"problem": "x", "steps": ["so"], "labels": [1, 1]}, "data.jsonl:5: field 'labels': has 2 labels for 1 steps"),
    ({"problem": "x", "steps": ["so"], "labels": [3]}, "data.jsonl:5: field 'labels[0]' = 3: must be -1, 0, 1 or null"),
    ({"problem": "x", "steps": ["so", "a<step>b"], "labels": [1, 1]},
     "data.jsonl:5: field 'steps[1]' = 'a<step>b': contains the separator '<step>'"),
    ({"problem": "x", "steps": ["oops " * 80], "labels": [1]}, "data.jsonl:5: field 'steps': has "),
])
def test_rows(toy, place, capfd, line, message):
    rows = toy.rows()
    text = [json.dumps(row) for row in rows]
    text.insert(4, line if isinstance(line, str) else json.dumps(line))
    (place / "data.jsonl").write_text("\n".join(text) + "\n")
    assert message in refused(toy, place, capfd)


def test_dropped_empty_steps_are_counted(toy, place):
    rows = toy.rows()
    rows[0]["steps"][1] = " "
    toy.write(place / "data.jsonl", rows)
    assert toy.call("train", "tiny.gin", "--run", "run", "--gin.SolutionFiles.drop_empty_steps=True") == 0
    assert json.loads((place / "run" / "results.json").read_text())["counts"]["empty_steps"] == 1


@pytest.mark.parametrize(("more", "message"), [
    (["--gin.TrainPRM.sed=1"], "field 'train_prm.TrainPRM.sed': TrainPRM has no field 'sed'; did you mean 'seed'?"),
    (["--gin.TrainPRM.seed='x'"], "field 'train_prm.TrainPRM.seed' = 'x': must be a whole number, not a text"),
    (["--gin.TrainPRM.overlong='shrink'"], "field 'train_prm.TrainPRM.overlong' = 'shrink': must be one of"),
    (["--gin.TrainPRM.objective='hinge'"], "field 'objective' = 'hinge': must be one of binary_cross_entropy"),
    (["--gin.TrainPRM.row_tokens=65"], "field 'row_tokens' = 65: is more than the model's context 64"),
    (["--gin.SolutionFiles.files=('no.jsonl',)"], "no.jsonl: no such file; set JAXPRM_DATA to the folder that holds it"),
])
def test_values(toy, place, capfd, more, message):
    toy.write(place / "data.jsonl", toy.rows())
    assert message in refused(toy, place, capfd, *more)


def test_unknown_config(toy, place, capfd):
    assert toy.call("train", "prm/absent") == 2
    assert "value 'prm/absent': no such config file or name; shipped configs: " in capfd.readouterr().err


def test_directories_that_hold_something_else(toy, place, capfd, monkeypatch):
    toy.write(place / "data.jsonl", toy.rows())
    (place / "run").mkdir()
    (place / "run" / "thesis.tex").write_text("mine")
    assert "run: holds files that are not a run; choose another directory" in refused(toy, place, capfd)
    assert [path.name for path in (place / "run").iterdir()] == ["thesis.tex"]

    assert toy.call("train", "tiny.gin", "--run", "other") == 0
    assert toy.call("train", "tiny.gin", "--run", "other", "--gin.TrainPRM.seed=2") == 2
    assert "other: holds another run (config " in capfd.readouterr().err

    # A run whose checkpoints another version has written.
    status = json.loads((place / "other" / "status.json").read_text())
    (place / "other" / "status.json").write_text(json.dumps(status | {"state": "running"}))
    monkeypatch.setattr("jaxprm.training.checkpoints.FORMAT", "jaxprm-train-9")
    assert toy.call("train", "tiny.gin", "--run", "other") == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert "was written by {" in error and "'format': 'jaxprm-train-2'" in error
    assert "start the run in another directory" in error
