"""Where a step ends while a model writes it: a machine that reads tokens, run inside the sampler.

The separator of a published model need not be a token: it stands at the end of one (".\\n\\n"), or is spread over two. So the
sampler follows how much of it has been written, by a table that is made once for a vocabulary.

    separator "\\n\\n"      token   "a"   "\\n"   ".\\n"   "?\\n\\n"   end of text
    state 0: none of it               0      1      1        2          3
    state 1: the first "\\n"           0      2      1        2          3          2: the step has ended, 3: the solution has
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stops:
    """The machine: ``table`` int32[M, V] leads from (characters of the separator that are there, token) to what is there then;
    M: the step has ended; M + 1: the solution has."""

    table: Int[Array, "M V"]

    @property
    def step(self) -> int:
        return self.table.shape[0]

    @property
    def solution(self) -> int:
        return self.table.shape[0] + 1


def stop_at_ids(separator_id: int, end_id: int, rows: int) -> Stops:
    """For a separator that is a token of its own; ``rows`` of the embedding table."""
    table = np.zeros((1, rows), np.int32)
    table[0, separator_id], table[0, end_id] = 1, 2
    return Stops(jnp.asarray(table))


def stop_at_text(separator: str, pieces: Sequence[str], end_ids: Collection[int], rows: int) -> Stops:
    """For any separator.

    Args:
      separator: the text; not empty.
      pieces: what each token adds to the text; tokens beyond them add nothing.
      end_ids: tokens that end the solution.
      rows: of the embedding table.
    """
    size = len(separator)
    back = [0] * (size + 1)  # back[n]: the longest shorter beginning of the separator at whose end its first n characters stand
    for place in range(1, size):
        held = back[place]
        while held and separator[place] != separator[held]:
            held = back[held]
        back[place + 1] = held + (separator[place] == separator[held])

    def follow(state: int, text: str) -> int:
        for character in text:
            while state and character != separator[state]:
                state = back[state]
            state += character == separator[state]
            if state == size:
                break
        return state

    table = np.zeros((size, rows), np.int32)
    table[:, len(pieces):] = np.arange(size)[:, None]
    letters = set(separator)
    for token, piece in enumerate(pieces[:rows]):
        if not piece or not letters.isdisjoint(piece):  # any other token leads back to the beginning
            table[:, token] = [follow(state, piece) for state in range(size)]
    table[:, [end for end in end_ids if end < rows]] = size + 1
    return Stops(jnp.asarray(table))
