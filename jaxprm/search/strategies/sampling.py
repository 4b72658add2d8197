"""Strategies without a beam: independent samples, resampled particles, and forks where the policy is uncertain."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxprm.errors import InputError
from jaxprm.search.strategies.base import Level, Selection, Strategy, best_first, check_choice, check_positive, repeat

Resampling = Literal["multinomial", "systematic"]
Choice = Literal["best", "sample"]
Reading = Literal["next", "step"]
_CLIP = 1e-7
"""Values are kept this far from 0 and 1 before their logit is taken (its_hub)."""


@dataclasses.dataclass(frozen=True)
class BestOfN(Strategy):
    """Every path is continued by itself; the best finished one is the answer.

    A vote over the finished paths (`solutions`) makes self-consistency or a weighted vote of it, see `scoring.votes`.
    """

    samples: int = 8
    name: ClassVar[str] = "best_of_n"
    reorders: ClassVar[bool] = False

    def __post_init__(self):
        check_positive(self, "samples")

    @property
    def rows(self) -> int:
        return self.samples

    def select(self, keys: jax.Array, level: Level) -> Selection:
        return Selection(jnp.broadcast_to(jnp.arange(self.samples, dtype=jnp.int32), level.values.shape), level.usable)


@dataclasses.dataclass(frozen=True)
class Particle(Strategy):
    """Particle filtering (Puri et al. 2025, arXiv:2502.01618; its_hub): after each step the particles are drawn anew, with
    replacement and weights

        w = softmax(logit(value) / temperature)         at temperature 1 in proportion to value / (1 - value)

    A particle that has ended keeps its value and is drawn like the others; its copies cost nothing. Values are probabilities;
    its_hub's is the newest score (aggregation "last").

    Attributes:
      particles: C.
      temperature: of the weights; towards 0 all particles continue the best, towards infinity all weights are equal.
      resampling: ``multinomial`` draws each particle on its own (its_hub); ``systematic`` draws one number for all, so that a
        particle of weight w is drawn either floor(C w) or ceil(C w) times.
      choose: the answer among the last particles: the ``best``, or a ``sample`` by weight.
    """

    particles: int = 8
    temperature: float = 1.0
    resampling: Resampling = "multinomial"
    choose: Choice = "best"
    name: ClassVar[str] = "particle"
    population: ClassVar[bool] = True

    def __post_init__(self):
        check_positive(self, "particles")
        if not self.temperature > 0:
            raise InputError("must be positive", field="temperature", value=self.temperature)
        check_choice(self, "resampling", Resampling)
        check_choice(self, "choose", Choice)

    @property
    def rows(self) -> int:
        return self.particles

    def select(self, keys: jax.Array, level: Level) -> Selection:
        shape = (self.particles,) if self.resampling == "multinomial" else ()
        uniforms = jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)
        if self.resampling == "systematic":
            uniforms = (jnp.arange(self.particles) + uniforms[:, None]) / self.particles
        parents = inverse_cdf(particle_weights(level.values, self.temperature), uniforms)
        return Selection(parents, jnp.broadcast_to(level.usable.any(1)[:, None], parents.shape))

    def rank(self, keys: jax.Array, values: Float[np.ndarray, "B N"]) -> Float[Array | np.ndarray, "B N"]:
        if self.choose == "best":
            return values
        noise = jax.vmap(lambda key: jax.random.gumbel(key, values.shape[1:]))(keys)
        return np.where(values > -np.inf, _logits(jnp.asarray(values), self.temperature) + noise, -np.inf)


def _logits(values: Array, temperature: float) -> Array:
    return (jnp.log(jnp.maximum(values, _CLIP)) - jnp.log(jnp.maximum(1 - values, _CLIP))) / temperature


def particle_weights(values: Float[Array, "B C"], temperature: float = 1.0) -> Float[Array, "B C"]:
    """softmax(logit(value) / temperature) over the particles of a problem; 0 for those that are not usable (-inf).

      In:   [.9, .5, .1]
      Out:  [.8901, .0989, .0110]
    """
    logits = jnp.where(values > -jnp.inf, _logits(values, temperature), -jnp.inf)
    return jax.nn.softmax(jnp.where((values > -jnp.inf).any(1, keepdims=True), logits, 0.0), axis=1)


def inverse_cdf(weights: Float[Array, "B C"], uniforms: Float[Array, "B N"]) -> Int[Array, "B N"]:
    """The particle into whose share of [0, total) each number in [0, 1) falls.

      In:   weights [.5, 0, .5], uniforms [.2, .5, .9]
      Out:  [0, 2, 2]
    """
    edges = jnp.cumsum(weights, axis=1)
    place = (edges[:, None] <= (uniforms * edges[:, -1:])[..., None]).sum(-1)
    heaviest = jnp.argmax(weights, axis=1)[:, None]  # rounding may put a number on the last edge; a particle of weight 0 is no
    past = place >= weights.shape[1]                 # place to fall back to
    return jnp.where(past, heaviest, place).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class EntropyBranching(Strategy):
    """Forks where the policy is uncertain (EDU-PRM, arXiv:2503.22233, forks at tokens of high entropy; here at the ends of
    steps): a path is continued by ``branches`` rows where the entropy is above the threshold, else by one.

    Paths that have ended leave. Where the forks ask for more than ``paths`` rows, the best paths get theirs.

    Attributes:
      paths: C, most paths at once.
      branches: rows of a fork, and of the prompt.
      threshold: nats.
      reading: the entropy of the ``next`` token behind the step, or the mean over the tokens of the ``step``.
    """

    paths: int = 8
    branches: int = 2
    threshold: float = 1.0
    reading: Reading = "next"
    name: ClassVar[str] = "entropy_branching"
    entropies: ClassVar[bool] = True

    def __post_init__(self):
        check_positive(self, "paths", "branches")
        if self.branches > self.paths:
            raise InputError(f"must not exceed the {self.paths} paths", field="branches", value=self.branches)
        if not self.threshold >= 0:
            raise InputError("must not be negative", field="threshold", value=self.threshold)
        check_choice(self, "reading", Reading)

    @property
    def rows(self) -> int:
        return self.paths

    @property
    def first_rows(self) -> int:
        return self.branches

    def select(self, keys: jax.Array, level: Level) -> Selection:
        values = jnp.where(level.finished, -jnp.inf, level.values)
        order = best_first(keys, values)
        uncertain = level.next_entropy if self.reading == "next" else level.entropy
        wanted = jnp.where(values > -jnp.inf, jnp.where(uncertain > self.threshold, self.branches, 1), 0)
        return Selection(*repeat(order, wanted, self.paths))

