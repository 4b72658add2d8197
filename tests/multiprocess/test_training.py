"""Two processes on this machine, two devices each, train as one process does."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from jaxprm.training import read_metrics

WORKER = Path(__file__).with_name("worker.py")
TIMEOUT = 200


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def launch(directory: Path, steps: int, processes: int = 2) -> list[str]:
    """Runs the worker in so many processes; the output of each. All end with the first failure or at the timeout, and the
    assertion shows what they wrote."""
    port, logs, running = free_port(), [], []
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(4 // processes)}
    for index in range(processes):
        logs.append(directory.parent / f"{steps}-{index}.log")
        with open(logs[-1], "w") as log:
            command = [sys.executable, "-W", "error", WORKER, directory, port, index, processes, steps]
            running.append(subprocess.Popen(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT, env=environment))
    end = time.monotonic() + TIMEOUT
    try:
        while any(process.poll() is None for process in running):
            if time.monotonic() > end or any(process.poll() for process in running):
                break
            time.sleep(0.1)
    finally:
        codes = [process.poll() for process in running]
        for process in running:
            process.kill()
            process.wait()
    texts = [log.read_text() for log in logs]
    assert codes == [0] * processes, f"exit codes {codes} (None: stopped)\n" + "\n".join(texts)
    return texts


def losses(directory: Path) -> list[float]:
    lines = read_metrics(directory / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))  # one process writes, the other does not
    return [line["loss"] for line in lines]


def test_two_processes_train_as_one_and_resume(tmp_path):
    """Both together see the rows of a single process's batches. They end after step 2 and go on to step 4."""
    spec = importlib.util.spec_from_file_location("worker", WORKER)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    worker.train(tmp_path / "one", 0, 1, 4)
    launch(tmp_path / "two", 2)
    assert len(losses(tmp_path / "two")) == 2
    assert all("devices 4 2" in text for text in launch(tmp_path / "two", 4))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 4 and one[0] != one[1]
    np.testing.assert_allclose(two, one, rtol=1e-5)
