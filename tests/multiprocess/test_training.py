"""Two processes on this machine, two devices each, train as one process does."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jaxprm.training import read_metrics

WORKER = Path(__file__).with_name("worker.py")
TIMEOUT = 200


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def running(directory: Path, steps: int, processes: int = 2) -> Iterator[list[subprocess.Popen]]:
    """The worker in so many processes, which write to ``<steps>-<index>.log`` beside ``directory``; none is left behind."""
    port, started = free_port(), []
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(4 // processes)}
    try:
        for index in range(processes):
            with open(log_of(directory, steps, index), "w") as log:
                command = [sys.executable, "-W", "error", WORKER, directory, port, index, processes, steps]
                started.append(subprocess.Popen(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT, env=environment))
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def log_of(directory: Path, steps: int, index: int) -> Path:
    return directory.parent / f"{steps}-{index}.log"


def wait(processes: list[subprocess.Popen], directory: Path, steps: int, code: int = 0) -> list[str]:
    """The output of each, when all have ended with this exit code; they have until the timeout, and the assertion shows what
    they wrote."""
    end = time.monotonic() + TIMEOUT
    while any(process.poll() is None for process in processes):
        if time.monotonic() > end or any(process.poll() not in (None, code) for process in processes):
            break
        time.sleep(0.1)
    codes = [process.poll() for process in processes]
    texts = [log_of(directory, steps, index).read_text() for index in range(len(processes))]
    assert codes == [code] * len(processes), f"exit codes {codes} (None: stopped)\n" + "\n".join(texts)
    return texts


def losses(directory: Path) -> list[float]:
    lines = read_metrics(directory / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))  # one process writes, the other does not
    return [line["loss"] for line in lines]


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as values:
        return dict(values)


@pytest.mark.timeout(900)
def test_two_processes_train_as_one_and_resume(tmp_path):
    """Both together see the rows of a single process's batches. They end after step 2 and go on to step 4."""
    spec = importlib.util.spec_from_file_location("worker", WORKER)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    worker.train(tmp_path / "one", 0, 1, 4)
    for steps in (2, 4):
        with running(tmp_path / "two", steps) as processes:
            assert all("devices 4 2" in text for text in wait(processes, tmp_path / "two", steps))
        assert len(losses(tmp_path / "two")) == steps
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 4 and one[0] != one[1]
    np.testing.assert_allclose(two, one, rtol=1e-5)
    gradients = [arrays(tmp_path / name / "gradient.npz") for name in ("one", "two")]
    for name, value in gradients[0].items():
        np.testing.assert_allclose(gradients[1][name], value, atol=1e-5 * np.abs(value).max() + 1e-7, err_msg=name)
    values = [arrays(tmp_path / name / "parameters.npz") for name in ("one", "two")]
    for name, value in values[0].items():
        np.testing.assert_allclose(values[1][name], value, atol=2e-3, err_msg=name)


@pytest.mark.timeout(900)
def test_sigterm_to_one_process_stops_both_at_one_step(tmp_path):
    """As a scheduler that takes one machine away: both save the same step and end with 75."""
    directory, steps = tmp_path / "run", 100_000
    with running(directory, steps) as processes:
        end = time.monotonic() + TIMEOUT
        while len(read_metrics(directory / "metrics.jsonl")) < 3 and time.monotonic() < end:
            assert all(process.poll() is None for process in processes)
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGTERM)
        texts = wait(processes, directory, steps, 75)
    lines = {text.strip().splitlines()[-1] for text in texts}
    assert len(lines) == 1 and (line := lines.pop()).startswith("train: stopped by SIGTERM after step ")
    step = int(line.split("after step ")[1].split(" ")[0].replace(",", ""))
    assert step in [int(path.name) for path in (directory / "checkpoints").iterdir() if path.name.isdigit()]
