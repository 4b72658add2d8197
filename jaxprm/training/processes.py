"""Several processes that train together: which rows each one reads, and who writes first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import jax
from orbax.checkpoint import multihost

from jaxprm.errors import InputError
from jaxprm.models.parameters import batch_sharding

_PATIENCE_MS = 24 * 3600 * 1000  # the first process may encode a large data set while the others wait


@contextlib.contextmanager
def first_process_first(name: str) -> Iterator[None]:
    """The block runs in process 0, then in all others: what the first one has written they only read.

    If it raises in process 0, the others run it all the same, and find out for themselves.
    """
    wait = multihost.get_barrier_sync_fn() if jax.process_count() > 1 else None
    first = jax.process_index() == 0
    if wait is not None and not first:
        wait(key=f"jaxprm {name}", timeout_ms=_PATIENCE_MS)
    try:
        yield
    finally:
        if wait is not None and first:
            wait(key=f"jaxprm {name}", timeout_ms=_PATIENCE_MS)


def share_of_rows(mesh: jax.sharding.Mesh | None) -> tuple[int, int]:
    """(index, count): this process reads share ``index`` of the ``count`` shares into which the mesh splits a batch's rows.

        two processes of 4 devices      mesh (2, 4, 1), (8, 1, 1): 2 shares, one each
                                        mesh (1, 1, 8): every device holds all rows, both processes read the one share

    Raises:
      InputError: several processes without a mesh, or a mesh that splits rows unevenly over them.
    """
    if mesh is None:
        if jax.process_count() > 1:
            raise InputError(f"is needed by {jax.process_count()} processes that train together", field="mesh", value=None,
                             hint="such as (-1, 1, 1): the rows of a batch are split over all devices")
        return 0, 1
    size = mesh.shape["data"] * mesh.shape["fsdp"]
    rows: dict[int, set[int]] = {}
    for device, (places,) in batch_sharding(mesh).devices_indices_map((size,)).items():
        rows.setdefault(device.process_index, set()).update(range(size)[places])
    return _share(rows, jax.process_index())


def _share(rows: Mapping[int, set[int]], process: int) -> tuple[int, int]:
    shares = sorted({tuple(sorted(held)) for held in rows.values()})
    if len({row for share in shares for row in share}) != sum(map(len, shares)) or len({len(share) for share in shares}) > 1:
        raise InputError(f"does not split rows evenly over {len(rows)} processes", field="mesh",
                         hint="the devices of a process should hold whole rows of their own")
    return shares.index(tuple(sorted(rows[process]))), len(shares)
