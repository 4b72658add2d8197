"""Monte-Carlo step labels: a step is as good as the chance that the policy still reaches the right answer from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import jax

from jaxprm.errors import InputError
from jaxprm.generation.policy import LocalPolicy
from jaxprm.records import Problem, Solution, StepLabels


@dataclasses.dataclass(frozen=True)
class MonteCarloLabeler:
    """Labels from rollouts (Math-Shepherd, Wang et al. 2024, arXiv:2312.08935).

    From the prefix that ends with a step, ``rollouts`` continuations are sampled. The *soft* label is the share of them that
    reach the right answer, the *hard* label is 1 if any does. The last step of a finished solution needs no rollouts: its
    label is whether the answer is right. These labels say "solvable from here by this policy", which is not the same as
    "this step is right": a policy may recover from an error, and may fail after a right step.

    Attributes:
      policy: who continues.
      verify: (problem, steps of a finished solution) -> whether its answer is right.
      rollouts: continuations per prefix.
      kind: "soft" or "hard".
    """

    policy: LocalPolicy
    verify: Callable[[Problem, tuple[str, ...]], bool]
    rollouts: int = 8
    kind: Literal["soft", "hard"] = "soft"

    def __post_init__(self):
        if self.rollouts < 1:
            raise InputError("must be at least 1", field="rollouts", value=self.rollouts)
        if self.kind not in ("soft", "hard"):
            raise InputError("must be soft or hard", field="kind", value=self.kind)

    @property
    def made_by(self) -> str:
        """The provenance written into the labels."""
        sampling = self.policy.sampling
        return (f"monte-carlo {self.kind}; rollouts={self.rollouts}, temperature={sampling.temperature}, "
                f"limit={self.policy.limit}")

    def __call__(self, key: jax.Array, problems: Sequence[Problem], solutions: Sequence[Solution],
                 on_batch: Callable[[int, int], None] = lambda prefixes, tokens: None) -> list[StepLabels]:
        """One `StepLabels` per solution. Equal prefixes of a problem are continued once. ``first_error`` is the first step
        whose label is 0 ("no rollout got there"), -1 if there is none. Costs per solution: ``rollouts``, ``policy_tokens``
        (shared prefixes are charged to the first solution that has them)."""
        encoder = self.policy.encoder
        wanted: dict[tuple[int, ...], Problem] = {}
        prefixes_of: list[list[tuple[int, ...]]] = []
        for problem, solution in zip(problems, solutions, strict=True):
            ids, ends = encoder.encode(problem.prompt, solution.steps)
            last = len(ends) - (solution.answer is not None)  # the answer's own step is judged directly
            prefixes_of.append([tuple(ids[: end + 1 + encoder.read_back]) for end in ends[:last]])
            for prefix in prefixes_of[-1]:
                wanted.setdefault(prefix, problem)
        order = list(wanted)
        continued = self.policy.continue_ids(key, order, self.rollouts, on_batch)
        value, tokens = {}, {}
        for prefix, samples in zip(order, continued, strict=True):
            prompt = len(encoder.encode_prompt(wanted[prefix].prompt))
            right = [sample.finished and self.verify(wanted[prefix], encoder.decode_steps(prefix[prompt:] + sample.ids)[0])
                     for sample in samples]
            value[prefix] = float(any(right)) if self.kind == "hard" else sum(right) / len(right)
            tokens[prefix] = sum(len(sample.ids) for sample in samples)
        charged: set[tuple[int, ...]] = set()
        labels = []
        for problem, solution, prefixes in zip(problems, solutions, prefixes_of, strict=True):
            values = [value[prefix] for prefix in prefixes]
            if solution.answer is not None:
                values.append(float(self.verify(problem, solution.steps)))
            first = next((step for step, label in enumerate(values) if label == 0.0), -1)
            new = set(prefixes) - charged
            charged |= new
            cost = {"rollouts": float(len(new) * self.rollouts), "policy_tokens": float(sum(tokens[p] for p in new))}
            labels.append(StepLabels(tuple(values), first, self.made_by, cost))
        return labels
