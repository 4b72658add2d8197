"""Grading a program by its unit tests, in a process of its own with limits on time, memory and files.

What the limits are and what they are not:

- The child is a fresh isolated interpreter (``python -I``) in an empty temporary folder, with an empty environment, in a
  session of its own. CPU seconds, address space, size of written files, open files and core dumps have hard limits,
  which the program cannot raise (root can). At the wall-clock limit the whole session is killed.
- The verdict comes through a random word that the child prints after the last test: leaving early (``sys.exit(0)``), an
  exception or a crash is a failure.
- It is no security boundary. The program runs as the same user: it can read that user's files, use the network, and
  look into its own process. Run programs of people you do not trust inside a container or a virtual machine.
- Address space is limited on Linux; macOS ignores that limit. Windows has no such limits and is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from typing import Literal

from jaxprm.errors import InputError

Outcome = Literal["passed", "failed", "timeout", "memory", "crashed"]

_CHILD = """
import json, os, resource, sys
task = json.load(sys.stdin)
out = os.dup(1)
for name, value in task["limits"].items():
    resource.setrlimit(getattr(resource, name), (value, value))
word = task.pop("word")
space = {"__name__": "__main__"}
try:
    exec(compile(task["program"], "program.py", "exec"), space)
    exec(compile(task["tests"], "tests.py", "exec"), space)
except MemoryError:
    sys.exit(71)
except BaseException as error:
    print(f"{type(error).__name__}: {error}"[:300], file=sys.stderr)
    sys.exit(70)
os.write(out, word.encode())
os._exit(0)
"""


@dataclasses.dataclass(frozen=True)
class CodeResult:
    """What became of a program.

    Attributes:
      outcome: "passed"; "failed": an exception, a failed assertion, or an early exit; "timeout"; "memory": the limit of
        memory; "crashed": killed by a signal.
      detail: the end of what it wrote to standard error.
    """

    outcome: Outcome
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"


@dataclasses.dataclass(frozen=True)
class CodeLimits:
    """Limits of one run.

    Attributes:
      seconds: wall clock; CPU time has the same limit, rounded up.
      memory_mb: address space in MiB (the interpreter itself needs about 30).
      file_mb: size of a file that the program writes, in MiB.
    """

    seconds: float = 10.0
    memory_mb: int = 512
    file_mb: int = 16

    def __post_init__(self):
        for name, low in (("seconds", 0), ("memory_mb", 31), ("file_mb", 0)):
            if not getattr(self, name) > low:
                raise InputError(f"must be above {low}", field=name, value=getattr(self, name))


def run_code_tests(program: str, tests: str, limits: CodeLimits = CodeLimits()) -> CodeResult:
    """Runs the tests (assert statements, for example) after the program, in its namespace.

      In:   program "def double(x): return 2 * x", tests "assert double(3) == 6"
      Out:  CodeResult("passed")

    Raises:
      InputError: no POSIX system.
    """
    if os.name != "posix":
        raise InputError("programs can be graded on Linux and macOS alone", field="system", value=os.name)
    word = secrets.token_hex(16)
    mebibyte = 2**20
    task = {"program": program, "tests": tests, "word": word, "limits": {
        "RLIMIT_CPU": int(limits.seconds) + 1, "RLIMIT_AS": limits.memory_mb * mebibyte,
        "RLIMIT_FSIZE": limits.file_mb * mebibyte, "RLIMIT_NOFILE": 64, "RLIMIT_CORE": 0}}
    if sys.platform == "darwin":
        del task["limits"]["RLIMIT_AS"]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        # Standard output and error are files, so that a program that writes without end meets the limit of file size.
        child = subprocess.Popen([sys.executable, "-I", "-c", _CHILD], cwd=folder, env={"TMPDIR": folder, "HOME": folder},
                                 stdin=subprocess.PIPE, stdout=output, stderr=errors, start_new_session=True)
        try:
            child.communicate(json.dumps(task).encode(), timeout=limits.seconds)
            timed_out = False
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # also what the program started and left behind
            child.wait()
        said, detail = _end(output), _end(errors).strip()
    if timed_out or child.returncode == -signal.SIGXCPU:
        return CodeResult("timeout", detail)
    if child.returncode == 0 and said.endswith(word):
        return CodeResult("passed", detail)
    if child.returncode == 71:
        return CodeResult("memory", detail)
    return CodeResult("crashed" if child.returncode < 0 else "failed", detail)


def _end(file, size: int = 500) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - size))
    return file.read().decode("utf-8", "replace")
