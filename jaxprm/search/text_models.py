"""A policy and a reward model that meet as text, for the paths of a search: what is written, what is read, what both cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from jaxprm.generation.local_text import LocalTextPolicy, problem_keys
from jaxprm.generation.text import Ahead, Part, StepSample, TextPolicy
from jaxprm.search.budget import LIMITS, Budget
from jaxprm.search.searched import Costs
from jaxprm.search.text_reader import TextReader, flops_read

Samples = Sequence[Sequence[StepSample | None]]
"""By problem and path; ``None`` where no step was written."""


class TextModels:
    """C paths for each of B problems, as a policy's session and a reader hold them.

    Args:
      policy: writes the steps.
      reader: reads them.
      seed: with a problem's id and text, all that its random numbers follow from.

    Attributes:
      keys: a key for each problem [B].
      policy_tokens: int[B], drawn so far.
    """

    def __init__(self, policy: TextPolicy, reader: TextReader, seed: int):
        self.policy, self.reader, self.session = policy, reader, policy.begin(reader.problems, reader.width, seed)
        self.keys, problems = problem_keys(reader.problems, seed), len(reader.problems)
        self.policy_tokens, self._policy_flops = np.zeros(problems, np.int64), np.zeros(problems)
        if isinstance(policy, LocalTextPolicy):
            config, prompts = policy.model.config, self.session.positions[:, :1]
            self._policy_flops += flops_read(config, 0 * prompts, prompts, int(prompts.max()), vocabulary=False)
            self._policy_flops += 2.0 * config.width * config.vocab_size  # the logits of the first token

    def write(self, level: int, drawing: Bool[np.ndarray, "B C"], ahead: Ahead | None = None,
              part: Part | None = None) -> list[list[StepSample | None]]:
        """The next step of the paths that are drawing, or a part of it."""
        local = isinstance(self.policy, LocalTextPolicy)
        start = self.session.positions if local else None
        samples = self.session.sample(level, drawing, ahead, part)
        self.policy_tokens += [sum(sample.tokens for sample in row if sample is not None) for row in samples]
        if local:
            self._policy_flops += flops_read(self.policy.model.config, start, self.session.positions - start,
                                             self.policy.max_step_tokens, vocabulary=True)
        return samples

    def read(self, samples: Samples, begun: Bool[np.ndarray, "B C"] | None = None) -> Float[np.ndarray, "B C"]:
        """Scores of the steps, NaN where there is none: of a step that did not end, an end without a step, one unreadable.

        ``begun``: see `TextReader.read`.
        """
        texts = [[_step_text(sample) for sample in row] for row in samples]
        return self.reader.read(texts) if begun is None else self.reader.read(texts, begun)

    def gather(self, parents: Int[np.ndarray, "B C"]) -> None:
        """Path (b, c) now continues what was path (b, parents[b, c])."""
        self.session.gather(parents)
        self.reader.gather(parents)

    def full(self) -> Bool[np.ndarray, "B C"]:
        """Paths known to leave no room for another step in the policy's context."""
        if isinstance(self.policy, LocalTextPolicy):
            return self.session.positions + self.policy.max_step_tokens > self.policy.model.config.context
        return np.zeros((len(self.reader.problems), self.reader.width), bool)

    def flops(self) -> Float[np.ndarray, " B"]:
        """Of both models, prompts included."""
        return self.reader.flops + self._policy_flops

    def limits(self, budget: Budget, levels: Int[np.ndarray, " B"]) -> list[str]:
        """The limit that each problem has reached, "" where there is none; not those of the whole call."""
        spent = (self.policy_tokens, self.reader.tokens, self.session.forwards + self.reader.forwards, self.flops(), levels)
        limits = [np.inf if getattr(budget, name) is None else getattr(budget, name) for name in LIMITS]
        return [next((name for name, count, limit in zip(LIMITS, counts, limits) if count >= limit), "")
                for counts in zip(*spent)]

    def costs(self, row: int, seconds: float) -> Costs:
        """The bill of a problem."""
        return Costs(int(self.policy_tokens[row]), int(self.reader.tokens[row]), int(self.session.forwards[row]),
                     int(self.reader.forwards[row]), float(self.flops()[row]), seconds)

    def warnings(self, row: int) -> Counter[str]:
        """What went wrong with a problem on both sides, counted."""
        return Counter(self.session.warnings[row]) + Counter(self.reader.warnings[row])


def _step_text(sample: StepSample | None) -> str | None:
    """What the reward model reads: nothing of a step that did not end, nor of an end without a step."""
    return None if sample is None or sample.ending == "cut" or only_ends(sample) else sample.text


def only_ends(sample: StepSample) -> bool:
    """Whether it is an end without a step."""
    return sample.ending == "solution" and not sample.text.strip()


def which(samples: Samples, test: Callable[[StepSample], bool]) -> Bool[np.ndarray, "B C"]:
    """Where there is a sample of which the test is true."""
    return np.array([[sample is not None and test(sample) for sample in row] for row in samples])


def numbers(samples: Samples, name: str) -> Num[np.ndarray, "B C"]:
    """float32, a field of the samples; 0 where it is not known, or there is none."""
    return np.array([[getattr(sample, name, None) or 0.0 for sample in row] for row in samples], np.float32)
