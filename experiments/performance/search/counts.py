"""What a search has read, on either side: the tokens, forward passes and arithmetic that explain its time."""

from __future__ import annotations

import dataclasses

from jaxprm.models import TransformerConfig

Read = tuple[int, int, int]
"""(rows, tokens before, tokens read): every row reads so many tokens behind so many that it need not read again."""


@dataclasses.dataclass
class Counts:
    """Of one problem.

    Attributes:
      policy, reward: what each model has read.
      drawn: tokens for which the policy computed next-token logits.
      policy_forwards, reward_forwards: calls of the models.
    """

    policy: list[Read] = dataclasses.field(default_factory=list)
    reward: list[Read] = dataclasses.field(default_factory=list)
    drawn: int = 0
    policy_forwards: int = 0
    reward_forwards: int = 0

    @property
    def policy_tokens(self) -> int:
        return tokens(self.policy)

    @property
    def reward_tokens(self) -> int:
        return tokens(self.reward)

    def flops(self, policy: TransformerConfig, reward: TransformerConfig) -> float:
        """As `jaxprm.search.budget.read_flops` counts them."""
        vocabulary = 2.0 * policy.width * policy.vocab_size * self.drawn
        return arithmetic(policy, self.policy) + arithmetic(reward, self.reward) + vocabulary


def tokens(reads: list[Read]) -> int:
    return sum(rows * read for rows, _, read in reads)


def arithmetic(config: TransformerConfig, reads: list[Read]) -> float:
    """2 per weight and token, 4 per query, key and number of a head in each layer."""
    pairs = sum(rows * (read * before + read * (read + 1) // 2) for rows, before, read in reads)
    return 2.0 * config.matmul_parameters * tokens(reads) + 4.0 * config.heads * config.head_dim * config.layers * pairs
