"""How far estimated step labels (Monte-Carlo rollouts, say) agree with exact ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from jaxprm.errors import InputError
from jaxprm.metrics import Interval, bootstrap_auroc, bootstrap_interval, bootstrap_mean


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Estimated against exact labels, over the steps that both judge.

    Attributes:
      steps: number of these steps.
      threshold: an estimated value counts as right from here on.
      agreement: share of steps with the same verdict.
      confusion: ``counts[exact][estimated]``, 0 = wrong, 1 = right.
      by_threshold: (threshold, agreement) for other thresholds.
      auroc: of the estimated value against the exact verdict; needs no threshold.
      spearman: rank correlation of the estimated with the exact value, ties sharing their mean rank; nan if either is
        constant.
    """

    steps: int
    threshold: float
    agreement: Interval
    confusion: tuple[tuple[int, int], tuple[int, int]]
    by_threshold: tuple[tuple[float, Interval], ...]
    auroc: Interval
    spearman: Interval


def label_agreement(estimated: Sequence[Sequence[float | int | None]], exact: Sequence[Sequence[float | int | None]],
                    problems: Sequence[str], key: int | tuple[int, ...], *, threshold: float = 0.5,
                    thresholds: Iterable[float | int] = (), resamples: int = 1000) -> Agreement:
    """Compares two sets of labels of the same solutions.

    Args:
      estimated: per solution and step, a value in [0, 1] (for Monte-Carlo labels the share of rollouts that succeed)
        or None.
      exact: per solution and step, the exact label in [0, 1] (right from 0.5 on) or None.
      problems: problem of each solution; intervals resample problems.
      key: seed of the bootstrap.
      threshold: estimated values >= threshold count as right. The hard label of Math-Shepherd (Wang et al. 2024,
        arXiv:2312.08935), "some rollout succeeds", is any threshold in (0, 1 / rollouts].
      thresholds: further thresholds for `Agreement.by_threshold`.
      resamples: how often problems are resampled.

    Raises:
      InputError: the two sets differ in shape, or no step is judged by both.
    """
    if not len(estimated) == len(exact) == len(problems):
        raise InputError(f"has {len(estimated)} solutions, exact {len(exact)}, problems {len(problems)}",
                         field="estimated")
    rows = [(value, label, problem)
            for number, (values, labels, problem) in enumerate(zip(estimated, exact, problems), 1)
            for value, label in _pairs(values, labels, number) if value is not None and label is not None]
    if not rows:
        raise InputError("and exact share no judged step", field="estimated")
    value, label = (np.array(column, np.float64) for column in list(zip(*rows))[:2])
    group = np.unique([row[2] for row in rows], return_inverse=True)[1]
    right = label >= 0.5
    options = {"key": key, "resamples": resamples}

    def agreement(limit: float) -> Interval:
        return bootstrap_mean((value >= limit) == right, group, **options)

    counts = np.bincount(2 * right + (value >= threshold), minlength=4).reshape(2, 2)
    return Agreement(len(rows), threshold, agreement(threshold), tuple(tuple(row) for row in counts.tolist()),
                     tuple((float(limit), agreement(limit)) for limit in thresholds),
                     bootstrap_auroc(value, right, group, **options), _spearman(value, label, group, options))


def _pairs(values, labels, number: int):
    if len(values) != len(labels):
        raise InputError(f"has {len(values)} values for {len(labels)} exact labels", row=number, field="estimated")
    return zip(values, labels)


def _spearman(value, label, group, options) -> Interval:
    """Rollout values take few distinct values, so a resample is a sum of small contingency tables, one per problem."""
    pairs, pair = np.unique(np.stack([value, label], axis=1), axis=0, return_inverse=True)
    problems = group.max() + 1
    tables = np.bincount(group * len(pairs) + pair.reshape(-1), minlength=problems * len(pairs)).reshape(problems, -1)
    codes = [np.unique(column, return_inverse=True)[1].reshape(-1) for column in pairs.T]

    def statistic(rows):
        count = tables[rows].sum(axis=0)
        ranks = []
        for code in codes:
            sizes = np.bincount(code, count)
            ranks.append((np.cumsum(sizes) - sizes / 2)[code])  # the mean rank of a tie, up to a constant
        first, second = (rank - np.average(rank, weights=count) for rank in ranks)
        scale = np.sqrt(np.sum(count * first**2) * np.sum(count * second**2))
        return np.sum(count * first * second) / scale if scale > 1e-9 * len(rows) else None

    return bootstrap_interval(statistic, np.arange(problems), **options)
