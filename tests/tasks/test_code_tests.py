import os
import time

import pytest

from jaxprm.errors import InputError
from jaxprm.tasks.code_tests import CodeLimits, run_code_tests

DOUBLE = "def double(x):\n    return 2 * x\n"


def test_right_and_wrong_programs():
    assert run_code_tests(DOUBLE, "assert double(3) == 6").passed
    wrong = run_code_tests(DOUBLE.replace("2 *", "3 *"), "assert double(3) == 6, 'three'")
    assert wrong.outcome == "failed" and "AssertionError: three" in wrong.detail
    assert run_code_tests("def double(x) return", "").outcome == "failed"
    assert run_code_tests("print('noise'); import sys; print('more', file=sys.stderr)", "assert True").passed


@pytest.mark.parametrize("program", ["import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit",
                                     "assert False", "import nothing_of_that_name"])
def test_leaving_early_is_no_success(program):
    assert run_code_tests(program, "assert 1 == 1").outcome == "failed"


def test_time_is_limited_also_for_what_the_program_starts():
    before = time.monotonic()
    assert run_code_tests("while True: pass", "", CodeLimits(seconds=1)).outcome == "timeout"
    assert run_code_tests("import time; time.sleep(60)", "", CodeLimits(seconds=1)).outcome == "timeout"
    assert run_code_tests("import os\nif os.fork() == 0:\n    import time; time.sleep(60)", "", CodeLimits(seconds=20)).passed
    assert time.monotonic() - before < 50


def test_memory_files_and_crashes_are_caught():
    assert run_code_tests("x = bytearray(2**30)", "", CodeLimits(memory_mb=128)).outcome == "memory"
    assert not run_code_tests("open('big', 'wb').write(bytes(2**22))", "", CodeLimits(file_mb=1)).passed
    assert run_code_tests("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "").outcome == "crashed"
    raised = "import resource as r\nr.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY, r.RLIM_INFINITY))"
    if os.geteuid() != 0:  # root may raise limits
        assert run_code_tests(raised, "").outcome == "failed"


def test_the_program_sees_neither_the_environment_nor_the_folder(monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_PARENT", "1")
    tests = "import os\nassert 'SECRET_OF_THE_PARENT' not in os.environ and os.listdir('.') == []"
    assert run_code_tests("", tests).passed


def test_limits_are_checked():
    for options in ({"seconds": 0}, {"memory_mb": 8}, {"file_mb": 0}):
        with pytest.raises(InputError, match="must be above"):
            CodeLimits(**options)
