"""`SharedRows` against paths that are kept as plain lists."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxprm.models.cache import KVCache, PromptCache
from jaxprm.models.shared_rows import ROOM, SharedRows, spread

PROBLEMS, WIDTH = 2, 5


def empty_rows(room=ROOM):
    prompt = PromptCache((jnp.zeros((PROBLEMS, 1, 3, 1)),), (jnp.zeros((PROBLEMS, 1, 3, 1)),), jnp.array([3, 2]))
    buffers = (jnp.zeros((PROBLEMS, 1, room, 1)),)
    return SharedRows(KVCache(buffers, buffers, jnp.zeros((PROBLEMS,), jnp.int32), prompt), jnp.zeros((PROBLEMS, 1)), WIDTH, 64)


def write(rows, active, paths, new):
    """Active paths go on by the numbers ``new``; checks that what was taken out is what each path holds."""
    held = np.array([[len(path) for path in of_problem] for of_problem in paths])
    places, cache, last = rows.take(active, held, len(new[0][0]))
    keys, values, lengths = np.array(cache.keys[0]), np.array(cache.values[0]), np.array(cache.lengths)
    assert sorted(places[places >= 0]) == np.flatnonzero(active).tolist() and len(places) // PROBLEMS in (1, 2, 4, 5)
    after = [list(of_problem) for of_problem in paths]
    newest = np.zeros((len(places), 1), np.float32)
    for row, place in enumerate(places.tolist()):
        problem, path = divmod(place, WIDTH) if place >= 0 else (row // (len(places) // PROBLEMS), None)
        assert problem == row // (len(places) // PROBLEMS)
        if path is None:
            keys[row], newest[row] = -9.0, -9.0  # must reach no path
            continue
        known, more = paths[problem][path], new[problem][path]
        np.testing.assert_array_equal(keys[row, 0, : len(known), 0], known)
        assert lengths[row] == len(known) and last[row, 0] == (known[-1] if known else 0.0)
        keys[row, 0, len(known) : len(known) + len(more), 0] = more
        newest[row] = more[-1]
        after[problem][path] = (*known, *more)
    rows.put(dataclasses.replace(cache, keys=(jnp.asarray(keys),), values=(jnp.asarray(values),)), jnp.asarray(newest))
    assert spread(newest, places, PROBLEMS * WIDTH).reshape(PROBLEMS, WIDTH)[active].min() > 0
    return after


def test_paths_hold_what_they_wrote():
    """Random levels: some paths go on, some of these are taken back, all are reordered; room and rows grow on the way."""
    rng, rows, count = np.random.default_rng(0), empty_rows(room=4), 0
    paths = [[()] * WIDTH for _ in range(PROBLEMS)]

    def drawn(size):
        nonlocal count
        count += 1
        return [[tuple(100.0 * count + 10 * problem + path + np.arange(size) / 8) for path in range(WIDTH)]
                for problem in range(PROBLEMS)]

    for _ in range(12):
        active = rng.random((PROBLEMS, WIDTH)) < 0.6
        active[0, 0] = True
        paths = write(rows, active, paths, drawn(2))
        if rng.random() < 0.5:
            mark, ahead = rows.mark(), paths
            for _ in range(2):
                ahead = write(rows, active, ahead, drawn(1))
            rows.back(mark)
        parents = rng.integers(0, WIDTH, (PROBLEMS, WIDTH))
        rows.gather(parents)
        paths = [[of_problem[parent] for parent in chosen] for of_problem, chosen in zip(paths, parents)]
    everyone = np.ones((PROBLEMS, WIDTH), bool)
    write(rows, everyone, paths, drawn(1))
    assert max(len(path) for of_problem in paths for path in of_problem) > 8


def test_rows_are_made_as_they_are_needed():
    rows, one = empty_rows(), np.zeros((PROBLEMS, WIDTH), bool)
    one[0, 1] = True
    places, cache, _ = rows.take(one, np.zeros((PROBLEMS, WIDTH), int), 3)
    assert cache.keys[0].shape == (2, 1, ROOM, 1) and places.tolist() == [1, -1]  # beside the row of the others
    rows.put(cache, jnp.ones((2, 1)))
    rows.gather(np.full((PROBLEMS, WIDTH), 1))
    _, cache, last = rows.take(one, np.full((PROBLEMS, WIDTH), 2), 200)
    assert cache.keys[0].shape == (2, 1, 202, 1) and last.tolist() == [[1.0], [0.0]]  # no more room than was expected
