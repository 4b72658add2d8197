"""The loop: kill and resume bit for bit, refusals in one line, one compilation."""

import importlib.util
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.errors import Diverged, InputError
from jaxprm.models import parameters
from jaxprm.objectives import Loss
from jaxprm.testing import KilledAt
from jaxprm.training import OptimizerConfig, TrainConfig, fit, read_metrics, without_timing

RUN = {"config": "abc"}
CONFIG = TrainConfig(steps=12, optimizer=OptimizerConfig(learning_rate=0.1), log_every=3, checkpoint_every=4)


SPEC = importlib.util.spec_from_file_location("tiny_run", Path(__file__).with_name("tiny_run.py"))
tiny_run = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tiny_run)
TokenScores, loss_of, dataset = tiny_run.TokenScores, tiny_run.loss_of, tiny_run.dataset


def run(directory, progress=None, config=CONFIG, identity=RUN, loss=loss_of, data=None):
    return fit(TokenScores(), loss, dataset() if data is None else data, config, directory, run=identity, progress=progress)


def deterministic(directory):
    return without_timing(read_metrics(directory / "metrics.jsonl"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    return directory, parameters(run(directory))


def test_training_learns_and_logs(uninterrupted):
    directory, values = uninterrupted
    lines = read_metrics(directory / "metrics.jsonl")
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    assert set(lines[0]) == {"step", "loss", "gradient_norm", "accuracy", "positives", "learning_rate", "tokens_per_second",
                             "compile_seconds", "padding_share"}
    assert lines[-1]["loss"] < lines[0]["loss"] <= np.log(2) + 0.2 and 0 <= lines[0]["padding_share"] < 1
    np.testing.assert_allclose(lines[1]["learning_rate"], float(CONFIG.optimizer.schedule(12)(5)), rtol=1e-6)
    assert np.abs(values["table"]).max() > 0.1


def test_killed_and_resumed_equals_uninterrupted(uninterrupted, tmp_path):
    """Checkpoints are at 4, 8 and 12. A kill at 7 leaves a metrics line of step 6 that step 4 has not written yet."""
    for step in (2, 7, 11):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, KilledAt(step))
    values = parameters(run(tmp_path))
    for name, value in uninterrupted[1].items():
        np.testing.assert_array_equal(values[name], value)
    assert deterministic(tmp_path) == deterministic(uninterrupted[0])
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()) == [8, 12]


def test_a_finished_run_is_read_back_without_training(uninterrupted, tmp_path):
    directory, values = uninterrupted
    shutil.copytree(directory, tmp_path / "copy")
    again = run(tmp_path / "copy", KilledAt(1))
    for name, value in values.items():
        np.testing.assert_array_equal(parameters(again)[name], value)


def one_line(error, *parts):
    text = str(error.value)
    assert "\n" not in text and all(part in text for part in parts), text


def test_a_checkpoint_of_another_run_is_refused(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted[0], tmp_path / "copy")
    before = (tmp_path / "copy" / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError) as error:
        run(tmp_path / "copy", identity={"config": "other"})
    one_line(error, "checkpoints/12", "'config': 'abc'", "'config': 'other'", "start the run in another directory")
    with pytest.raises(InputError) as error:
        run(tmp_path / "copy", identity={"config": "abc", "tokenizer": "f"})
    one_line(error, "checkpoints/12", "start the run in another directory")
    assert (tmp_path / "copy" / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("damage", ["state", "run", "everything"])
def test_a_damaged_checkpoint_is_one_line(damage, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted[0], tmp_path / "copy")
    place = tmp_path / "copy" / "checkpoints" / "12"
    for path in sorted(place.rglob("*"), reverse=True):
        if path.is_file() and (damage == "everything" or damage in path.relative_to(place).parts):
            path.unlink() if damage != "everything" else path.write_bytes(b"foreign")
    with pytest.raises(InputError) as error:
        run(tmp_path / "copy")
    one_line(error, "checkpoints/12", "start the run in another directory")


def broken(what):
    """A loss that is not finite from a step on; the bias is 0 up to the second step, since the first has learning rate 0."""
    def loss_with(model, batch):
        loss = loss_of(model, batch)
        late = model.bias[0] != 0
        if what == "loss":
            return Loss(loss.total * jnp.where(late, jnp.nan, 1.0), loss.weight, loss.metrics)
        hidden = jnp.sqrt(jnp.where(late, 0.0, 1.0) * (1 + 0 * model.bias[0]))  # d sqrt(x) / dx at 0 is not finite, sqrt(0) is
        return Loss(loss.total + 0 * hidden * late, loss.weight, loss.metrics)

    return loss_with


@pytest.mark.parametrize("what, message", [("loss", "loss is nan"), ("gradient", r"gradient norm is nan \(loss 0\.\d+\)")])
def test_a_number_that_is_not_finite_stops_the_run_with_its_batch(tmp_path, what, message):
    config = TrainConfig(steps=12, optimizer=OptimizerConfig(warmup=0.1), log_every=12, checkpoint_every=2)
    with pytest.raises(Diverged, match=f"^train: {message} at step 3; its batch is in .*; look for bad labels"):
        run(tmp_path, config=config, loss=broken(what))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()] == ["2"]
    batches = iter(dataset())
    third = [next(batches) for _ in range(3)][2]
    with np.load(tmp_path / "nonfinite_step_3.npz") as kept:
        assert kept["step"] == 3 and not np.isfinite(kept["gradient_norm"])
        assert np.isfinite(kept["loss"]) == (what == "gradient")
        for name, value in third.items():
            np.testing.assert_array_equal(kept[f"batch_{name}"], value, err_msg=name)


def test_data_that_end_early_are_one_line(tmp_path):
    data = dataset(epochs=1)
    batches = len(list(data))
    assert batches < 12
    with pytest.raises(InputError) as error:
        run(tmp_path, data=data)
    one_line(error, "field 'steps' = 12", f"the data end after {batches} of 12 steps")


def test_one_compilation(tmp_path):
    count = 0

    def counted(model, batch):
        nonlocal count
        count += 1
        return loss_of(model, batch)

    run(tmp_path, loss=counted)
    assert count == 1


@pytest.mark.parametrize("field", ["steps", "log_every", "checkpoint_every"])
def test_bad_configs_are_refused(field):
    with pytest.raises(InputError, match=f"field '{field}' = 0: must be at least 1"):
        TrainConfig(**{field: 0})


def test_metrics_are_json_lines(uninterrupted):
    text = (uninterrupted[0] / "metrics.jsonl").read_text()
    assert text.endswith("\n") and all(json.loads(line)["step"] for line in text.splitlines())
