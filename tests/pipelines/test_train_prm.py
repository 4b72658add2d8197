"""``jaxprm train``: what is learnt and stored, resume bit for bit, and what is refused."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from flax import nnx

from jaxprm.data.solutions import SolutionFiles, split_by_problem
from jaxprm.errors import InputError
from jaxprm.hub import load_reward_model, save_model
from jaxprm.hub.directory import read_architecture
from jaxprm.training import OptimizerConfig, read_metrics, without_timing
from jaxprm.models import HeadConfig, LanguageModel, TransformerConfig, parameters
from jaxprm.pipelines.step_data import prefix_weights
from jaxprm.progress import SilentProgress
from jaxprm.records import parse_row, read_solutions
from jaxprm.steps import StepFormat, train_sentencepiece


def results_of(path):
    results = json.loads((path / "results.json").read_text())
    del results["seconds"]
    return results


def parameters_of(path):
    return {name: np.asarray(value) for name, value in parameters(load_reward_model(path).model).items()}


def assert_same_run(one, other):
    assert results_of(one) == results_of(other)
    for name, value in parameters_of(one).items():
        np.testing.assert_array_equal(value, parameters_of(other)[name], err_msg=name)
    lines = [without_timing(read_metrics(path / "metrics.jsonl")) for path in (one, other)]
    assert lines[0] == lines[1]


def test_learns_and_stores_everything(toy, labelled, trained):
    results = results_of(trained)
    assert results["step_auroc"]["mean"] > 0.99 and results["step_auroc_within_position"]["mean"] > 0.99
    assert results["first_error_f1"]["mean"] > 0.9
    counts = results["counts"]
    training, other = split_by_problem(read_solutions(labelled), 0.3)
    assert counts["rows"] == 4 * toy.PROBLEMS and counts["overlong"] == counts["unlabeled"] == 0
    assert counts["train"]["solutions"] == len(training) and counts["held_out"]["solutions"] == len(other)
    assert counts["train"]["problems"] == len(training) // 4
    # 4 rows hold 3 + 1 + 2 + 3 labels, of which 6 are of distinct prefixes
    assert counts["train"]["judged"] == 9 * len(training) // 4 and counts["train_weight"] == 6 * len(training) / 4
    assert results["held_out"]["judged"] == 6 * len(other) // 4 and results["held_out"]["solutions"] == len(other)

    info = load_reward_model(trained).info
    assert info["threshold"]["chosen_on"] == "held-out problems of the training files"
    assert 0 < info["threshold"]["value"] < 1 and info["counts"] == counts and info["held_out"] == 0.3
    assert set(info["data"]["sha256"]) == {str(labelled)}
    status = json.loads((trained / "status.json").read_text())
    assert status["state"] == "finished"
    assert set(status["stages"]) == {"load", "tokenizer", "encode", "data", "train", "evaluate"}
    page = (trained / "report.html").read_text()
    assert "step AUROC within position" in page and "data:image/png;base64," in page and "oops maybe" in page


def test_a_finished_run_is_left_alone(toy, labelled, trained):
    before = (trained / "results.json").stat().st_mtime_ns
    toy.train(toy.config([labelled]), trained)
    assert (trained / "results.json").stat().st_mtime_ns == before


class Interrupted(Exception):
    pass


class StopsAt(SilentProgress):
    """Raises when a stage has advanced so often."""

    def __init__(self, name, count):
        self.name, self.count = name, count

    @contextlib.contextmanager
    def stage(self, name, total=None, unit="steps", completed=0):
        self.stage_name, self.seen = name, 0
        yield self

    def advance(self, n=1, *, tokens=0, **fields):
        self.seen += 1
        if self.stage_name == self.name and self.seen == self.count:
            raise Interrupted


@pytest.mark.parametrize("stop", [("train the PRM", 1), ("train the PRM", 13), ("evaluate held-out problems", 1)])
def test_an_interrupted_run_goes_on_bit_for_bit(toy, labelled, trained, tmp_path, stop):
    with pytest.raises(Interrupted):
        toy.train(toy.config([labelled]), tmp_path / "run", StopsAt(*stop))
    assert not (tmp_path / "run" / "results.json").exists() and not (tmp_path / "run" / "model").exists()
    toy.train(toy.config([labelled]), tmp_path / "run")
    assert_same_run(trained, tmp_path / "run")


def test_a_killed_process_goes_on_bit_for_bit(toy, labelled, tmp_path):
    config = tmp_path / "tiny.gin"
    config.write_text(toy.gin(labelled, steps=240))
    environment = os.environ | {"JAXPRM_CACHE": str(tmp_path / "cache"), "JAX_NUM_CPU_DEVICES": "1"}

    def command(run, *more):
        return [sys.executable, "-m", "jaxprm.cli.main", "train", str(config), "--run", str(tmp_path / run), *more]

    process = subprocess.Popen(command("killed"), env=environment, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.read_text().count("\n") > 50) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert json.loads((tmp_path / "killed" / "status.json").read_text())["state"] == "running"
    subprocess.run(command("killed"), env=environment, check=True, capture_output=True)
    subprocess.run(command("whole"), env=environment, check=True, capture_output=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    other = command("killed", "--gin.TrainPRM.seed=1")
    refused = subprocess.run(other, env=environment, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {tmp_path / 'killed'}: holds another run")
    assert refused.stderr.count("\n") == 1


def test_resuming_with_other_data_is_refused(toy, tmp_path):
    path = toy.write(tmp_path / "data.jsonl", toy.rows())
    with pytest.raises(Interrupted):
        toy.train(toy.config([path]), tmp_path / "run", StopsAt("train the PRM", 13))
    toy.write(path, toy.rows()[:-1])
    with pytest.raises(InputError, match="was written by .* this run is .* start the run in another directory"):
        toy.train(toy.config([path]), tmp_path / "run")


def test_prefix_weights():
    rows = [{"problem": "x", "steps": steps, "labels": labels} for steps, labels in (
        (["a", "b"], [1, 1]), (["a", "c"], [1, -1]), (["a", "b", "d"], [None, 1, 0]), (["e"], [None]))]
    rows += [{"problem": "y", "steps": ["a"], "labels": [1]}, {"problem": "z", "steps": ["a"]}]
    items = [parse_row(row, neutral="ignore")[0] for row in rows]
    weights = prefix_weights(items)
    np.testing.assert_allclose(np.concatenate(weights), [1 / 2, 1 / 2, 1 / 2, 1, 1 / 2, 1 / 2, 1, 1, 1, 1])
    judged = np.concatenate([[value is not None for value in item.labels.values] for item in items[:-1]] + [[False]])
    assert np.concatenate(weights)[judged].sum() == 4  # (x; a), (x; a, b), (x; a, c), (y; a)


def test_counting_every_row(toy, labelled, tmp_path):
    config = toy.config([labelled], count_prefixes_once=False, held_out=0.0)
    directory = toy.train(config, tmp_path / "run")
    results = results_of(directory.path)
    assert results["counts"]["train_weight"] == 9 * toy.PROBLEMS == results["counts"]["train"]["judged"]
    assert "held_out" not in results and results["threshold"] is None
    assert load_reward_model(directory.path).info["threshold"] is None


def test_neutral_and_overlong_policies(toy, tmp_path):
    rows = toy.rows(20)
    rows[0]["steps"] = [step + " indeed" * 30 for step in rows[0]["steps"]]
    path = toy.write(tmp_path / "data.jsonl", rows)
    short = {"training": dataclasses.replace(toy.config([path]).training, steps=2)}
    with pytest.raises(InputError, match=r"data.jsonl:1: field 'steps': has \d+ tokens and 3 steps; room is for 64"):
        toy.train(toy.config([path], **short), tmp_path / "error")
    for overlong, solutions in (("drop", 79), ("truncate", 80)):
        data = SolutionFiles((str(path),), neutral="bad")
        config = toy.config([path], overlong=overlong, data=data, held_out=0.0, **short,
                             step_format=StepFormat(separator="<step>", neutral="bad"))
        counts = results_of(toy.train(config, tmp_path / overlong).path)["counts"]
        assert counts["overlong"] == 1 and counts["train"]["solutions"] == solutions and counts["train"]["bad"] == 60
        assert load_reward_model(tmp_path / overlong).encoder.format.neutral == "bad"


def test_ranking_objective_and_two_way_head(toy, labelled, tmp_path):
    config = toy.config([labelled], objective="pqm_ranking", hyperparameters={"zeta": 2.0}, head=HeadConfig("ranking"))
    assert results_of(toy.train(config, tmp_path / "ranking").path)["step_auroc"]["mean"] > 0.99
    config = toy.config([labelled], objective="cross_entropy", head=HeadConfig("binary"))
    assert results_of(toy.train(config, tmp_path / "binary").path)["step_auroc"]["mean"] > 0.99


def test_starting_from_a_model(toy, labelled, trained, tmp_path):
    gentle = OptimizerConfig(learning_rate=1e-3, warmup=0.0)  # one step of it leaves what the model knows
    short = dataclasses.replace(toy.config([labelled]).training, steps=1, optimizer=gentle)
    options = {"model": None, "step_format": None, "training": short}
    config = toy.config([labelled], initial_model=str(trained), remat="full", **options)
    start, end = parameters_of(trained), parameters_of(toy.train(config, tmp_path / "reward").path)
    # One step of Adam with warm-up 0 moves every parameter by at most the learning rate.
    assert all(np.abs(start[name] - end[name]).max() < 0.05 for name in start)
    assert results_of(tmp_path / "reward")["step_auroc"]["mean"] > 0.9
    assert read_architecture(tmp_path / "reward").remat == "full" and read_architecture(trained).remat == "none"

    loaded = load_reward_model(trained)
    language = LanguageModel(loaded.model.config, rngs=nnx.Rngs(5))
    save_model(tmp_path / "language", language, loaded.encoder, {})
    config = toy.config([labelled], initial_model=str(tmp_path / "language"), **options)
    end = parameters_of(toy.train(config, tmp_path / "from_language").path)
    assert np.abs(end["backbone.embedding"] - np.asarray(parameters(language)["backbone.embedding"])).max() < 0.05
    config = toy.config([labelled], initial_model=str(trained), objective="cross_entropy", head=HeadConfig("binary"),
                         **options)
    with pytest.raises(InputError, match="field 'head.kind' = 'binary': the initial model has a scalar head"):
        toy.train(config, tmp_path / "other_head")
    config = toy.config([labelled], initial_model=str(trained), row_tokens=65, **options)
    with pytest.raises(InputError, match="field 'row_tokens' = 65: is more than the initial model's context 64"):
        toy.train(config, tmp_path / "long")


def test_a_tokenizer_of_its_own(toy, labelled, tmp_path):
    tokenizer = train_sentencepiece(["so we have oops maybe Add and ."], 300, symbols=["<step>"])
    tokenizer.save(tmp_path)
    short = dataclasses.replace(toy.config([labelled]).training, steps=2)
    config = toy.config([labelled], tokenizer=str(tmp_path), training=short)
    run = toy.train(config, tmp_path / "run").path
    assert load_reward_model(run).encoder.tokenizer.fingerprint == tokenizer.fingerprint
    assert not (run / "tokenizer").exists()
    small = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=200))
    with pytest.raises(InputError, match="field 'model.vocab_size' = 200: the tokenizer has 300 entries"):
        toy.train(small, tmp_path / "small")


@pytest.mark.parametrize(("fields", "message"), [
    ({"model": None}, "field 'model' = None: exactly one of model and initial_model must be set"),
    ({"initial_model": "x"}, "exactly one of model and initial_model"),
    ({"initial_model": "x", "model": None}, "field 'step_format' = .*: comes from initial_model"),
    ({"remat": "full"}, "field 'remat' = 'full': says how initial_model is computed, but there is none; set remat of"),
    ({"objective": "hinge"}, "field 'objective' = 'hinge': must be one of binary_cross_entropy"),
    ({"objective": "cross_entropy"}, "field 'head.kind' = 'scalar': cross_entropy reads 2 or 3 output"),
    ({"hyperparameters": {"zeta": 1.0}}, "field 'hyperparameters' = 'zeta': is not a hyperparameter of binary_cross"),
    ({"objective": "pqm_ranking", "hyperparameters": {"weights": 1.0}}, r"= 'weights': .* \(known: variant, zeta\)"),
    ({"held_out": 1.0}, r"field 'held_out' = 1.0: must be in \[0, 1\)"),
    ({"batch_rows": 0}, "field 'batch_rows' = 0: must be at least 1"),
    ({"row_tokens": 65}, "field 'row_tokens' = 65: is more than the model's context 64"),
    ({"seed": -1}, "field 'seed' = -1"),
    ({"step_format": StepFormat(neutral="bad")}, "field 'data.neutral' = 'good': step_format says bad"),
])
def test_configs_that_make_no_sense(toy, fields, message):
    with pytest.raises(InputError, match=message):
        toy.config(["x.jsonl"], **fields)


def test_choices_are_checked(toy, without_type_checks):
    with pytest.raises(InputError, match="field 'overlong' = 'shrink': must be one of error, drop, truncate"):
        toy.config(["x.jsonl"], overlong="shrink")
    with pytest.raises(InputError, match="field 'dtype' = 'float16': must be one of float32, bfloat16"):
        toy.config(["x.jsonl"], initial_model="x", model=None, step_format=None, dtype="float16")


def test_a_split_without_problems_on_one_side(toy, tmp_path):
    path = toy.write(tmp_path / "one.jsonl", toy.rows(1))
    with pytest.raises(InputError, match="field 'held_out' = 0.3: leaves 4 solutions to train on and 0 held out"):
        toy.train(toy.config([path]), tmp_path / "run")


def test_shipped_config_resolves():
    from jaxprm.cli.config import resolve

    config = resolve("prm/prm800k").config
    assert config.row_tokens <= config.model.context and config.overlong == "drop"
    assert isinstance(config.model, TransformerConfig) and config.step_format.separator == "<step>"
