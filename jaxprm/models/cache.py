"""Key/value caches: a prompt stored once per problem, a suffix per row.

Layers are kept as tuples, not stacked: a decode step then updates each layer's buffer in place and reads it where it lies.

    prompt of problem b   [K, P, H]   one copy, read by all rows of the problem
    suffix of row r       [K, C, H]   what row r wrote after the prompt; rows b*W .. b*W+W-1 belong to problem b
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxprm.models.config import TransformerConfig
from jaxprm.models.sharding import constrain


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptCache:
    """Keys and values of the prompts, layers x [B, K, P, H]; ``lengths`` int32[B] tokens are real, the rest is padding."""

    keys: tuple
    values: tuple
    lengths: Int[Array, " B"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """What R = B * W rows have read so far.

    Attributes:
      keys, values: layers x [R, K, C, H]; slots ``0 .. lengths[r] - 1`` of row r are written.
      lengths: int32[R], tokens written to the suffix.
      prompt: the prompts shared by the rows, or ``None``.
    """

    keys: tuple
    values: tuple
    lengths: Int[Array, " R"]
    prompt: PromptCache | None = None

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]

    @property
    def positions(self) -> Int[Array, " R"]:
        """Position of the next token of each row: prompt length + suffix length."""
        if self.prompt is None:
            return self.lengths
        rows_per_prompt = self.lengths.shape[0] // self.prompt.lengths.shape[0]
        return self.lengths + jnp.repeat(self.prompt.lengths, rows_per_prompt,
                                         total_repeat_length=self.lengths.shape[0])

    def gather(self, parents: Int[Array, "B W"]) -> KVCache:
        """Rows reordered within each problem: new row (b, w) continues old row (b, parents[b, w]).

        In:  rows of problem 0 = [a, b, c], parents[0] = [2, 2, 0]
        Out: rows of problem 0 = [c, c, a]
        """
        problems, width = parents.shape
        old = self.lengths.shape[0] // problems

        def pick(buffer):
            grouped = buffer.reshape(problems, old, *buffer.shape[1:])
            return jax.vmap(lambda rows, index: rows[index])(grouped, parents).reshape(problems * width, *buffer.shape[1:])

        return dataclasses.replace(self, keys=tuple(map(pick, self.keys)), values=tuple(map(pick, self.values)),
                                   lengths=pick(self.lengths))

    def with_room(self, capacity: int) -> KVCache:
        """The same with slots for ``capacity`` tokens of each row."""
        pad = lambda x: split_heads(jnp.pad(x, ((0, 0), (0, 0), (0, capacity - x.shape[2]), (0, 0))))  # noqa: E731
        return dataclasses.replace(self, keys=tuple(map(pad, self.keys)), values=tuple(map(pad, self.values)))


def empty_cache(config: TransformerConfig, rows: int, capacity: int, prompt: PromptCache | None = None) -> KVCache:
    """An unwritten suffix of ``capacity`` tokens for ``rows`` rows, after ``prompt`` if given."""
    shape = (rows, config.kv_heads, capacity, config.head_dim)
    buffers = lambda: tuple(split_heads(jnp.zeros(shape, config.compute_dtype)) for _ in range(config.layers))  # noqa: E731
    return KVCache(buffers(), buffers(), jnp.zeros((rows,), jnp.int32), prompt)


def split_heads(buffer: Float[Array, "R K C H"]) -> Float[Array, "R K C H"]:
    """Keys or values where a mesh wants them."""
    return constrain(buffer, "batch", "kv_heads", None, None)


def write(buffer: Float[Array, "R K C H"], new: Float[Array, "R K T H"], start: Int[Array, " R"]) -> Float[Array, "R K C H"]:
    """Puts T new entries of row r at slots ``start[r] ..``; the caller keeps ``start + T <= C`` (XLA would clamp silently)."""
    zero = jnp.zeros((), start.dtype)
    return jax.vmap(lambda row, entries, at: jax.lax.dynamic_update_slice(row, entries, (zero, at, zero)))(buffer, new, start)
