"""Real processes that end at any moment: SIGKILL ten times in a row, and SIGTERM."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxprm.training import read_metrics, without_timing

PROGRAM = Path(__file__).with_name("tiny_run.py")
STEPS = 300
TIMEOUT = 200


@pytest.fixture
def start():
    """Starts a process; none outlives the test."""
    started = []

    def begin(directory, steps=STEPS):
        command = [sys.executable, PROGRAM, directory, str(steps)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"}))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def last_step(directory):
    lines = read_metrics(directory / "metrics.jsonl")
    return lines[-1]["step"] if lines else 0


def wait_for(condition, process):
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.003)


def result(directory):
    with np.load(directory / "result.npz") as values:
        return dict(values)


@pytest.mark.timeout(900)  # twelve starts of Python and JAX, one after the other: a quiet machine needs less than a minute
def test_ten_kills_at_random_moments_change_nothing(start, tmp_path):
    """Each process is killed when the run has come some steps further than any before it, at a random moment of what it does
    then: a step, an evaluation, the write of a checkpoint, its deletion."""
    whole = start(tmp_path / "whole")
    rng, reached = random.Random(0), 0
    for kill in range(10):
        target = reached + rng.randint(5, 20)
        process = start(tmp_path / "killed")
        wait_for(lambda: last_step(tmp_path / "killed") >= target, process)  # noqa: B023
        time.sleep(rng.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, kill
        reached = last_step(tmp_path / "killed")
    assert reached < STEPS
    last = start(tmp_path / "killed")
    for process in (whole, last):
        assert process.wait(TIMEOUT) == 0, process.communicate()
    expected = result(tmp_path / "whole")
    for name, value in result(tmp_path / "killed").items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    one, other = (without_timing(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("whole", "killed"))
    assert one == other and len(one) == STEPS // 5


def test_sigterm_saves_and_ends_with_one_line(start, tmp_path):
    process = start(tmp_path / "run", 100_000)
    wait_for(lambda: last_step(tmp_path / "run") >= 5, process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 75 and out.count("\n") == 1
    step = int(out.split("after step ")[1].split(" ")[0].replace(",", ""))
    assert out == (f"train: stopped by SIGTERM after step {step:,} of 100,000, which is saved; the same command goes on from "
                   "there\n")
    saved = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit())
    assert saved == step and not (tmp_path / "run" / "result.npz").exists()
