"""Settings of the process that come before JAX looks for devices: memory on a CPU, and other processes."""

from __future__ import annotations

import ctypes
import sys

from jaxprm.errors import InputError

_LAST_WORDS = 3600  # seconds that processes which have ended wait for the first one, which still writes the model
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


def join_processes(text: str) -> None:
    """Makes this process one of several that compute together. All of them run the same command on the same files.

    Args:
      text: "auto", where the machine says it (TPU pods, SLURM, Open MPI, Kubernetes), else ``HOST:PORT,COUNT,INDEX``: an
        address of process 0 that all can reach, the number of processes, and which of them this is, from 0.

    Raises:
      InputError: the text is something else, or the others cannot be found.
    """
    settings: dict = {}
    if text != "auto":
        address, *numbers = text.split(",")
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
            raise InputError("must be auto or HOST:PORT,COUNT,INDEX", field="distributed", value=text,
                             hint="such as 10.0.0.1:1234,2,0 for the first of two")
        count, index = map(int, numbers)
        if index >= count:
            raise InputError(f"has index {index}, but processes are numbered from 0 to {count - 1}", field="distributed",
                             value=text)
        settings = {"coordinator_address": address, "num_processes": count, "process_id": index}
    import jax

    try:
        jax.distributed.initialize(**settings, shutdown_timeout_seconds=_LAST_WORDS)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise InputError(f"the processes cannot be joined ({reason})", field="distributed", value=text,
                         hint="give HOST:PORT,COUNT,INDEX" if text == "auto" else "start all processes, with one address "
                         "and one number of them") from None
