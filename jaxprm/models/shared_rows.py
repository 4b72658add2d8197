"""What models have read of many paths, in as few rows as these need: paths that are the same so far share a row.

    paths 0 1 2 stand in rows 0 0 1, and path 1 goes on:     row 2 begins as a copy of row 0, and the paths stand in rows 0 2 1

Only paths that go on take part in a call of a model: their rows are taken out as a smaller state and put back. Rows, and room
for tokens in each, come as they are needed, by doubling, so that few shapes are compiled.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from jaxprm.models.cache import KVCache

ROOM = 128
"""Tokens behind the prompt that caches have room for at first."""


class SharedRows:
    """C paths for each of B problems; at first all of them are their prompt.

    Args:
      cache: one row per problem, with nothing in it.
      extra: what else is kept of a row: a pytree of arrays [B, ...].
      width: C.
      most: tokens behind the prompt that paths are expected to have at most; for more, room is made one by one.
    """

    def __init__(self, cache: KVCache, extra: Any, width: int, most: int):
        self._cache, self._extra, self._most = cache, extra, most
        self._rows = np.zeros((cache.lengths.shape[0], width), np.int32)  # of each path
        self._targets = self._rows

    def take(self, active: Bool[np.ndarray, "B C"], held: Int[np.ndarray, "B C"],
             room: int) -> tuple[Int[np.ndarray, " R"], KVCache, Any]:
        """A state of the paths that go on, to be `put` back: R = B * W rows, W a power of two, or C.

        Args:
          active: paths that go on.
          held: tokens behind the prompt that they have; what a cache holds beyond them is forgotten.
          room: tokens that they may grow by.

        Returns:
          The place of each row's path among the B * C, -1 where there is none; cache and extra of the rows.
        """
        problems, width = active.shape
        wide = min(_power_of_two(int(active.sum(1).max())), width)
        places, sources = np.full((problems, wide), -1), np.zeros((problems, wide), np.int32)
        self._targets = np.full((problems, wide), width, np.int32)  # no row has this number: nothing is put there
        for problem, rows in enumerate(self._rows):
            held_by_others, going = set(rows[~active[problem]].tolist()), np.flatnonzero(active[problem]).tolist()
            used = set(rows.tolist())
            free = (row for row in itertools.count() if row not in used)
            for slot, path in enumerate(going):
                source = int(rows[path])
                target = next(free) if source in held_by_others else source
                held_by_others.add(target)
                places[problem, slot], sources[problem, slot] = problem * width + path, source
                rows[path] = self._targets[problem, slot] = target
        places = places.reshape(-1)
        lengths = np.where(places < 0, 0, held.reshape(-1)[np.maximum(places, 0)]).astype(np.int32)
        self._make_room(min(_power_of_two(1 + int(self._rows.max())), width), int(lengths.max()) + room)
        return places, *_take(self._cache, self._extra, jnp.asarray(sources), jnp.asarray(lengths))

    def put(self, cache: KVCache, extra: Any) -> None:
        """Puts back what `take` gave, after a model has read on."""
        whole, some = ((dataclasses.replace(one, prompt=None), other) for one, other in (
            (self._cache, self._extra), (cache, extra)))
        whole, self._extra = _put(whole, some, jnp.asarray(self._targets))
        self._cache = dataclasses.replace(whole, prompt=cache.prompt)

    def gather(self, parents: Int[np.ndarray, "B C"]) -> None:
        """Path (b, c) now continues what was path (b, parents[b, c]); nothing is moved until it does."""
        self._rows = np.take_along_axis(self._rows, parents, axis=1)

    def mark(self) -> Any:
        """The paths as they are, for `back`."""
        return self._rows.copy(), jax.tree.map(jnp.copy, self._extra)  # rows are put into the buffers themselves

    def back(self, mark: Any) -> None:
        """Takes back what was put since ``mark``, with no gather between: of each row that a path had then, only what stands
        behind was changed."""
        rows, extra = mark
        problems = len(rows)
        self._rows, self._extra = rows.copy(), _more_rows(extra, problems, self._cache.lengths.shape[0] // problems)

    def _make_room(self, rows: int, tokens: int) -> None:
        """Rows per problem, and tokens in each."""
        room, problems = self._cache.capacity, len(self._rows)
        rows = max(rows, self._cache.lengths.shape[0] // problems)
        while room < tokens:
            room *= 2
        room = max(tokens, min(room, self._most), self._cache.capacity)
        if rows * problems > self._cache.lengths.shape[0] or room > self._cache.capacity:
            self._cache = _roomier(self._cache, rows, room)
            self._extra = _more_rows(self._extra, problems, rows)


def spread(values: Any, places: Int[np.ndarray, " R"], paths: int) -> np.ndarray:
    """What rows of `SharedRows.take` gave, by path: zero where a path had no row."""
    values = np.asarray(values)
    of_paths = np.zeros((paths, *values.shape[1:]), values.dtype)
    of_paths[places[places >= 0]] = values[places >= 0]
    return of_paths


def _power_of_two(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()


@jax.jit
def _take(cache: KVCache, extra: Any, rows: Int[jax.Array, "B W"], lengths: Int[jax.Array, " R"]) -> tuple[KVCache, Any]:
    problems = rows.shape[0]

    def pick(x):
        grouped = x.reshape(problems, -1, *x.shape[1:])
        return jax.vmap(lambda all_, index: all_[index])(grouped, rows).reshape(rows.size, *x.shape[1:])

    return dataclasses.replace(cache.gather(rows), lengths=lengths), jax.tree.map(pick, extra)


@functools.partial(jax.jit, donate_argnums=0)
def _put(whole: Any, some: Any, rows: Int[jax.Array, "B W"]) -> Any:
    problems = rows.shape[0]

    def put(x, new):
        grouped, new = (y.reshape(problems, -1, *y.shape[1:]) for y in (x, new))
        return jax.vmap(lambda all_, new, index: all_.at[index].set(new, mode="drop"))(grouped, new, rows).reshape(x.shape)

    return jax.tree.map(put, whole, some)


@functools.partial(jax.jit, static_argnames=("problems", "rows"))
def _more_rows(state: Any, problems: int, rows: int) -> Any:
    """Arrays [B * P, ...] as [B * rows, ...]; the new rows are empty."""
    def grow(x):
        grouped = x.reshape(problems, -1, *x.shape[1:])
        padding = [(0, 0), (0, rows - grouped.shape[1])] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(grouped, padding).reshape(problems * rows, *x.shape[1:])

    return jax.tree.map(grow, state)


@functools.partial(jax.jit, static_argnames=("rows", "room"))
def _roomier(cache: KVCache, rows: int, room: int) -> KVCache:
    problems = cache.prompt.lengths.shape[0]
    keys, values, lengths = _more_rows((cache.keys, cache.values, cache.lengths), problems, rows)
    return dataclasses.replace(cache, keys=keys, values=values, lengths=lengths).with_room(room)
