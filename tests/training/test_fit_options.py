"""What `fit` does besides training: evaluations and the best model, averages, writers, profiles, SIGTERM, other meshes."""

import dataclasses
import importlib.util
import io
import os
import signal
import struct
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxprm.data.examples import step_example
from jaxprm.data.pipeline import StepDataset
from jaxprm.errors import InputError, Stopped
from jaxprm.models import make_mesh, parameters
from jaxprm.objectives import binary_cross_entropy
from jaxprm.progress import LogProgress
from jaxprm.testing import KilledAt, random_solutions, tiny_config, tiny_reward_model
from jaxprm.training import (
    Checkpoints, LoraConfig, OptimizerConfig, ProfileWindow, TrainConfig, fit, read_metrics, step_loss, without_timing)
from jaxprm.training.writers import open_writers

SPEC = importlib.util.spec_from_file_location("tiny_run", Path(__file__).with_name("tiny_run.py"))
tiny_run = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tiny_run)
CONFIG = TrainConfig(steps=8, optimizer=OptimizerConfig(learning_rate=0.1), log_every=4, checkpoint_every=100, keep=1)


def run(directory, config=CONFIG, progress=None, **options):
    return fit(tiny_run.TokenScores(), tiny_run.loss_of, tiny_run.dataset(), config, directory, run={}, progress=progress,
               **options)


def table(model):
    return np.asarray(parameters(model)["table"])


def steps_of(directory):
    return sorted(int(path.name) for path in (directory / "checkpoints").iterdir() if path.name.isdigit())


def graded(grades):
    """An evaluation that gives these grades in turn, and remembers the models."""
    seen, left = [], list(grades)

    def evaluate(model):
        seen.append(table(model))
        return {"grade": left.pop(0), "other": 1.0}

    return evaluate, seen


@pytest.mark.parametrize("best_is, grades, best", [
    ("highest", [0.1, 0.7, 0.7, 0.2], 1), ("lowest", [0.5, float("nan"), 0.3, 0.4], 2), ("highest", [float("nan")] * 4, 3)])
def test_the_best_evaluated_model_is_kept_and_returned(best_is, grades, best, tmp_path):
    config = dataclasses.replace(CONFIG, evaluate_every=2, best_by="grade", best_is=best_is)
    evaluate, seen = graded(grades)
    result = table(run(tmp_path, config, evaluate=evaluate))
    np.testing.assert_array_equal(result, seen[best])
    assert len(seen) == 4 and not np.array_equal(seen[0], seen[1])
    known = not np.isnan(grades).all()
    assert steps_of(tmp_path) == sorted({8} | ({2 * (best + 1)} if known else set()))
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6, 8] and all("loss" in line for line in lines)
    assert [line.get("evaluation/grade") for line in lines] == [None if np.isnan(value) else value for value in grades]
    again = table(run(tmp_path, config, evaluate=graded([])[0]))  # read back: nothing is trained or evaluated
    np.testing.assert_array_equal(again, result)


def test_a_killed_run_remembers_its_best_model(tmp_path):
    config = dataclasses.replace(CONFIG, evaluate_every=2, best_by="grade")
    evaluate, seen = graded([0.9, 0.1])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config, KilledAt(5), evaluate=evaluate)
    assert steps_of(tmp_path) == [2]
    evaluate, _ = graded([0.1, 0.5, 0.8])
    np.testing.assert_array_equal(table(run(tmp_path, config, evaluate=evaluate)), seen[0])
    assert steps_of(tmp_path) == [2, 8]


def test_evaluations_that_cannot_be(tmp_path):
    config = dataclasses.replace(CONFIG, evaluate_every=8)
    with pytest.raises(InputError, match="field 'evaluate_every' = 8: there is nothing to evaluate on; hold problems out"):
        run(tmp_path, config)
    with pytest.raises(InputError, match=r"field 'best_by' = 'auroc': is not a number of the evaluation \(grade, other\)"):
        run(tmp_path, dataclasses.replace(config, best_by="auroc"), evaluate=graded([1.0])[0])


def test_an_average_is_returned_evaluated_and_resumed(tmp_path):
    plain, averaged = CONFIG, dataclasses.replace(CONFIG, ema=0.9, evaluate_every=8, checkpoint_every=3)
    evaluate, seen = graded([1.0])
    result = table(run(tmp_path / "whole", averaged, evaluate=evaluate))
    np.testing.assert_array_equal(result, seen[0])
    last = table(run(tmp_path / "plain", plain))
    assert 0 < np.abs(result).max() < np.abs(last).max()  # behind the parameters, which move away from 0
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", averaged, KilledAt(5), evaluate=evaluate)
    np.testing.assert_array_equal(table(run(tmp_path / "killed", averaged, evaluate=graded([1.0])[0])), result)


