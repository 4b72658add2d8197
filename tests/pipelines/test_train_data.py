"""Where training examples come from: files of every kind, mixtures, and examples that were encoded once."""

import dataclasses
import json

import numpy as np
import pytest

from jaxprm.data.arrayrecord import write_solutions
from jaxprm.data.solutions import SolutionFiles, Source, problem_hash
from jaxprm.errors import InputError
from jaxprm.hub import load_reward_model
from jaxprm.models import parameters
from jaxprm.progress import SilentProgress
from jaxprm.records import read_solutions


class Log(SilentProgress):
    """Keeps what is said, and the names of the stages."""

    def __init__(self):
        self.lines, self.stages = [], []

    def log(self, message):
        self.lines.append(message)

    def stage(self, name, total=None, unit="steps", completed=0):
        self.stages.append(name)
        return super().stage(name, total, unit, completed)


class Stopped(Exception):
    pass


class StopsBeforeTraining(Log):
    def stage(self, name, total=None, unit="steps", completed=0):
        if name == "train the PRM":
            raise Stopped
        return super().stage(name, total, unit, completed)


def results_of(path):
    results = json.loads((path / "results.json").read_text())
    return {name: value for name, value in results.items() if name not in ("seconds", "config_sha256")}


def assert_same_model(one, other):
    values = [parameters(load_reward_model(path).model) for path in (one, other)]
    for name, value in values[0].items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(values[1][name]), err_msg=name)


@pytest.fixture(scope="module")
def tokenizer(trained):
    """The tokenizer that an earlier run has trained."""
    return str(trained / "tokenizer")


def test_encoded_once(toy, labelled, trained, tokenizer, tmp_path):
    """The first run fills the folder, the second reads it; both are the run that encodes JSON lines into memory."""
    path = tmp_path / "labelled.arrayrecord"
    write_solutions(path, read_solutions(labelled))
    logs = [Log(), Log()]
    for index, log in enumerate(logs):
        config = toy.config([path], encoded=str(tmp_path / "encoded"), tokenizer=tokenizer)
        run = toy.train(config, tmp_path / f"run{index}", log).path
        assert results_of(run) == results_of(trained)
        assert_same_model(run, trained)
    (place,) = (tmp_path / "encoded").iterdir()
    assert "encode" in logs[0].stages and "encode" not in logs[1].stages
    assert f"encoded examples: {place}" in logs[1].lines
    assert any(line.startswith("160 rows, 0 without a judged step") for line in logs[1].lines)

    # Other policies are other examples; a damaged file is named.
    with pytest.raises(Stopped):
        toy.train(dataclasses.replace(config, count_prefixes_once=False), tmp_path / "other", StopsBeforeTraining())
    assert len(list((tmp_path / "encoded").iterdir())) == 2
    shard = place / "train-0" / "examples-00000.arrayrecord"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match="train-0/examples-00000.arrayrecord: has .* delete the folder"):
        toy.train(config, tmp_path / "damaged")


def test_encoding_that_fails_leaves_nothing(toy, tokenizer, tmp_path):
    rows = toy.rows()
    rows[7]["steps"][-1] = "a<step>b"
    path = toy.write(tmp_path / "data.jsonl", rows)
    config = toy.config([path], encoded=str(tmp_path / "encoded"), tokenizer=tokenizer, held_out=0.0)
    with pytest.raises(InputError, match=r"data.jsonl:8: field 'steps\[\d\]' = 'a<step>b': contains the separator"):
        toy.train(config, tmp_path / "run")
    assert list((tmp_path / "encoded").iterdir()) == []
    with pytest.raises(InputError, match="field 'encoded' = 'x': needs a tokenizer that exists; set tokenizer"):
        toy.config([path], encoded="x")


def test_a_mixture(toy, tokenizer, tmp_path):
    """Three kinds of files, weights, and each source's counts; in memory and encoded once it is the same run."""
    rows = toy.rows()
    rows[0]["steps"] = [step + " indeed" * 30 for step in rows[0]["steps"]]  # not even its first step fits
    rows[4]["steps"][2] += " indeed" * 60
    few_path = toy.write(tmp_path / "few.jsonl", rows[:8])
    toy.write(tmp_path / "many.jsonl", rows[8:])
    many_path = tmp_path / "many.arrayrecord"
    write_solutions(many_path, read_solutions(tmp_path / "many.jsonl"))
    data = SolutionFiles(mixture=(Source("few", (str(few_path),), 1.0), Source("many", (str(many_path),), 3.0)))
    training = dataclasses.replace(toy.config([few_path]).training, steps=6)
    fields = {"data": data, "overlong": "truncate", "held_out": 0.0, "tokenizer": tokenizer, "training": training}
    log = Log()
    run = toy.train(toy.config([few_path], **fields), tmp_path / "run", log).path
    counts = results_of(run)["counts"]
    few, many = counts["sources"]["few"], counts["sources"]["many"]
    assert (few["whole"], few["truncated"], few["dropped"], few["solutions"]) == (6, 1, 1, 7)
    assert (many["whole"], many["truncated"], many["dropped"]) == (4 * toy.PROBLEMS - 8, 0, 0)
    assert counts["overlong"] == 2 and counts["truncated"] == counts["dropped"] == 1 and counts["rows"] == 4 * toy.PROBLEMS
    assert many["drawn"] == pytest.approx(3 * few["drawn"], abs=3) and few["weight"] == 0.25
    assert few["epochs"] == pytest.approx(few["drawn"] / 7, abs=1e-6)
    assert counts["lengths"]["solutions"] == counts["train"]["solutions"] + 1 == 4 * toy.PROBLEMS
    fits = {fit["row_tokens"]: fit["solutions"] for fit in counts["lengths"]["fits"]}
    assert fits[64] == pytest.approx(1 - 2 / 160) and 0 < counts["padding"]["packed"] < counts["padding"]["longest"] + 0.2
    (line,) = (line for line in log.lines if line.startswith("few: "))
    assert line.startswith("few: 25.") and "its 7 solutions (1 cut, 1 left out) are seen" in line
    assert any(line.startswith("2 solutions longer than a row: 1 cut, 1 left out, 0 not evaluated") for line in log.lines)
    page = (run / "report.html").read_text()
    assert "98.75 % fit rows of 64 tokens and 16 steps" in page and "many: " in page

    with pytest.raises(Stopped):
        toy.train(toy.config([few_path], **fields, encoded=str(tmp_path / "encoded")), tmp_path / "stored",
                  StopsBeforeTraining())
    records = [json.loads((path / "status.json").read_text())["stages"]["data"] for path in (run, tmp_path / "stored")]
    assert records[0] == records[1] == counts


