"""What a search may cost and what it has cost: tokens, forward passes and arithmetic, counted per problem on the device."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxprm.errors import InputError
from jaxprm.models.config import TransformerConfig


@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits of a search; None = no limit. A problem stops after the first level at which it has reached one of them, so it
    overshoots by less than one level.

    Attributes:
      policy_tokens: tokens the policy draws for a problem, those of discarded candidates included.
      reward_tokens: tokens the reward model reads for a problem, its prompt included.
      forwards: forward passes of both models in which a problem takes part (see `SearchCosts`).
      flops: floating-point operations of both models for a problem, prompts included.
      levels: levels of a problem.
      seconds: wall time of the whole call, checked on the host after every level.
      compilations: programs that are compiled for the whole call, checked likewise. With a limit on the
        host, a search whose shapes are new needs one for the prompts and the first level, and one for the others.
    """

    policy_tokens: int | None = None
    reward_tokens: int | None = None
    forwards: int | None = None
    flops: float | None = None
    levels: int | None = None
    seconds: float | None = None
    compilations: int | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise InputError("must be positive, or None for no limit", field=field.name, value=value)

    @property
    def on_host(self) -> bool:
        """Whether there is a limit that is checked on the host, level by level."""
        return self.seconds is not None or self.compilations is not None

    def reached_on_host(self, seconds: float, compilations: int) -> str:
        """The name of the limit that so much reaches, "" if there is none."""
        spent = {"seconds": seconds, "compilations": compilations}
        return next((name for name, value in spent.items() if value >= (getattr(self, name) or math.inf)), "")


LIMITS = ("policy_tokens", "reward_tokens", "forwards", "flops", "levels")
"""The limits that are checked on the device, in the order in which they are named as the reason of a stop."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spent:
    """Running counts of B problems."""

    policy_tokens: Int[Array | np.ndarray, " B"]
    reward_tokens: Int[Array | np.ndarray, " B"]
    policy_forwards: Int[Array | np.ndarray, " B"]
    reward_forwards: Int[Array | np.ndarray, " B"]
    flops: Float[Array | np.ndarray, " B"]
    levels: Int[Array | np.ndarray, " B"]

    def reached(self, limits: Float[Array, " 5"]) -> Int[Array, " B"]:
        """1 + place in `LIMITS` of the first limit that is reached, 0 where none is."""
        counts = jnp.stack([self.policy_tokens, self.reward_tokens, self.policy_forwards + self.reward_forwards, self.flops,
                            self.levels]).astype(jnp.float32)
        over = counts >= limits[:, None]
        return jnp.where(over.any(0), 1 + jnp.argmax(over, axis=0), 0).astype(jnp.int32)


def no_costs(policy: TransformerConfig, reward: TransformerConfig | None, prompts: Int[Array, " B"], longest: int) -> Spent:
    """Counts after both models have read the prompts; without ``reward`` the policy is its own reward model."""
    none, readers = jnp.zeros_like(prompts), (policy,) if reward is None else (policy, reward)
    flops = sum(read_flops(config, none, prompts, longest, vocabulary=False) for config in readers)
    flops += 2.0 * policy.width * policy.vocab_size
    return Spent(none, none if reward is None else prompts, none + 1, none + len(readers) - 1, flops, none)


def spend(policy: TransformerConfig, reward: TransformerConfig, spent: Spent, start: Int[Array, "B C"],
          drawn: Int[Array, "B C"], read: Int[Array, "B C"], longest: int) -> Spent:
    """Counts after one more step: tokens drawn and read by each row of a problem behind ``start`` others."""
    flops = read_flops(policy, start, drawn, longest, vocabulary=True) + read_flops(reward, start, read, longest,
                                                                                    vocabulary=False)
    return Spent(spent.policy_tokens + drawn.sum(1), spent.reward_tokens + read.sum(1), spent.policy_forwards + drawn.max(1),
                 spent.reward_forwards + (read > 0).any(1), spent.flops + flops.sum(1), spent.levels)


def read_flops(config: TransformerConfig, start: Int[Array, "..."], lengths: Int[Array, "..."], longest: int,
               vocabulary: bool) -> Float[Array, "..."]:
    """FLOPs of reading ``lengths`` tokens after ``start`` others, as `training_flops` counts a forward pass: 2 per weight, and
    ``4 N H`` per query and key that it reads in each layer; heads, norms and softmax are left out.

    Args:
      longest: no length is larger.
      vocabulary: next-token logits are computed at every token.
    """
    place = jnp.arange(longest)
    position = (start[..., None] + place).astype(jnp.float32)
    keys = sum(jnp.minimum(position + 1, window or jnp.inf) for window in config.windows or (0,) * config.layers)
    weights = 2.0 * config.matmul_parameters + (2.0 * config.width * config.vocab_size if vocabulary else 0.0)
    cost = weights + 4.0 * config.heads * config.head_dim * keys
    return jnp.where(place < lengths[..., None], cost, 0.0).sum(-1)
