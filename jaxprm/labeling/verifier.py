"""Exact step labels from the verifier of a task: free, and the truth that other labelers are measured against."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from jaxprm.errors import InputError
from jaxprm.records import Problem, Solution, StepLabels
from jaxprm.tasks.base import StepVerdicts

AfterError = Literal["bad", "ignore", "local"]


@dataclasses.dataclass(frozen=True)
class VerifierLabeler:
    """Labels by a task's own judgement.

    Attributes:
      task: a `jaxprm.tasks.base.Task`.
      after_error: what counts after the first error. "bad": every later step is wrong, for it builds on an error.
        "ignore": later steps are not judged. "local": a later step is right if it follows from what the solution
        wrote before it (`StepVerdicts.valid`).
    """

    task: Any
    after_error: AfterError = "bad"

    def __post_init__(self):
        if self.after_error not in ("bad", "ignore", "local"):
            raise InputError("must be 'bad', 'ignore' or 'local'", field="after_error", value=self.after_error)

    @property
    def made_by(self) -> str:
        """The provenance written into the labels."""
        return f"verifier {type(self.task).__name__}; after_error={self.after_error}"

    def __call__(self, key: Any, problems: Sequence[Problem], solutions: Sequence[Solution]) -> list[StepLabels]:
        """One `StepLabels` per solution; ``solutions[i]`` solves ``problems[i]``. ``key`` is not used: nothing is
        random.

        Raises:
          InputError: the two lists differ in length, or a prompt is none of the task's.
        """
        del key
        if len(problems) != len(solutions):
            raise InputError(f"has {len(solutions)} rows for {len(problems)} problems", field="solutions")
        return [self.label(self.task.judge(problem, solution.steps))
                for problem, solution in zip(problems, solutions, strict=True)]

    def label(self, verdict: StepVerdicts) -> StepLabels:
        """Labels from verdicts: 1.0 before the first error, 0.0 at it, then by ``after_error``."""
        steps, first = len(verdict.valid), verdict.first_error
        if first < 0:
            return StepLabels((1.0,) * steps, -1, self.made_by)
        after = range(first + 1, steps)
        if self.after_error == "local":
            tail = tuple([1.0 if verdict.valid[step] else 0.0 for step in after])
        else:
            tail = (0.0 if self.after_error == "bad" else None,) * len(after)
        return StepLabels((1.0,) * first + (0.0,) + tail, first, self.made_by)
