"""What the paths of a level are compared by, on the device and through text alike."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxprm.scoring.aggregation import Aggregation, aggregate
from jaxprm.search.strategies.base import Level, Strategy


def path_values(strategy: Strategy, found: Level, ahead: Float[Array, "B C A"], usable: Bool[Array, "B C"],
                aggregation: Aggregation) -> Float[Array, "B C"]:
    """Values of paths, -inf where they are not usable; scores ``ahead`` of lookahead steps (NaN where there is none) count
    as if the path had taken them."""
    place = jnp.arange(found.scores.shape[-1] + ahead.shape[-1])
    scores, steps = found.scores, found.steps
    if ahead.shape[-1]:
        scores = jnp.concatenate([scores, jnp.zeros_like(ahead)], axis=-1)
        for index in range(ahead.shape[-1]):
            there = ~jnp.isnan(ahead[..., index])
            scores = jnp.where((place == steps[..., None]) & there[..., None], ahead[..., index, None], scores)
            steps = steps + there
    values = aggregate(scores, place < steps[..., None], aggregation)
    longer = dataclasses.replace(found, scores=scores, steps=steps, values=values)
    return jnp.where(usable, strategy.value(longer), -jnp.inf)
