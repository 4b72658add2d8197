"""Searches over nodes through text: any `TextPolicy`, any reward model that `TextReader` reads, the same rules as compiled.

A session and a reader hold paths in rows. The candidates of a turn are drawn in the first of them, at the places of their keys;
before the next turn those that the search may come back to move to rows of their own:

    rows   [candidates of a turn | prompt | node 1 | node 2 | ...]

With equal tokenizers the compiled search (`jaxprm.search.turns`) gives the same result and is much faster.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxprm.generation.text import StepSample, TextPolicy
from jaxprm.scoring.aggregation import Aggregation
from jaxprm.search.budget import Budget
from jaxprm.search.growth import Candidates, Growth, why_stopped
from jaxprm.search.nodes import NodeStrategy, Said
from jaxprm.search.result import SearchCosts
from jaxprm.search.searched import Searched
from jaxprm.search.text_models import Samples, TextModels, numbers, only_ends, which
from jaxprm.search.text_reader import TextReader


def reader_width(growth: Growth) -> int:
    """Rows per problem that a search needs; those that hold nothing of their own cost nothing."""
    return growth.first_key + growth.width + 1 + growth.turns * growth.width


def search_nodes(policy: TextPolicy, reader: TextReader, strategy: NodeStrategy, *, max_steps: int, seed: int,
                 aggregation: Aggregation = "min", budget: Budget = Budget()) -> list[Searched]:
    """Searches the problems of ``reader``, whose width is `reader_width` of the strategy's growth.

    A step that a policy does not deliver is one that did not end. Where it gives no log-probabilities, all steps are equally
    likely to the priors of a tree search.

    Args:
      policy: writes the steps.
      reader: reads them; a new one for every call.
      strategy: which nodes are continued.
      max_steps: most steps of a solution.
      seed: with a problem's id and text, all that its random numbers follow from.
      aggregation: path value from step scores.
      budget: limits beside those of ``strategy``; ``levels`` counts turns. Not of compilations.
    """
    return _NodeSearch(TextModels(policy, reader, seed), strategy, strategy.growth(max_steps, aggregation), budget).run()


class _NodeSearch:
    """B problems between turns."""

    def __init__(self, models: TextModels, strategy: NodeStrategy, growth: Growth, budget: Budget):
        self.models, self.strategy, self.growth, self.budget = models, strategy, growth, budget
        self.begun, self.problems = time.monotonic(), models.reader.problems
        self.numbers = _begin(growth, len(self.problems))
        self.turns = np.zeros(len(self.problems), int)
        self.said: list[dict[int, StepSample]] = [{} for _ in self.problems]  # by node
        self.candidates = slice(growth.first_key, growth.first_key + growth.width)

    def run(self) -> list[Searched]:
        over = ""
        for turn in range(self.growth.turns):
            limits = self.models.limits(self.budget, self.turns)
            active = ~np.asarray(self.numbers.stopped) & np.array([not limit for limit in limits])
            if not active.any():
                break
            self._turn(turn, active)
            over = self.budget.reached_on_host(time.monotonic() - self.begun, 0)
            if over:
                break
        models, found = self.models, jax.device_get(self.numbers)
        why = why_stopped(np.asarray(found.stopped), models.limits(self.budget, self.turns),
                          "turns" if turn + 1 == self.growth.turns else over)
        costs = SearchCosts(models.policy_tokens, models.reader.tokens, models.session.forwards, models.reader.forwards,
                            models.flops(), time.monotonic() - self.begun, 0)
        result = self.strategy.result(found, why, costs)
        return [self._searched(result, row) for row in range(len(self.problems))]

    def _turn(self, turn: int, active: Bool[np.ndarray, " B"]) -> None:
        growth, rows = self.growth, self.candidates
        sources, drawing, open_ = jax.device_get(_plan(growth, self.numbers, active))
        self._place(turn, sources, open_)
        everywhere = np.zeros((len(active), reader_width(growth)), bool)
        everywhere[:, rows] = drawing
        written = self.models.write(turn, everywhere)
        samples = [row[rows] for row in written]
        first = _first(samples) if growth.siblings else np.ones(drawing.shape, bool)
        everywhere[:, rows] = first
        to_read = [[sample if read else None for sample, read in zip(*row)] for row in zip(written, everywhere)]
        scores = self.models.read(to_read)[:, rows]
        scored = ~np.isnan(scores)
        usable = scored | (first & which(samples, only_ends))
        found = Candidates(np.zeros((*drawing.shape, 0), np.int32), numbers(samples, "tokens").astype(np.int32),
                           numbers(samples, "log_prob"), np.nan_to_num(scores), scored, usable,
                           usable & which(samples, lambda sample: sample.ending == "solution"), self.models.full()[:, rows])
        self.numbers = _grow(growth, self.numbers, jnp.int32(turn), self.models.keys, active, found)
        self.turns += active
        for said, row in zip(self.said, samples):
            said.update((1 + turn * growth.width + place, sample) for place, sample in enumerate(row) if sample is not None)

    def _place(self, turn: int, sources: Int[np.ndarray, "B D"], open_: Bool[np.ndarray, "B N"]) -> None:
        """Nodes to rows of their own (those that are never continued become the prompt), and the sources to the first rows."""
        growth, prompt = self.growth, self.candidates.stop
        at = prompt + np.arange(open_.shape[1])  # row of each node
        if turn:
            at[1 + (turn - 1) * growth.width :][: growth.width] = np.arange(growth.width) + growth.first_key
        head = np.zeros((len(sources), growth.first_key), at.dtype)
        self.models.gather(np.concatenate([head, at[sources], np.where(open_, at, prompt)], axis=1))

    def _searched(self, result, row: int) -> Searched:
        said = {node: Said(one.text, one.tokens, one.ending == "cut", only_ends(one)) for node, one in self.said[row].items()}
        found = result.searched(row, self.problems[row], said, len(self.problems))
        return dataclasses.replace(found, warnings=dict(self.models.warnings(row) + Counter(found.warnings)))


def _first(samples: Samples) -> Bool[np.ndarray, "B D"]:
    """Candidates that are not the copy of an earlier one."""
    first = np.ones((len(samples), len(samples[0])), bool)
    for row, rows in enumerate(samples):
        seen = set()
        for place, sample in enumerate(rows):
            if sample is not None:
                first[row, place] = (sample.text, sample.ending) not in seen
                seen.add((sample.text, sample.ending))
    return first


@functools.partial(jax.jit, static_argnames=("growth", "problems"))
def _begin(growth: Growth, problems: int):
    return growth.first(problems, 0)


@functools.partial(jax.jit, static_argnames="growth")
def _plan(growth: Growth, numbers, active: Bool[Array, " B"]) -> tuple[Array, Array, Array]:
    return *growth.plan(numbers, active), growth.open(numbers)


@functools.partial(jax.jit, static_argnames="growth")
def _grow(growth: Growth, numbers, turn, keys: jax.Array, active: Bool[Array, " B"], found: Candidates):
    return growth.grow(numbers, turn, keys, active, found)
