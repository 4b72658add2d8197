"""`fit` on a mesh: the numbers of one device, resumed bit for bit."""

import jax
import numpy as np
import pytest

from jaxprm.data.examples import step_example
from jaxprm.data.pipeline import StepDataset
from jaxprm.models import make_mesh, parameter_shardings, parameters
from jaxprm.objectives import binary_cross_entropy
from jaxprm.testing import KilledAt, random_solutions, tiny_config, tiny_reward_model
from jaxprm.training import OptimizerConfig, TrainConfig, fit, read_metrics, step_loss

CONFIG = TrainConfig(steps=6, optimizer=OptimizerConfig(learning_rate=0.01), log_every=1, checkpoint_every=2)


def train(directory, mesh, progress=None):
    examples = [step_example(s.ids, s.step_ends, s.labels) for s in random_solutions(0, 40)]
    data = StepDataset(examples, row_tokens=32, row_steps=8, batch_rows=8, seed=2)
    model = tiny_reward_model(0, config=tiny_config(layers=1))
    return fit(model, step_loss(binary_cross_entropy), data, CONFIG, directory, run={}, mesh=mesh, progress=progress)


def test_sharded_and_resumed(tmp_path):
    mesh = make_mesh(2, 2, 2)
    whole = train(tmp_path / "whole", mesh)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", mesh, KilledAt(5))
    resumed = train(tmp_path / "killed", mesh)
    for name, value in parameters(whole).items():
        assert value.sharding == parameter_shardings([name], mesh)[name]
        assert parameters(resumed)[name].sharding == value.sharding
        np.testing.assert_array_equal(jax.device_get(parameters(resumed)[name]), jax.device_get(value), err_msg=name)
    single = train(tmp_path / "single", None)
    losses = {name: [line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl")]
              for name in ("whole", "killed", "single")}
    assert losses["whole"] == losses["killed"] and len(losses["whole"]) == 6
    np.testing.assert_allclose(losses["whole"], losses["single"], rtol=1e-4)
    for name, value in parameters(single).items():
        np.testing.assert_allclose(jax.device_get(parameters(whole)[name]), value, atol=2e-3, err_msg=name)
