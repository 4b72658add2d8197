"""Keys and values of a tree: every node's own tokens once, so that no prefix is read twice.

    [prompt P | node 1: L slots | node 2: L slots | ...]     one row of slots per problem and layer

A path is gathered from there without gaps and stands as the prompt of its children, who share it; what they write behind it
is their own segment, and is stored as it is.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxprm.models.cache import KVCache, PromptCache


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NodeCache:
    """Keys and values of the prompts and nodes of B trees.

    Attributes:
      keys, values: layers x [B, K, P + N * L, H]; node n (1, 2, ...) owns the slots P + (n - 1) * L ...
    """

    keys: tuple
    values: tuple

    def path(self, slots: Int[Array, "B U"], lengths: Int[Array, " B"]) -> PromptCache:
        """The tokens at ``slots`` (see `path_slots`) as a prompt of ``lengths`` tokens."""
        pick = jax.vmap(lambda buffer, index: buffer[:, index])
        return PromptCache(tuple(pick(x, slots) for x in self.keys), tuple(pick(x, slots) for x in self.values), lengths)

    def store(self, first_slot: Int[Array, ""], new: KVCache) -> NodeCache:
        """Keeps what B * M children wrote as the segments that start at ``first_slot``."""
        def put(buffer, segments):
            (problems, kv_heads, _, size), room = buffer.shape, segments.shape[2]
            segments = segments.reshape(problems, -1, kv_heads, room, size).swapaxes(1, 2)
            return jax.lax.dynamic_update_slice_in_dim(buffer, segments.reshape(problems, kv_heads, -1, size), first_slot, 2)

        return dataclasses.replace(self, keys=tuple(map(put, self.keys, new.keys)),
                                   values=tuple(map(put, self.values, new.values)))


def node_cache(prompt: PromptCache, nodes: int, room: int) -> NodeCache:
    """Prompts that were read, and room for ``nodes`` nodes of up to ``room`` tokens."""
    pad = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, nodes * room), (0, 0)))  # noqa: E731
    return NodeCache(tuple(map(pad, prompt.keys)), tuple(map(pad, prompt.values)))


def path_slots(prompt_length: Int[Array, ""], prompt_size: int, nodes: Int[Array, " A"], lengths: Int[Array, " A"],
               room: int, size: int) -> Int[Array, " U"]:
    """Where the tokens of a path lie; what stands behind the path's end is not read.

    Args:
      prompt_length: tokens of the prompt; prompt_size: its padded size P.
      nodes: the path from the first step down, padded with -1.
      lengths: tokens of each, 0 where padded.
      room: L, slots per node.
      size: U, no path has more tokens.

    In:  prompt of 2 in P = 3, L = 4, nodes [1, 5], lengths [3, 2], size 8
    Out: [0, 1, 3, 4, 5, 19, 20, 21]
    """
    ends = jnp.cumsum(lengths)
    token = jnp.arange(size, dtype=jnp.int32)
    behind = token - prompt_length
    place = jnp.minimum((behind[:, None] >= ends).sum(1), nodes.shape[0] - 1)
    offset = jnp.clip(behind - (ends - lengths)[place], 0, room - 1)
    return jnp.where(behind < 0, token, prompt_size + (jnp.maximum(nodes[place], 1) - 1) * room + offset)
