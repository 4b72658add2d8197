"""Settings of the process that make JAX faster on a CPU; harmless elsewhere."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory instead of returning it to the kernel; True if it took.

    XLA allocates its temporary buffers anew for every call. By default glibc maps buffers of this size and unmaps them after
    use, so each training step pays a page fault per 4 KiB: a fifth to a third of a small model's step on CPU
    (`experiments/LOG.md`). Call it before the first large allocation.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc (musl has no mallopt)
        return False
    return all(mallopt(option, value) for option, value in (
        (_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 256 << 20)))
