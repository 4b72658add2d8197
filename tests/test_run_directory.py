"""Run directories: what they hold, when they resume, when they refuse."""

import dataclasses
import enum
import hashlib
import json
from pathlib import Path

import pytest

from jaxprm.errors import InputError
from jaxprm.run_directory import RunDirectory, config_from_json, config_sha256, config_to_json
from jaxprm.training import OptimizerConfig, TrainConfig


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass(frozen=True)
class Part:
    rate: float = 1.0


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0
    part: Part = Part()
    color: Color = Color.RED
    files: tuple[str, ...] = ("a",)
    folder: Path = Path("x")
    weights: dict | None = None


def test_canonical_json_and_hash():
    value = config_to_json(Config(weights={"a": 0.5}))
    prefix = __name__
    assert value == {"class": f"{prefix}.Config", "seed": 0, "part": {"class": f"{prefix}.Part", "rate": 1},
                     "color": "RED", "files": ["a"], "folder": "x", "weights": {"a": 0.5}}
    text = json.dumps(config_to_json(Config()), sort_keys=True, separators=(",", ":"))
    assert config_sha256(Config()) == hashlib.sha256(text.encode()).hexdigest()
    assert config_sha256(Config(part=Part(1))) == config_sha256(Config()) != config_sha256(Config(seed=1))
    with pytest.raises(InputError, match="a config may hold"):
        config_to_json(Config(weights={"a": object()}))


def test_configs_come_back_from_json():
    config = TrainConfig(steps=3, optimizer=OptimizerConfig(learning_rate=2.0, rule="lion"), writers=("wandb",))
    again = config_from_json(json.loads(json.dumps(config_to_json(config))))
    assert again == config and config_sha256(again) == config_sha256(config)
    assert config_from_json({"files": ["a"], "weights": {"a": 0.5}}) == {"files": ("a",), "weights": {"a": 0.5}}
    for value in ({"class": "os.system"}, {"class": "jaxprm.errors.InputError"}, {"class": "jaxprm.none.Config"},
                  {"class": "jaxprm.training.config.TrainConfig", "stepps": 3}):
        with pytest.raises(InputError, match=f"field 'class' = '{value['class']}': cannot be read by this version"):
            config_from_json(value)


def test_an_existing_run_opens_without_its_config(tmp_path):
    RunDirectory(tmp_path, Config()).finish("train", seconds=1.5)
    run = RunDirectory.existing(tmp_path)
    assert run.stages == {"train": {"seconds": 1.5}} and run.config_sha256 == config_sha256(Config()) and run.resumed
    assert run.config == config_to_json(Config()) == json.loads(run.text)


def test_begins_resumes_finishes(tmp_path):
    path = tmp_path / "runs/one"
    run = RunDirectory(path, Config(), "text of the config\n")
    assert not run.resumed and run.state == "running" and run.finished("train") is None
    assert (path / "config.gin").read_text() == "text of the config\n"
    assert json.loads((path / "config.json").read_text()) == {"sha256": config_sha256(Config()),
                                                              "config": config_to_json(Config())}
    run.finish("train", seconds=1.5)
    again = RunDirectory(path, Config(), "same values, other text")
    assert again.resumed and again.finished("train") == {"seconds": 1.5}
    assert (path / "config.gin").read_text() == "text of the config\n"
    again.finish("evaluate")
    again.finish_run()
    assert run.state == "finished" and run.finished("evaluate") == {} and run.finished("train") == {"seconds": 1.5}
    assert [run.metrics.name, run.checkpoints.name, run.results.name, run.report.name] == [
        "metrics.jsonl", "checkpoints", "results.json", "report.html"]


def test_refuses(tmp_path):
    RunDirectory(tmp_path / "run", Config())
    with pytest.raises(InputError, match="run: holds another run .*; choose another directory with --run, or delete"):
        RunDirectory(tmp_path / "run", Config(seed=1))
    with pytest.raises(InputError, match="holds files that are not a run"):
        RunDirectory(tmp_path, Config())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a directory"):
        RunDirectory(tmp_path / "file", Config())
    (tmp_path / "run/config.json").write_text("{")
    with pytest.raises(InputError, match="config.json: cannot be read"):
        RunDirectory(tmp_path / "run", Config())


def test_what_bad_input_ended_at_once_leaves_nothing(tmp_path):
    RunDirectory(tmp_path / "run", Config(), "text").discard_unused()
    assert not (tmp_path / "run").exists()
    first = RunDirectory(tmp_path / "run", Config(seed=1))
    RunDirectory(tmp_path / "run", Config(seed=1)).discard_unused()  # resumed: somebody else's
    (first.path / "examples.json").touch()
    first.discard_unused()
    assert sorted(entry.name for entry in first.path.iterdir()) == ["config.json", "examples.json", "status.json"]


def test_a_run_killed_while_it_began_can_begin_again(tmp_path):
    run = RunDirectory(tmp_path / "run", Config(), "text")
    (run.path / "config.json").unlink()
    (run.path / ".config.json.123.tmp").touch()
    assert not RunDirectory(tmp_path / "run", Config(), "text").resumed


def test_a_process_that_does_not_write_keeps_its_reports_to_itself(tmp_path):
    config = TrainConfig(3)
    with pytest.raises(InputError, match="is not the run that process 0 has begun; all processes must see the same files"):
        RunDirectory(tmp_path / "run", config, writes=False)
    assert not (tmp_path / "run").exists()
    first = RunDirectory(tmp_path / "run", config)
    first.finish("load", rows=4)
    other = RunDirectory(tmp_path / "run", config, writes=False)
    other.finish("train", seconds=1.5)
    assert other.finished("load") == {"rows": 4} and other.finished("train") == {"seconds": 1.5}
    assert first.stages == {"load": {"rows": 4}} and first.state == other.state == "running"
