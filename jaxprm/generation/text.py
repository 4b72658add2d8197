"""Policies that write steps as text: what a search needs where policy and reward model share no token ids.

A `TextPolicy` opens a `TextSession` for a batch of problems: rows that each hold a path of steps. A search lets some rows write
one more step, then says which row the rows of the next level continue. Text crosses the host once per step.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from jaxprm.records import Problem

Ending = Literal["step", "solution", "cut", "begun"]


@dataclasses.dataclass(frozen=True)
class StepSample:
    """One step as a policy wrote it.

    Attributes:
      text: without the separator behind it; "" if the policy wrote none.
      tokens: drawn for it, separator or end token included.
      ending: "step": the solution goes on behind it, "solution": it ends here, "cut": a limit was reached inside the step,
        "begun": it is a beginning and no more was asked for (`Part`).
      log_prob: of its tokens when they were drawn, nats; ``None`` = not known.
      entropy, next_entropy: of the model's own distributions: the mean over its tokens, and that of the token that comes next,
        nats; ``None`` = not known.
    """

    text: str
    tokens: int
    ending: Ending
    log_prob: float | None = None
    entropy: float | None = None
    next_entropy: float | None = None


@dataclasses.dataclass(frozen=True)
class Ahead:
    """A step of lookahead: the ``number``-th behind that of its level (from 0); ``greedy``: of the most likely tokens."""

    number: int
    greedy: bool


@dataclasses.dataclass(frozen=True)
class Part:
    """A step that is drawn in two calls, so that it can be judged by its beginning: at most its first ``tokens``, then the
    ``rest`` of those that were "begun"."""

    tokens: int
    rest: bool = False


@runtime_checkable
class TextSession(Protocol):
    """C paths for each of B problems that grow by steps; at first all are empty.

    Attributes:
      forwards: int[B], how often a model was run (or an endpoint asked) for each problem so far.
      warnings: per problem, what went wrong, counted.
    """

    forwards: Int[np.ndarray, " B"]
    warnings: list[Counter[str]]

    def sample(self, level: int, active: Bool[np.ndarray, "B C"], ahead: Ahead | None = None,
               part: Part | None = None) -> list[list[StepSample | None]]:
        """The next step of every active path; ``None`` for the others, and where the policy gave none (see ``warnings``).

        ``ahead``: it is drawn to see where the path leads, and is taken `back`.
        ``part``: only its beginning; then, of active paths whose step was "begun" in the call before, the whole step.
        """

    def gather(self, parents: Int[np.ndarray, "B C"]) -> None:
        """Path (b, c) now continues what was path (b, parents[b, c])."""

    def mark(self) -> Any:
        """The paths as they are, for `back`."""

    def back(self, mark: Any) -> None:
        """Takes back all steps since ``mark``; no path has been gathered since."""


@runtime_checkable
class TextPolicy(Protocol):
    """Anything that writes solutions step by step."""

    def begin(self, problems: Sequence[Problem], width: int, seed: int) -> TextSession:
        """Paths for a batch of problems. What a problem's paths become depends on ``seed``, its id and its text alone."""


class Paths:
    """The steps of each row, kept on the host: what sessions without a state on a device are made of.

    Attributes:
      steps: of each row.
      newest: what was appended last, beginnings of steps among it.
    """

    def __init__(self, problems: int, width: int):
        self.steps: list[list[tuple[str, ...]]] = [[()] * width for _ in range(problems)]
        self.newest: Sequence[Sequence[StepSample | None]] = [[None] * width for _ in range(problems)]

    def append(self, samples: Sequence[Sequence[StepSample | None]]) -> None:
        """Adds the steps that were written; paths without one, or with its beginning only, stay as they are."""
        self.newest = samples
        self.steps = [[steps if sample is None or sample.ending == "begun" else (*steps, sample.text)
                       for steps, sample in zip(rows, new, strict=True)]
                      for rows, new in zip(self.steps, samples, strict=True)]

    def gather(self, parents: Int[np.ndarray, "B C"]) -> None:
        self.steps = [[rows[parent] for parent in chosen] for rows, chosen in zip(self.steps, parents.tolist(), strict=True)]


def problem_seed(problem: Problem) -> int:
    """31 bits from a problem's id and text: what random numbers of a problem follow from, wherever it stands in a batch."""
    return int.from_bytes(hashlib.blake2b(f"{problem.id}\n{problem.prompt}".encode(), digest_size=4).digest(), "big") >> 1