def test_too_long_solutions_are_located_whatever_the_file(toy, tokenizer, tmp_path):
    rows = toy.rows(20)
    rows[5]["steps"][0] += " indeed" * 60
    toy.write(tmp_path / "data.jsonl", rows)
    write_solutions(tmp_path / "data.arrayrecord", read_solutions(tmp_path / "data.jsonl"))
    (place := tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="file/.*: cannot be written .*; choose another folder"):
        toy.train(toy.config([tmp_path / "data.jsonl"], tokenizer=tokenizer, encoded=str(place)), tmp_path / "no-folder")
    hash_share = problem_hash(rows[5]["problem"]) / 2**64
    cases = [("data.jsonl", str(tmp_path / "encoded"), 0.0), ("data.arrayrecord", None, 0.0),
             ("data.jsonl", str(tmp_path / "encoded"), (hash_share + 1) / 2)]  # last: held out, but not everything is
    for name, encoded, held_out in cases:
        config = toy.config([tmp_path / name], held_out=held_out, tokenizer=tokenizer, encoded=encoded)
        with pytest.raises(InputError, match=rf"{name}:6: field 'steps': has \d+ tokens and \d steps; room is for 64 "
                                             r"tokens and 16 steps; use longer rows, or overlong = 'truncate' or 'drop'"):
            toy.train(config, tmp_path / f"{name}-{held_out}")


def test_a_source_that_is_all_held_out(toy, tokenizer, tmp_path):
    rows = toy.rows()
    paths = [toy.write(tmp_path / "rest.jsonl", rows[4:]), toy.write(tmp_path / "one.jsonl", rows[:4])]
    data = SolutionFiles(mixture=tuple(Source(path.stem, (str(path),)) for path in paths))
    for encoded in (None, str(tmp_path / "encoded")):
        config = toy.config(paths, data=data, held_out=0.97, tokenizer=tokenizer, encoded=encoded)
        with pytest.raises(InputError, match="field 'mixture': source 'one' has no solutions to train on; check its files"):
            toy.train(config, tmp_path / f"run {encoded is None}")


GIN = """
from __gin__ import dynamic_registration
from jaxprm.data import solutions
from jaxprm.models import config as models
from jaxprm.pipelines import train_prm

train_prm.TrainPRM.data = @solutions.SolutionFiles()
train_prm.TrainPRM.model = @models.TransformerConfig()
models.TransformerConfig.vocab_size = 320
solutions.SolutionFiles.mixture = (@human/solutions.Source(), @rollouts/solutions.Source())
human/solutions.Source:
    name = "human"
    files = ("a.jsonl", "b.jsonl.gz")
    weight = 0.7
rollouts/solutions.Source:
    name = "rollouts"
    files = ("c.arrayrecord", "tfds:steps/1.0.0@train")
    weight = {weight}
"""


def test_the_shipped_mixture():
    from jaxprm.cli.config import resolve

    config = resolve("prm/mixture").config
    assert config.data.files == () and sum(source.weight for source in config.data.mixture) == pytest.approx(1)
    assert dataclasses.replace(config, data=resolve("prm/prm800k").config.data) == resolve("prm/prm800k").config


def test_a_mixture_in_a_config_file(tmp_path):
    from jaxprm.cli.config import resolve

    path = tmp_path / "mixed.gin"
    path.write_text(GIN.format(weight=0.3))
    data = resolve(str(path)).config.data
    assert data == SolutionFiles(mixture=(Source("human", ("a.jsonl", "b.jsonl.gz"), 0.7),
                                          Source("rollouts", ("c.arrayrecord", "tfds:steps/1.0.0@train"), 0.3)))
    path.write_text(GIN.format(weight=-1))
    with pytest.raises(InputError, match=r"mixed.gin:\d+: field 'weight' = -1: must be positive and finite"):
        resolve(str(path))
