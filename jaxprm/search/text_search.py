"""The level search over text: any `TextPolicy`, any reward model that `TextReader` reads, the same strategies as on the device.

One level of B problems: every path that goes on is continued by one step, the reward model reads the steps, the strategy says
which paths go on. With equal tokenizers the compiled engine (`jaxprm.search.engine`) gives the same result and is much faster.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxprm.generation.text import Ahead, Part, StepSample, TextPolicy
from jaxprm.scoring.aggregation import Aggregation
from jaxprm.search.budget import Budget
from jaxprm.search.result import best_place
from jaxprm.search.searched import Answered, Node, Searched, tree_warnings
from jaxprm.search.strategies import Level, Strategy
from jaxprm.search.text_models import TextModels, numbers, only_ends, which
from jaxprm.search.text_reader import TextReader
from jaxprm.search.values import path_values


def search_texts(policy: TextPolicy, reader: TextReader, strategy: Strategy, *, max_steps: int, seed: int,
                 aggregation: Aggregation = "min", budget: Budget = Budget()) -> list[Searched]:
    """Searches the problems of ``reader``, whose width is that of the strategy.

    Args:
      policy: writes the steps.
      reader: reads them; a new one for every call.
      strategy: which paths go on.
      max_steps: most levels.
      seed: with a problem's id and text, all that its random numbers follow from.
      aggregation: path value from step scores.
      budget: limits beside ``max_steps``; not of compilations, of which a search through text has none (`Searcher` refuses it).
    """
    return _TextSearch(policy, reader, strategy, max_steps, seed, aggregation, budget).run()


class _TextSearch:
    """B problems, C rows each, between levels."""

    def __init__(self, policy: TextPolicy, reader: TextReader, strategy: Strategy, max_steps: int, seed: int,
                 aggregation: Aggregation, budget: Budget):
        self.reader, self.strategy, self.max_steps = reader, strategy, max_steps
        self.aggregation, self.budget, self.begun = aggregation, budget, time.monotonic()
        problems, wide = len(reader.problems), strategy.rows
        self.part = strategy.partial_tokens
        if self.part >= getattr(policy, "max_step_tokens", math.inf):
            self.part = 0  # steps have ended by then
        self.models = TextModels(policy, reader, seed)
        self.session, self.keys = self.models.session, self.models.keys
        self.state = strategy.init(problems)
        self.scores = np.zeros((problems, wide, max_steps), np.float32)
        self.steps = np.zeros((problems, wide), np.int32)
        self.finished = np.zeros((problems, wide), bool)
        self.alive = np.broadcast_to(np.arange(wide) < strategy.first_rows, (problems, wide)).copy()
        self.texts = np.zeros((problems, wide), np.int32)  # equal for rows that continue the same text
        self.at = np.full((problems, wide), -1)  # node that each row has reached
        self.levels = np.zeros(problems, int)
        self.stopped: list[str | None] = [None] * problems
        self.trees: list[list[Node]] = [[] for _ in reader.problems]
        self.cut = np.zeros(problems, int)  # steps that did not end
        # The same by level and row, for the choice at the end.
        self.values = np.full((problems, max_steps, wide), -np.inf, np.float32)
        self.ended = np.zeros((problems, max_steps, wide), bool)
        self.kept = np.zeros((problems, max_steps, wide), bool)
        self.nodes = np.full((problems, max_steps, wide), -1)

    def run(self) -> list[Searched]:
        for level in range(self.max_steps):
            if all(self.stopped):
                break
            self._level(level)
        seconds = (time.monotonic() - self.begun) / len(self.trees)
        ranked = np.asarray(self.strategy.rank(self.keys, self.values.reshape(len(self.values), -1)))
        ranked = ranked.reshape(self.values.shape)
        return [self._searched(row, ranked[row], seconds) for row in range(len(self.trees))]

    def _level(self, level: int) -> None:
        running = np.array([reason is None for reason in self.stopped])
        drawing = self.alive & ~self.finished & running[:, None]
        samples, scores, completed = self._draw(level, drawing)
        ended = which(samples, lambda sample: sample.ending == "solution")
        self.scores, self.steps = self._with_step(scores)
        usable = self.alive & running[:, None] & (self.finished | completed)
        self.finished = self.finished | (ended & usable)
        first = self._first(samples, usable)
        ahead = self._look_ahead(level, completed & ~ended)
        number = lambda name: jnp.asarray(numbers(samples, name))  # noqa: E731
        found = Level(jnp.zeros(usable.shape), jnp.asarray(self.scores), jnp.asarray(self.steps), jnp.asarray(self.finished),
                      jnp.asarray(first), number("entropy"), number("next_entropy"), number("log_prob"), jnp.int32(level),
                      self.state)
        *decided, self.state = _select(self.strategy, self.keys, found, ahead, usable, self.aggregation)
        values, parents, alive = jax.device_get(decided)
        self._keep(level, samples, scores, values, usable, parents, alive)
        self._go_on(first, usable, parents, alive)
        self.levels += running
        limits = self.models.limits(self.budget, self.levels)
        for row in np.flatnonzero(running).tolist():
            self.stopped[row] = self._why_stopped(row, level + 1, limits[row])
        self.alive[[reason is not None for reason in self.stopped]] = False

    def _draw(self, level: int, drawing: Bool[np.ndarray, "B C"]) -> tuple[list[list[StepSample | None]], Any, Any]:
        """One step of every path that goes on; with early rejection in two parts, the second of the survivors only.

        Returns:
          What was written, scores float32[B, C] (NaN where nothing was read) and which steps are whole and can be used
          bool[B, C]; the steps that were rejected are not, and those of them that went on are their beginnings.
        """
        if not self.part:
            samples = self.models.write(level, drawing)
            scores = self.models.read(samples)
            return samples, scores, ~np.isnan(scores) | which(samples, only_ends)
        begun = self.models.write(level, drawing, part=Part(self.part))
        open_ = which(begun, lambda sample: sample.ending == "begun")
        first = self.models.read(begun, open_)
        can = ~np.isnan(first) | which(begun, only_ends)
        scores, steps = self._with_step(first)
        ended = which(begun, lambda sample: sample.ending == "solution")
        found = Level(jnp.zeros(can.shape), jnp.asarray(scores), jnp.asarray(steps), jnp.asarray(ended),
                      jnp.broadcast_to(jnp.arange(can.shape[1]), can.shape), jnp.zeros(can.shape), jnp.zeros(can.shape),
                      jnp.asarray(numbers(begun, "log_prob")), jnp.int32(level), self.state)
        survivors = np.asarray(_survivors(self.strategy, found, can, self.aggregation))
        rest = self.models.write(level, survivors & open_, part=Part(self.part, rest=True))
        samples = [[new or old for new, old in zip(*rows)] for rows in zip(rest, begun)]
        gone_on = which(rest, lambda sample: True)
        # A whole step has the tokens of its beginning among its own: they are counted once.
        self.models.policy_tokens -= (gone_on * numbers(begun, "tokens")).astype(int).sum(1)
        scores = np.where(gone_on, self.models.read(rest), first)
        return samples, scores, survivors & (gone_on | ~open_) & (~np.isnan(scores) | which(samples, only_ends))

    def _with_step(self, scores: Float[np.ndarray, "B C"]) -> tuple[Float[np.ndarray, "B C S"], Int[np.ndarray, "B C"]]:
        """Scores and number of steps of the paths with the newest one, where there is a score."""
        read = ~np.isnan(scores)
        new = (np.arange(self.max_steps) == self.steps[..., None]) & read[..., None]
        return np.where(new, np.nan_to_num(scores)[..., None], self.scores), self.steps + read

    def _look_ahead(self, level: int, drawing: Bool[np.ndarray, "B C"]) -> Float[np.ndarray, "B C A"]:
        """Scores of the steps drawn behind the newest, NaN where there is none; the paths are as they were."""
        scores = np.full((*drawing.shape, self.strategy.lookahead), np.nan, np.float32)
        if not self.strategy.lookahead or not drawing.any():
            return scores
        marks = self.session.mark(), self.reader.mark()
        for number in range(self.strategy.lookahead):
            samples = self.models.write(level, drawing, Ahead(number, self.strategy.greedy_lookahead))
            scores[..., number] = self.models.read(samples)
            drawing = ~np.isnan(scores[..., number]) & which(samples, lambda sample: sample.ending == "step")
        for part, mark in zip((self.session, self.reader), marks):
            part.back(mark)
        return scores

    def _first(self, samples: Sequence[Sequence[StepSample | None]], usable: Bool[np.ndarray, "B C"]) -> np.ndarray:
        """int32[B, C], the lowest usable candidate with the same text; a candidate that is not usable is its own."""
        first = np.broadcast_to(np.arange(usable.shape[1], dtype=np.int32), usable.shape).copy()
        for row, rows in enumerate(samples):
            seen: dict[tuple[int, str | None], int] = {}
            for place, sample in enumerate(rows):
                if usable[row, place]:
                    said = (int(self.texts[row, place]), None if sample is None else sample.text)
                    first[row, place] = seen.setdefault(said, place)
        return first

    def _keep(self, level: int, samples, scores, values, usable, parents, alive) -> None:
        """Puts the level into the trees."""
        kept = self.kept[:, level]
        for row in range(len(kept)):
            kept[row, parents[row][alive[row]]] = True
        kept &= usable
        for row in np.flatnonzero(usable.any(1) | which(samples, lambda sample: True).any(1)).tolist():
            tree = self.trees[row]
            for place, sample in enumerate(samples[row]):
                good = bool(usable[row, place])
                if sample is not None:
                    score, parent = scores[row, place], int(self.at[row, place])
                    self.at[row, place] = len(tree)
                    tree.append(Node(len(tree), None if parent < 0 else parent, sample.text, sample.tokens,
                                     None if np.isnan(score) else float(score), float(values[row, place]) if good else None,
                                     bool(kept[row, place]), good and bool(self.finished[row, place])))
                    self.cut[row] += sample.ending == "cut"
        self.values[:, level] = np.where(usable, values, -np.inf)
        self.ended[:, level] = self.finished & usable
        self.nodes[:, level] = np.where(usable, self.at, -1)

    def _go_on(self, first, usable, parents, alive) -> None:
        parents = parents.astype(np.int64)
        pick = lambda x: np.take_along_axis(x, parents.reshape(*parents.shape, *[1] * (x.ndim - 2)), axis=1)  # noqa: E731
        self.alive = alive & pick(usable)
        self.scores, self.steps, self.finished, self.at = map(pick, (self.scores, self.steps, self.finished, self.at))
        self.texts = pick(first)
        if self.strategy.reorders:
            self.models.gather(parents)

    def _why_stopped(self, row: int, level: int, limit: str) -> str | None:
        """The reason why a problem goes no further, ``None`` if it does."""
        if not (self.alive[row] & ~self.finished[row]).any():
            return "finished"
        limit = limit or self.budget.reached_on_host(time.monotonic() - self.begun, 0)
        if limit:
            return limit
        return "steps" if level >= self.max_steps else None

    def _searched(self, row: int, ranked: Float[np.ndarray, "S C"], seconds: float) -> Searched:
        last = self.kept[row] & (np.arange(len(ranked)) == self.levels[row] - 1)[:, None]
        best = int(self.nodes[row][best_place(ranked, self.ended[row], last if self.strategy.population else None)])
        tree, nodes = self.trees[row], self.nodes[row]
        ended = [place for place in np.argsort(-self.values[row], axis=None, kind="stable") if self.ended[row].flat[place]]
        ended = dict.fromkeys(int(nodes.flat[place]) for place in ended)  # a path that was kept stands on every later level
        warnings = self.models.warnings(row) + tree_warnings(tree, int(self.cut[row]))
        return Searched(self.reader.problems[row], tuple(tree), tuple(Answered(node, tree[node].value) for node in ended),
                        None if best < 0 else best, self.models.costs(row, seconds), self.stopped[row] or "steps",
                        dict(warnings))


@functools.partial(jax.jit, static_argnames=("strategy", "aggregation"))
def _survivors(strategy: Strategy, found: Level, usable: Bool[Array, "B C"], aggregation: Aggregation) -> Bool[Array, "B C"]:
    """Which of the steps that are ``usable`` so far shall be completed."""
    values = path_values(strategy, found, jnp.zeros((*usable.shape, 0)), usable, aggregation)
    return strategy.survivors(dataclasses.replace(found, values=values), usable)


@functools.partial(jax.jit, static_argnames=("strategy", "aggregation"))
def _select(strategy: Strategy, keys: jax.Array, found: Level, ahead: Float[Array, "B C A"], usable: Bool[Array, "B C"],
            aggregation: Aggregation) -> tuple[Array, Array, Array, Any]:
    """Values as the strategy sees them, parents and alive of its selection, and its state; random numbers as in the compiled
    search."""
    found = dataclasses.replace(found, values=path_values(strategy, found, ahead, usable, aggregation))
    keys = jax.vmap(jax.random.fold_in, (0, None))(jax.vmap(jax.random.fold_in, (0, None))(keys, found.level), strategy.rows)
    selection = strategy.select(keys, found)
    return found.values, selection.parents, selection.alive, selection.state
