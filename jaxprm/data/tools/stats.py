"""Counts over labelled solutions that show what a set would teach, in bounded memory."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from jaxprm.data.solutions import problem_hash
from jaxprm.data.tools.source import Errors, HashSet, Source
from jaxprm.records import LabeledSolution

SEPARATORS = {"blank line": "\n\n", "ки": "ки", "<extra_0>": "<extra_0>", "[PRM]": "[PRM]"}
"""Texts that formats end a step with; inside a step they make a reader see more steps than there are."""

_NAMES = 1000  # distinct generators and label makers that are counted apart


@dataclasses.dataclass
class Statistics:
    """See `statistics`; every count is of solutions or steps, lengths are in steps and characters."""

    rows: int = 0
    solutions: int = 0
    problems: int = 0
    unreadable: int = 0
    steps: int = 0
    steps_per_solution: dict[str, float] = dataclasses.field(default_factory=dict)
    characters_per_solution: dict[str, float] = dataclasses.field(default_factory=dict)
    good: int = 0
    bad: int = 0
    soft: int = 0
    unjudged: int = 0
    with_error: int = 0
    clean: int = 0
    unknown: int = 0
    first_error_place: dict[str, float] = dataclasses.field(default_factory=dict)
    errors_at_last_step: float | None = None
    final_correct: dict[str, int] = dataclasses.field(default_factory=dict)
    generators: dict[str, int] = dataclasses.field(default_factory=dict)
    made_by: dict[str, int] = dataclasses.field(default_factory=dict)
    separators_inside_steps: dict[str, int] = dataclasses.field(default_factory=dict)
    empty_steps_dropped: int = 0

    def warnings(self) -> list[str]:
        """What a reader of these numbers should not overlook."""
        found = []
        if (self.errors_at_last_step or 0) > 0.9 and self.with_error >= 20:
            found.append(f"{self.errors_at_last_step:.0%} of the first errors are at the last step: a model can learn the "
                         "place instead of the error")
        judged = self.good + self.bad + self.soft
        if self.solutions and not judged:
            found.append("no step is judged: is this the right format (--format)?")
        if judged and self.good / judged > 0.95:
            found.append(f"{self.good / judged:.0%} of the judged steps are right")
        if judged and self.bad / judged > 0.95:
            found.append(f"{self.bad / judged:.0%} of the judged steps are wrong")
        for name, count in self.separators_inside_steps.items():
            found.append(f"{count:,} steps contain the step separator '{name}' in their text")
        if self.unreadable:
            found.append(f"{self.unreadable:,} rows could not be read")
        return found


class Lengths:
    """Mean, quantiles and maximum of whole numbers, from how often each occurs."""

    def __init__(self):
        self._counts: Counter[int] = Counter()

    def add(self, value: int) -> None:
        self._counts[value] += 1

    def summary(self) -> dict[str, float]:
        total = sum(self._counts.values())
        if not total:
            return {}
        result: dict[str, float] = {"mean": sum(value * count for value, count in self._counts.items()) / total}
        goals, seen = {"p50": 0.5, "p95": 0.95, "p99": 0.99}, 0
        for value in sorted(self._counts):
            seen += self._counts[value]
            for name in [name for name, share in goals.items() if seen >= share * total]:
                result[name] = float(value)
                del goals[name]
        return result | {"max": float(max(self._counts))}


def statistics(source: Source, errors: Errors | None = None) -> Statistics:
    """Reads everything once. ``first_error_place`` is the share of errors in each fifth of the solution."""
    errors = errors or Errors()
    result, problems, lengths, characters = Statistics(), HashSet(), Lengths(), Lengths()
    names: dict[str, Counter[str]] = {"generators": Counter(), "made_by": Counter(), "final_correct": Counter()}
    places: Counter[int] = Counter()
    separators: Counter[str] = Counter()
    last = 0
    for _, _, items in source.rows(errors):
        result.rows += 1
        for item in items:
            _count(result, item, names, separators)
            problems.add(problem_hash(item.solution.problem.prompt))
            steps = item.solution.steps
            lengths.add(len(steps))
            characters.add(len(item.solution.problem.prompt) + sum(map(len, steps)))
            wrong = item.labels.first_error if item.labels else None
            if wrong is not None and wrong >= 0:
                last += wrong == len(steps) - 1
                places[wrong * 5 // len(steps)] += 1
    result.problems, result.unreadable = len(problems), errors.count
    result.steps_per_solution, result.characters_per_solution = lengths.summary(), characters.summary()
    if result.with_error:
        result.errors_at_last_step = last / result.with_error
        result.first_error_place = {f"{20 * fifth}-{20 * fifth + 20} %": places[fifth] / result.with_error
                                    for fifth in range(5)}
    for field, counter in names.items():
        setattr(result, field, dict(counter.most_common()))
    result.separators_inside_steps = dict(separators)
    return result


def _count(result: Statistics, item: LabeledSolution, names: dict[str, Counter[str]], separators: Counter[str]) -> None:
    solution, labels = item.solution, item.labels
    result.solutions += 1
    result.steps += len(solution.steps)
    result.empty_steps_dropped += int(solution.problem.meta.get("empty_steps_dropped") or 0)
    values: tuple[Any, ...] = labels.values if labels else (None,) * len(solution.steps)
    for value in values:
        if value is None:
            result.unjudged += 1
        elif value == 1.0:
            result.good += 1
        elif value == 0.0:
            result.bad += 1
        else:
            result.soft += 1
    wrong = labels.first_error if labels else None
    result.unknown += wrong is None
    result.clean += wrong == -1
    result.with_error += wrong is not None and wrong >= 0
    for field, name in (("generators", solution.generator or "not told"), ("final_correct", str(solution.correct).lower()),
                        ("made_by", labels.made_by if labels else "no labels")):
        names[field][name if name in names[field] or len(names[field]) < _NAMES else "others"] += 1
    for name, mark in SEPARATORS.items():
        separators[name] += sum(mark in step.strip() for step in solution.steps)
        if not separators[name]:
            del separators[name]
