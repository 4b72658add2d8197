"""Slow, plain NumPy versions of every step objective, in float64: step by step, pair by pair, as the formulas are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Step:
    """A step that takes part: its outputs [K], label, weight, solution and group, in the order of the batch."""

    outputs: np.ndarray
    label: float
    weight: float
    solution: tuple[int, int]
    group: object

    @property
    def right(self) -> bool:
        return self.label >= 0.5


def read_steps(outputs, labels, mask, weights=None, segments=None, groups=None, by_row: bool = False) -> list[Step]:
    """The labelled steps with a positive weight. Without `groups` the group is the solution, or the row where `by_row`."""
    found = []
    for row, step in np.argwhere(np.asarray(mask)):
        weight = 1.0 if weights is None else float(weights[row][step])
        if weight > 0:
            solution = (int(row), 0 if segments is None else int(segments[row][step]))
            default = int(row) if by_row else solution
            group = default if groups is None else int(groups[row][step])
            found.append(Step(np.asarray(outputs[row][step], np.float64), float(labels[row][step]), weight, solution, group))
    return found


def split(items: Iterable, key: Callable) -> list[list]:
    found: dict = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return list(found.values())


def nll(z):
    """-log sigmoid(z)."""
    return np.logaddexp(0, -z)


def sigmoid(z):
    return np.exp(-nll(z))


def log_softmax(z):
    return z - np.logaddexp.reduce(z)


def mean_of_steps(steps: Sequence[Step], term: Callable[[Step], float]) -> tuple[float, float]:
    return sum(step.weight * term(step) for step in steps), sum(step.weight for step in steps)


def _classes(steps, log_probs, targets, class_weights, label_smoothing):
    total = weight = 0.0
    for step in steps:
        logp, target = log_probs(step.outputs), np.array(targets(step.label))
        target = (1 - label_smoothing) * target + label_smoothing / len(target)
        factors = np.ones(len(target)) if class_weights is None else np.array(class_weights)
        total -= step.weight * (factors * target * logp).sum()
        weight += step.weight * (1.0 if class_weights is None else (factors * target).sum())
    return total, weight


def binary_cross_entropy(*batch, class_weights=None, label_smoothing=0.0):
    return _classes(read_steps(*batch), lambda z: np.array([-nll(-z[0]), -nll(z[0])]), lambda y: (1 - y, y), class_weights,
                    label_smoothing)


def cross_entropy(*batch, class_weights=None, label_smoothing=0.0):
    def targets(y):
        if batch[0].shape[-1] == 2:
            return 1 - y, y
        return (1 - 2 * y, 2 * y, 0) if y <= 0.5 else (0, 2 - 2 * y, 2 * y - 1)

    return _classes(read_steps(*batch), log_softmax, targets, class_weights, label_smoothing)


def log_odds(step: Step) -> float:
    return step.outputs[0] if len(step.outputs) == 1 else step.outputs[1] - step.outputs[0]


def generalized_cross_entropy(*batch, q=0.7):
    def term(step):
        p = sigmoid(log_odds(step))
        return step.label * (1 - p**q) / q + (1 - step.label) * (1 - sigmoid(-log_odds(step)) ** q) / q

    return mean_of_steps(read_steps(*batch), term)


def focal(*batch, gamma=2.0, class_weights=None):
    total = weight = 0.0
    wrong, right = (1.0, 1.0) if class_weights is None else class_weights
    for step in read_steps(*batch):
        z, y = log_odds(step), step.label
        total += step.weight * right * y * sigmoid(-z) ** gamma * nll(z)
        total += step.weight * wrong * (1 - y) * sigmoid(z) ** gamma * nll(-z)
        weight += step.weight * (1.0 if class_weights is None else right * y + wrong * (1 - y))
    return total, weight


def symmetric_cross_entropy(*batch, alpha=0.1, beta=1.0, log_zero=-4.0):
    def term(step):
        z, y = log_odds(step), step.label
        log_right = log_zero if y == 0 else max(np.log(y), log_zero)
        log_wrong = log_zero if y == 1 else max(np.log(1 - y), log_zero)
        return alpha * (y * nll(z) + (1 - y) * nll(-z)) - beta * (sigmoid(z) * log_right + sigmoid(-z) * log_wrong)

    return mean_of_steps(read_steps(*batch), term)


def forward_corrected_cross_entropy(*batch, false_right=0.1, false_wrong=0.1):
    def term(step):
        z, y = log_odds(step), step.label
        with np.errstate(divide="ignore"):
            rates = np.log([1 - false_wrong, false_right, false_wrong, 1 - false_right])
        says_right = np.logaddexp(-nll(z) + rates[0], -nll(-z) + rates[1])
        says_wrong = np.logaddexp(-nll(z) + rates[2], -nll(-z) + rates[3])
        return -y * says_right - (1 - y) * says_wrong

    return mean_of_steps(read_steps(*batch), term)


def mean_squared_error(*batch, link="sigmoid"):
    value = sigmoid if link == "sigmoid" else lambda z: z
    return mean_of_steps(read_steps(*batch), lambda step: (value(step.outputs[0]) - step.label) ** 2)


def quantile(*batch, levels=(0.1, 0.5, 0.9)):
    def term(step):
        above = step.label - sigmoid(step.outputs)
        return np.mean([level * a if a > 0 else (level - 1) * a for level, a in zip(levels, above)])

    return mean_of_steps(read_steps(*batch), term)


def ensemble_anchor(*batch, distance=0.0, strength=0.5):
    def term(step):
        return np.mean(step.label * nll(step.outputs) + (1 - step.label) * nll(-step.outputs)) + strength * distance

    return mean_of_steps(read_steps(*batch), term)


def buffer_cross_entropy(*batch, beta=0.5, last_weight=1.0):
    total = weight = 0.0
    for solution in split(read_steps(*batch), lambda step: step.solution):
        for step in solution:
            wrong, right, buffer = log_softmax(step.outputs)
            last = step is solution[-1]
            with np.errstate(divide="ignore"):
                is_right = right if last else np.logaddexp(right, np.log(beta) + buffer)
                is_wrong = np.logaddexp(wrong, buffer if last else np.log(beta) + buffer)
            factor = last_weight if last else 1.0
            total -= factor * step.weight * (step.label * is_right + (1 - step.label) * is_wrong)
            weight += factor * step.weight
    return total, weight


def self_supervised(*batch, positive_weight=1.5, class_weights=None):
    steps = [step for step in read_steps(*batch) if (step.outputs[0] >= 0 if step.right else step.outputs[0] <= 0)]
    right = 1 + sum(step.weight for step in steps if step.right)
    wrong = 1 + sum(step.weight for step in steps if not step.right)
    if class_weights is None:
        class_weights = right / (right + wrong), positive_weight * wrong / (right + wrong)
    weights = [step.weight * class_weights[step.right] for step in steps]
    return sum(w * nll(abs(step.outputs[0])) for w, step in zip(weights, steps)), sum(weights)


def pqm_ranking(*batch, zeta=4.0, variant="published"):
    total = weight = 0.0
    for steps in split(read_steps(*batch), lambda step: step.solution):
        if variant == "first_error":
            first = next((step for step in steps if not step.right), None)
            steps = [step for step in steps if step.right or step is first]
        q = [step.outputs[0] for step in steps]
        wrong = [i for i, step in enumerate(steps) if not step.right]
        log_wrong = np.logaddexp.reduce([-np.inf] + [q[i] + zeta for i in wrong])
        terms, weights = [], []
        for t, step in enumerate(steps):
            if step.right:
                before = [q[i] for i in range(t + 1) if steps[i].right]
                terms.append(np.logaddexp.reduce([0, log_wrong, *before]) - q[t])
                weights.append(step.weight)
            elif variant == "theory" and t != wrong[-1]:
                terms.append(np.logaddexp.reduce([q[i] for i in wrong if i >= t]) - q[t])
                weights.append(step.weight)
        if wrong:
            terms.append(np.logaddexp(0, log_wrong))
            weights.append(np.mean([steps[i].weight for i in wrong]))
        solution_weight = np.mean([step.weight for step in steps])
        total += solution_weight * np.dot(weights, terms) / np.sum(weights)
        weight += solution_weight
    return total, weight


def _sum_pairs(pairs, term):
    pairs = [(np.sqrt(a.weight * b.weight), a, b) for a, b in pairs]
    return sum(w * term(a, b) for w, a, b in pairs), sum(w for w, _, _ in pairs)


def _ordered(batch, gap):
    for steps in split(read_steps(*batch), lambda step: step.group):
        for better in steps:
            for worse in steps:
                # The device subtracts float32 labels.
                if np.float32(better.label) - np.float32(worse.label) > gap:
                    yield better, worse


def pairwise_ranking(*batch, gap=0.0, margin=0.0):
    return _sum_pairs(_ordered(batch, gap), lambda a, b: nll(a.outputs[0] - b.outputs[0] - margin))


def margin_ranking(*batch, gap=0.0, margin=1.0):
    return _sum_pairs(_ordered(batch, gap), lambda a, b: max(0, margin - a.outputs[0] + b.outputs[0]))


def preference_pairs(*batch, per_side=2, gap=0.25, distill_scale=None):
    total = weight = 0.0
    for steps in split(read_steps(*batch), lambda step: step.group):
        right = sorted((step for step in steps if step.right), key=lambda step: -step.label)[:per_side]
        wrong = sorted((step for step in steps if not step.right), key=lambda step: step.label)[:per_side]
        for a in right:
            for b in wrong:
                if np.float32(a.label) - np.float32(b.label) >= gap:
                    lead, w = a.outputs[0] - b.outputs[0], np.sqrt(a.weight * b.weight) / (len(right) * len(wrong))
                    wanted = None if distill_scale is None else distill_scale * (a.label - b.label)
                    total += w * (nll(lead) if wanted is None else (lead - wanted) ** 2)
                    weight += w
    return total, weight


def listwise_ranking(*batch):
    total = weight = 0.0
    for steps in split(read_steps(*batch), lambda step: step.group):
        if len({step.label for step in steps}) > 1:
            relevance = np.array([step.weight * step.label for step in steps])
            logs = log_softmax(np.array([step.outputs[0] for step in steps]))
            group_weight = np.mean([step.weight for step in steps])
            total -= group_weight * np.dot(relevance / relevance.sum(), logs)
            weight += group_weight
    return total, weight


def read_responses(*batch) -> list[Step]:
    """One `Step` per solution: the sum of its outputs, the label of its last step, the mean weight."""
    return [Step(sum(step.outputs for step in steps), steps[-1].label, np.mean([step.weight for step in steps]),
                 steps[-1].solution, steps[-1].group)
            for steps in split(read_steps(*batch, by_row=True), lambda step: step.solution)]


def implicit_cross_entropy(*batch, beta=0.05):
    def term(response):
        v = beta * response.outputs[0]
        return response.label * nll(v) + (1 - response.label) * nll(-v)

    return mean_of_steps(read_responses(*batch), term)


def implicit_dpo(*batch, beta=0.05, label_smoothing=0.0, variant="pairs", detached_at=None):
    """``detached_at``: outputs at which the means of the detached variant are taken, instead of the batch's own."""
    def smoothed(lead):
        return (1 - label_smoothing) * nll(lead) + label_smoothing * nll(-lead)

    groups = split(read_responses(*batch), lambda response: response.group)
    if variant == "pairs":
        pairs = [(a, b) for group in groups for a in group for b in group if a.right and not b.right]
        return _sum_pairs(pairs, lambda a, b: smoothed(beta * (a.outputs[0] - b.outputs[0])))
    fixed = split(read_responses(batch[0] if detached_at is None else detached_at, *batch[1:]), lambda response: response.group)
    total = weight = 0.0
    for group, others in zip(groups, fixed):
        for response in group:
            found = [(other.outputs[0], other.weight) for other in others if other.right != response.right]
            mean = sum(value * w for value, w in found) / sum(w for _, w in found) if found else 0.0
            lead = beta * (response.outputs[0] - mean)
            total += response.weight * smoothed(lead if response.right else -lead)
            weight += response.weight
    return total, weight


