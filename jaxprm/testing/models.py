"""Models small enough for a test, with no parameter at a value (zero bias, unit scale) that hides it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxprm.models import HeadConfig, LanguageModel, RewardModel, TransformerConfig, parameters, with_parameters
from jaxprm.models.reward_model import HeadKind

Model = TypeVar("Model", bound=nnx.Module)


def tiny_config(**changes: Any) -> TransformerConfig:
    """Two layers of width 16, four query heads on two key/value heads of size 8, 20 tokens, context 64."""
    return TransformerConfig(**{**dict(vocab_size=20, width=16, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_dim=24,
                                        context=64), **changes})


def random_model(build: Callable[[], Model], seed: int, deviation: float = 0.3) -> Model:
    """A model with normal parameters, drawn by NumPy (nothing is compiled); scales of norms lie around 1, the rest around 0."""
    abstract = jax.eval_shape(build)
    rng = np.random.default_rng(seed)
    return with_parameters(abstract, {
        name: jnp.asarray(name.endswith("scale") + deviation * rng.standard_normal(value.shape), value.dtype)
        for name, value in parameters(abstract).items()})


def tiny_language_model(seed: int = 0, config: TransformerConfig | None = None) -> LanguageModel:
    """A random language model whose next-token distributions are neither flat nor certain."""
    return random_model(lambda: LanguageModel(config or tiny_config(), rngs=nnx.Rngs(0)), seed)


def tiny_reward_model(seed: int = 0, head: HeadKind | HeadConfig = "scalar",
                      config: TransformerConfig | None = None) -> RewardModel:
    """A random reward model whose scores spread over their range."""
    head = head if isinstance(head, HeadConfig) else HeadConfig(head)
    return random_model(lambda: RewardModel(config or tiny_config(), head, rngs=nnx.Rngs(0)), seed)
