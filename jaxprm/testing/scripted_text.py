"""A policy that is a function: for tests of searches, and for programs that write solutions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxprm.generation.text import Ahead, Part, Paths, StepSample, problem_seed
from jaxprm.records import Problem


class ScriptedTextPolicy:
    """A policy that is a function, for tests and for programs that write solutions.

        policy = ScriptedTextPolicy(lambda problem, steps, rng: StepSample("so 2", tokens=2, ending="solution"))
        prm = load_prm("runs/prm800k")
        found = Searcher(policy, prm.model, prm.encoder, SearchSettings(Beam(2, 2))).run([Problem("p", "1 + 1")])

    Args:
      write: (problem, steps so far, random numbers) -> the next step, or ``None`` if there is none to be had.

    A path draws from ``default_rng((seed, problem_seed(problem), level, place))``, with the number of the step added in
    lookahead: nothing else reaches ``write``. The first n tokens of a step, where they are asked for, are its first n words.
    """

    def __init__(self, write: Callable[[Problem, tuple[str, ...], np.random.Generator], StepSample | None]):
        self.write = write

    def begin(self, problems: Sequence[Problem], width: int, seed: int) -> _ScriptedSession:
        return _ScriptedSession(self.write, problems, width, seed)


class _ScriptedSession:
    def __init__(self, write, problems: Sequence[Problem], width: int, seed: int):
        self._write, self._problems, self._seed = write, list(problems), seed
        self._paths = Paths(len(problems), width)
        self._whole: list[list[StepSample | None]] = []  # the steps that were begun
        self.forwards = np.zeros(len(problems), np.int64)
        self.warnings = [Counter() for _ in problems]

    def sample(self, level: int, active: Bool[np.ndarray, "B C"], ahead: Ahead | None = None,
               part: Part | None = None) -> list[list[StepSample | None]]:
        further = () if ahead is None else (1 + ahead.number,)
        samples: list[list[StepSample | None]] = []
        for row, problem in enumerate(self._problems):
            name = problem_seed(problem)
            if part is not None and part.rest:
                samples.append([step if active[row, place] else None for place, step in enumerate(self._whole[row])])
            else:
                samples.append([self._write(problem, steps, np.random.default_rng((self._seed, name, level, place, *further)))
                                if active[row, place] else None for place, steps in enumerate(self._paths.steps[row])])
            self.forwards[row] += bool(active[row].any())
        if part is not None and not part.rest:
            self._whole, samples = samples, [[_beginning(sample, part.tokens) for sample in rows] for rows in samples]
        self._paths.append(samples)
        return samples

    def gather(self, parents: Int[np.ndarray, "B C"]) -> None:
        self._paths.gather(parents)

    def mark(self) -> Any:
        return self._paths.steps

    def back(self, mark: Any) -> None:
        self._paths.steps = mark


def _beginning(step: StepSample | None, tokens: int) -> StepSample | None:
    if step is None or step.tokens <= tokens:
        return step
    return StepSample(re.match(rf"(?:\s*\S+){{,{tokens}}}", step.text).group(), tokens, "begun")