def test_sigterm_saves_what_is_done(tmp_path):
    class Terminated(KilledAt):
        def advance(self, n=1, **fields):
            self.done += n
            if self.done == self.step:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="^train: stopped by SIGTERM after step 5 of 8, which is saved; the same command goes on"):
        run(tmp_path / "stopped", progress=Terminated(5))
    assert steps_of(tmp_path / "stopped") == [5] and signal.getsignal(signal.SIGTERM) is before
    result = run(tmp_path / "stopped", progress=KilledAt(99))
    np.testing.assert_array_equal(table(result), table(run(tmp_path / "whole")))
    assert without_timing(read_metrics(tmp_path / "stopped" / "metrics.jsonl")) == without_timing(
        read_metrics(tmp_path / "whole" / "metrics.jsonl"))


def test_checkpoints_say_what_wrote_them(tmp_path):
    run(tmp_path, about={"config_text": "a = 1", "step_format": '{"separator": "<step>"}'})
    about = Checkpoints(tmp_path / "checkpoints", {}).about()
    assert about.pop("jaxprm") and about == {"format": "jaxprm-train-2", "config_text": "a = 1",
                                             "step_format": '{"separator": "<step>"}'}


class Recorded(types.ModuleType):
    """Stands in for the packages of writers."""

    def __init__(self, name):
        super().__init__(name)
        self.calls = []

    def __getattr__(self, name):
        return lambda *positional, **named: self.calls.append((name, positional, named)) or self


def test_writers_get_every_line(tmp_path, monkeypatch):
    recorded = {name: Recorded(name) for name in ("tensorboardX", "wandb")}
    for name, package in recorded.items():
        monkeypatch.setitem(sys.modules, name, package)
    config = dataclasses.replace(CONFIG, writers=("tensorboard", "wandb"), checkpoint_every=4)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "name", config, KilledAt(6))
    run(tmp_path / "name", config)
    lines = read_metrics(tmp_path / "name" / "metrics.jsonl")
    board, wandb = (recorded[name].calls for name in ("tensorboardX", "wandb"))
    opened = [call for call in board if call[0] == "SummaryWriter"]
    assert opened == [("SummaryWriter", (str(tmp_path / "name" / "tensorboard"),),
                       {"purge_step": step, "filename_suffix": f".{done}"}) for step, done in ((None, 0), (5, 4))]
    assert [call[1] for call in board if call[0] == "add_scalar"] == [
        (name, value, line["step"]) for line in lines for name, value in line.items() if name != "step"]
    first, second = [named for name, _, named in wandb if name == "init"]
    assert first == second and first["resume"] == "allow" and first["name"] == "name: train"
    assert [(positional[0] | {"step": named["step"]}) for name, positional, named in wandb if name == "log"] == lines
    assert [call[0] for call in board].count("close") == [call[0] for call in wandb].count("finish") == 2


def test_tensorboard_files_hold_the_numbers(tmp_path):
    """The real package: each record is a length, a checksum, an event, a checksum."""
    events = pytest.importorskip("tensorboardX.proto.event_pb2", reason="the extra tensorboard is not installed")
    for resumed, steps in ((0, (1, 2)), (2, (3,))):
        (writer,) = open_writers(("tensorboard",), tmp_path, "train", resumed)
        for step in steps:
            writer.write(step, {"loss": step / 4, "evaluation/ece": 0.5})
        writer.close()
    found = []
    for file in sorted((tmp_path / "tensorboard").iterdir()):
        content = file.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event = events.Event.FromString(content[12 : 12 + size])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            content = content[16 + size :]
    assert sorted(found) == [(step, name, number) for step in (1, 2, 3)
                             for name, number in (("evaluation/ece", 0.5), ("loss", step / 4))]


