"""Several sources in one stream by weight: deterministic, each source shuffled and repeated by itself.

    sources a (weight 2), b (weight 1)   ->   a0 b0 a1 a2 b1 a3 a4 b0' a5 ...      b is smaller and comes again

A source's weight is how often one of its solutions is drawn, not its share of tokens or labels; `shares` says what that
makes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import grain
import numpy as np

from jaxprm.data.examples import Example
from jaxprm.errors import InputError

RESOLUTION = 100
"""Draws of the source with the smallest weight within one cycle of the mixture: its weight is met exactly, that of a source
of weight w to within one draw of ``RESOLUTION * w``."""


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """One source of a mixture of examples; ``weight`` is relative to those of the others."""

    name: str
    examples: Sequence[Example]
    weight: float = 1.0

    def __post_init__(self):
        if not 0 < self.weight < math.inf:
            raise InputError("must be positive and finite", field=f"weight of '{self.name}'", value=self.weight)


def proportions(weights: Sequence[float]) -> list[int]:
    """Draws per cycle of each source."""
    smallest = min(weights)
    if max(weights) / smallest > 10**6:
        raise InputError("are more than a factor of 1,000,000 apart", field="weight", value=list(weights))
    return [round(RESOLUTION * weight / smallest) for weight in weights]


def mix(datasets: Sequence[grain.MapDataset], weights: Sequence[float]) -> grain.MapDataset:
    """One dataset from several endless ones; a single one is given back as it is."""
    # grain cuts weights to hundredths of the smallest one; those of `proportions` are whole hundredths already.
    return datasets[0] if len(datasets) == 1 else grain.MapDataset.mix(datasets, proportions(weights))


def draws(weights: Sequence[float], count: int) -> list[int]:
    """How many of the first ``count`` solutions of the stream come from each source.

    grain's order in closed form: of the first k, the first source gives k - floor(k * (rest - p) / rest), and so on with
    what it leaves (the selection in ``grain.MapDataset.mix``; compared with it in the tests).
    """
    if len(weights) == 1:
        return [count]
    parts, found = proportions(weights), []
    rest, left = sum(parts), count
    for part in parts:
        behind = left * (rest - part) // rest
        found.append(left - behind)
        rest, left = rest - part, behind
    return found


def shares(parts: Sequence[Part], tables: Sequence[np.ndarray], count: int) -> dict[str, dict[str, float]]:
    """What each source contributes to the first ``count`` solutions of the stream.

    Args:
      tables: `jaxprm.data.example_table.TABLE` of each part.

    Returns:
      Name -> ``weight`` (its share as configured), ``solutions`` (in the source), ``drawn``, ``share`` (of the drawn),
      ``epochs`` (drawn / solutions), ``tokens`` and ``labels`` (shares; each solution of a source is as long as its mean).
    """
    weights = [part.weight for part in parts]
    drawn = draws(weights, count)
    tokens, labels = ([n * float(table[name].mean()) for n, table in zip(drawn, tables)] for name in ("tokens", "weight"))
    return {part.name: {
        "weight": part.weight / sum(weights), "solutions": len(table), "drawn": n, "share": n / max(count, 1),
        "epochs": n / len(table), "tokens": t / max(sum(tokens), 1e-9), "labels": w / max(sum(labels), 1e-9)}
        for part, table, n, t, w in zip(parts, tables, drawn, tokens, labels)}


def mixed_lengths(parts: Sequence[Part], tables: Sequence[np.ndarray], count: int,
                  seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and steps, int32[count] each, of solutions as the mixture draws them, in random order."""
    generator = np.random.default_rng(seed)
    drawn = draws([part.weight for part in parts], count)
    chosen = [table[np.resize(generator.permutation(len(table)), n)] for n, table in zip(drawn, tables)]
    order = generator.permutation(count)
    return tuple(np.concatenate([rows[name] for rows in chosen])[order] for name in ("tokens", "steps"))