def implicit_kto(*batch, beta=0.05, variant="vanilla", reference_point=0.0, desirable_weight=1.0, undesirable_weight=1.0):
    responses = read_responses(*batch)

    def reference(right):
        if variant == "uneven":
            return max(reference_point, 0)
        others = [(other.weight, other.outputs[0]) for other in responses if other.right != right]
        return max(np.average([v for _, v in others], weights=[w for w, _ in others]), 0) if others else 0

    references = {right: reference(right) for right in (False, True)}

    def term(response):
        gain = beta * (response.outputs[0] - references[response.right])
        return desirable_weight * sigmoid(-gain) if response.right else undesirable_weight * sigmoid(gain)

    return mean_of_steps(responses, term)


def implicit_nca(*batch, beta=0.05, temperature=0.1):
    total = weight = 0.0
    for group in split(read_responses(*batch), lambda response: response.group):
        if len(group) > 1:
            weights = np.array([response.weight for response in group])
            v = beta * np.array([response.outputs[0] for response in group])
            tilt = np.array([response.label for response in group]) / temperature
            target = weights * np.exp(tilt - tilt.max())
            terms = target / target.sum() @ nll(v) + weights / weights.sum() @ nll(-v)
            total += weights.mean() * terms
            weight += weights.mean()
    return total, weight


ORACLES = {function.__name__: function for function in (
    binary_cross_entropy, cross_entropy, pqm_ranking, mean_squared_error, pairwise_ranking, margin_ranking, preference_pairs,
    listwise_ranking, generalized_cross_entropy, focal, symmetric_cross_entropy, forward_corrected_cross_entropy,
    buffer_cross_entropy, self_supervised, quantile, ensemble_anchor, implicit_cross_entropy, implicit_dpo, implicit_kto,
    implicit_nca)}
"""Name -> ``oracle(outputs, labels, mask, weights=None, segments=None, groups=None, **hyperparameters) -> (total, weight)``."""
