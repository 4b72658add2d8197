"""Schedule, decay mask and clipping, in numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprm.errors import InputError
from jaxprm.models import parameters
from jaxprm.testing import tiny_config, tiny_reward_model
from jaxprm.training import OptimizerConfig


def test_schedule_by_hand():
    """100 steps: 10 of warm-up to 0.2, then half a cosine down to a tenth of it; half-way it is the mean of both."""
    schedule = OptimizerConfig(learning_rate=0.2, warmup=0.1, final_rate=0.1).schedule(100)
    np.testing.assert_allclose([schedule(i) for i in (0, 5, 10, 55, 100, 200)], [0, 0.1, 0.2, 0.11, 0.02, 0.02], atol=1e-7)
    constant = OptimizerConfig(learning_rate=0.2, warmup=0.0, final_rate=1.0).schedule(100)
    np.testing.assert_allclose([constant(i) for i in (0, 50, 100)], 0.2, rtol=1e-6)
    rising = OptimizerConfig(learning_rate=0.2, warmup=1.0).schedule(4)
    np.testing.assert_allclose([rising(i) for i in range(4)], [0, 0.05, 0.1, 0.15], atol=1e-7)


def test_decay_leaves_norms_and_biases_alone():
    """With no gradient AdamW only decays: p * (1 - rate * decay), and 1 for norms and biases."""
    config = tiny_config(layers=1, attention_bias=True, output_bias=True, qk_norm=True)
    values = parameters(tiny_reward_model(0, config=config))
    optimizer = OptimizerConfig(learning_rate=0.5, warmup=0.0, final_rate=1.0, weight_decay=0.2).build(10)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, values), optimizer.init(values), values)
    kept = {name for name, update in updates.items() if not np.asarray(update).any()}
    assert kept == {name for name in values if "norm" in name or "bias" in name} and len(kept) == 10
    for name in values.keys() - kept:
        np.testing.assert_allclose(updates[name], -0.1 * values[name], rtol=1e-5)


def test_first_step_is_adam_after_clipping():
    """Adam's first update is -rate * g / (|g| + eps); the moments show the clipped gradient."""
    gradient = {"w": jnp.asarray([3.0, -4.0])}  # norm 5
    for clip, factor in ((1.0, 0.2), (0.0, 1.0), (10.0, 1.0)):
        config = OptimizerConfig(learning_rate=0.1, warmup=0.0, weight_decay=0.0, clip=clip, beta1=0.9, beta2=0.99)
        optimizer = config.build(10)
        updates, state = optimizer.update(gradient, optimizer.init(gradient), gradient)
        np.testing.assert_allclose(updates["w"], [-0.1, 0.1], rtol=1e-4)
        moments = next(part for part in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState))
                       if isinstance(part, optax.ScaleByAdamState))
        np.testing.assert_allclose(moments.mu["w"], 0.1 * factor * gradient["w"], rtol=1e-5)
        np.testing.assert_allclose(moments.nu["w"], 0.01 * (factor * gradient["w"]) ** 2, rtol=1e-5)


@pytest.mark.parametrize("changes, field", [(dict(learning_rate=0.0), "learning_rate"), (dict(warmup=1.5), "warmup"),
                                            (dict(final_rate=-0.1), "final_rate"), (dict(beta1=1.2), "beta1"),
                                            (dict(beta2=-1.0), "beta2"), (dict(weight_decay=-1.0), "weight_decay"),
                                            (dict(clip=-1.0), "clip")])
def test_bad_configs_are_refused(changes, field):
    with pytest.raises(InputError, match=f"field '{field}' = "):
        OptimizerConfig(**changes)