@pytest.mark.parametrize("writer, package", [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_is_one_line_before_anything_runs(writer, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"field 'writers' = '{writer}': needs the package {package}; pip install 'jaxprm\["):
        run(tmp_path, dataclasses.replace(CONFIG, writers=(writer,)), KilledAt(1))


def test_a_profile_of_a_window_of_steps(tmp_path, monkeypatch):
    calls, steps = [], KilledAt(99)
    monkeypatch.setattr(jax.profiler, "start_trace", lambda path: calls.append((path, steps.done)))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append(steps.done))
    run(tmp_path / "window", progress=steps, profile=ProfileWindow(2, 3))
    assert calls == [(str(tmp_path / "window" / "profile"), 2), 4]  # the fifth step is not counted yet when the trace ends
    calls.clear()
    run(tmp_path / "cut", progress=steps, profile=ProfileWindow(7, 3))
    assert calls == [(str(tmp_path / "cut" / "profile"), 7), 8]
    assert ProfileWindow.parse("10:5") == ProfileWindow(10, 5)
    for text in ("10", "a:b", "1:-2", ":", ""):
        with pytest.raises(InputError, match="field 'profile' = .*: must be START:COUNT"):
            ProfileWindow.parse(text)
    for window, field in (((0, 0), "count"), ((-1, 1), "start")):
        with pytest.raises(InputError, match=f"field '{field}'"):
            ProfileWindow(*window)


ARCHITECTURE = tiny_config(layers=1)


def train(directory, mesh=None, progress=None, **changes):
    """A real model; checkpoints after steps 2 and 4."""
    examples = [step_example(s.ids, s.step_ends, s.labels) for s in random_solutions(0, 40)]
    data = StepDataset(examples, row_tokens=32, row_steps=8, batch_rows=8, seed=2)
    config = TrainConfig(**(dict(steps=4, optimizer=OptimizerConfig(learning_rate=0.01), log_every=1, checkpoint_every=2)
                            | changes))
    return fit(tiny_reward_model(0, config=ARCHITECTURE), step_loss(binary_cross_entropy), data, config, directory, run={},
               mesh=mesh and make_mesh(*mesh), progress=progress)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    directory = tmp_path_factory.mktemp("single")
    return directory, parameters(train(directory))


def losses(directory):
    return [line["loss"] for line in read_metrics(directory / "metrics.jsonl")]


def test_a_run_goes_on_on_another_mesh(single, tmp_path):
    """From one device to 2 x 2 x 2: the first half to the bit, the second within rounding."""
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, progress=KilledAt(3))
    result = parameters(train(tmp_path, (2, 2, 2)))
    assert losses(tmp_path)[:2] == losses(single[0])[:2]
    np.testing.assert_allclose(losses(tmp_path), losses(single[0]), rtol=1e-4)
    for name, value in single[1].items():
        assert len(result[name].sharding.device_set) == 8
        np.testing.assert_allclose(jax.device_get(result[name]), value, atol=2e-3, err_msg=name)


def test_everything_at_once_on_a_mesh(tmp_path, single):
    """Muon, adapters, micro-batches, average, two stages, bit for bit after a kill."""
    changes = dict(accumulate=2, ema=0.5, lora=LoraConfig(rank=2), optimizer=OptimizerConfig(
        rule="muon", freeze_backbone_steps=1, head_learning_rate=0.1, unfrozen_learning_rate=0.02, decay="wsd"))
    whole = parameters(train(tmp_path / "whole", (2, 2, 2), **changes))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", (2, 2, 2), KilledAt(3), **changes)
    for name, value in parameters(train(tmp_path / "killed", (2, 2, 2), **changes)).items():
        np.testing.assert_array_equal(jax.device_get(value), jax.device_get(whole[name]), err_msg=name)
    lines = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert [line["learning_rate"] for line in lines][:1] == [0.0] and lines[0]["head_learning_rate"] == np.float32(0.1)
    np.testing.assert_allclose(lines[0]["loss"], losses(single[0])[0], rtol=1e-4)


def test_utilisation_is_shown_and_logged_where_the_peak_is_given(tmp_path):
    text = io.StringIO()
    train(tmp_path, progress=LogProgress(text, every=0.0), peak_flops=1e12)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert all(0 < line["mfu"] < 1 for line in lines) and lines[0]["compile_seconds"] > 0
    shown = text.getvalue()
    assert "MFU" in shown and "padding 0." in shown and "tokens/s" in shown and "compiled" in shown and "left" in shown


@pytest.mark.parametrize("changes, field", [
    (dict(steps=0), "steps"), (dict(log_every=0), "log_every"), (dict(checkpoint_every=0), "checkpoint_every"),
    (dict(keep=0), "keep"), (dict(accumulate=0), "accumulate"), (dict(ema=1.0), "ema"),
    (dict(evaluate_every=-1), "evaluate_every"), (dict(best_by="x"), "best_by"), (dict(best_is="best"), "best_is"),
    (dict(writers=("csv",)), "writers"), (dict(peak_flops=0.0), "peak_flops")])
def test_bad_options_are_refused(changes, field, without_type_checks):
    with pytest.raises(InputError, match=f"field '{field}' = "):
        TrainConfig(**changes)
