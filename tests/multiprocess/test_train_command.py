"""``jaxprm train`` in two processes on this machine learns what one process learns."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxprm.cli.config import resolve
from jaxprm.data.solutions import in_held_out
from jaxprm.errors import InputError
from jaxprm.models import make_mesh
from jaxprm.pipelines.train_prm import TrainPRM, run
from jaxprm.progress import SilentProgress
from jaxprm.records import LabeledSolution, Problem, Solution
from jaxprm.run_directory import RunDirectory
from jaxprm.runtime import join_processes
from jaxprm.training import read_metrics
from jaxprm.training.processes import _share, first_process_first, share_of_rows

GIN = """
from __gin__ import dynamic_registration
from jaxprm.data import solutions
from jaxprm.models import config as models
from jaxprm.pipelines import train_prm
from jaxprm.steps import format as steps
from jaxprm.training import loop
from jaxprm.training import optimizer

train_prm.TrainPRM:
    data = @solutions.SolutionFiles()
    model = @models.TransformerConfig()
    step_format = @steps.StepFormat()
    training = @loop.TrainConfig()
    row_tokens = 48
    row_steps = 3
    batch_rows = 8
    held_out = 0.3
    mesh = (-1, 1, 1)
    count_prefixes_once = False
solutions.SolutionFiles.files = ("FILE",)
steps.StepFormat.separator = "<step>"
models.TransformerConfig:
    vocab_size = 320
    width = 16
    layers = 1
    heads = 2
    kv_heads = 1
    head_dim = 8
    mlp_dim = 32
    context = 48
loop.TrainConfig:
    steps = 5
    log_every = 1
    checkpoint_every = 3
    evaluate_every = 5
    optimizer = @optimizer.OptimizerConfig()
optimizer.OptimizerConfig:
    learning_rate = 3e-2
    warmup = 0.0
"""
STEPS = ["so we have 4 and 3", "oops that is 8", "hence 7"]


def config_file(folder: Path, name: str, labels: list[float]) -> Path:
    """Training solutions that differ in nothing but their labels, which these are in turn; others are held out."""
    sides: dict[bool, list[str]] = {True: [], False: []}
    for index in range(50):
        problem = f"Add {index} and {index % 7} ."
        sides[in_held_out(LabeledSolution("i", Solution(Problem("p", problem), ("x",)), None), 0.3)].append(problem)
    rows = [{"problem": sides[False][0], "steps": STEPS, "soft_labels": [label] * 3} for label in labels * 8]
    rows += [{"problem": problem, "steps": STEPS, "labels": [1, -1, 1]} for problem in sides[True][:6]]
    rows = [{"id": str(index), **row} for index, row in enumerate(rows)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.gin").write_text(GIN.replace("FILE", str(folder / f"{name}.jsonl")))
    return folder / f"{name}.gin"


def in_two_processes(config: Path, directory: Path) -> list[str]:
    """What both print, when both have ended well."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "JAXPRM_CACHE": str(directory.parent / "cache")}
    started, texts = [], []
    try:
        for index in range(2):
            command = [sys.executable, "-W", "error", "-m", "jaxprm.cli.main", "train", config, "--run", directory]
            started.append(subprocess.Popen(
                list(map(str, command)), env=environment | {"JAXPRM_DISTRIBUTED": f"localhost:{port},2,{index}"},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        texts = [process.communicate(timeout=400)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0, 0], "\n".join(texts)
    return texts


@pytest.mark.timeout(900)
def test_the_loss_is_that_of_one_process(tmp_path):
    """The first process reads the solutions labelled 1, the second those labelled 0; cross-entropy is linear in the label, so
    that one process with labels of one half has the same loss and gradient, if each reads its own share and both are summed."""
    two = tmp_path / "two"
    talk, silence = in_two_processes(config_file(tmp_path, "two", [1.0, 0.0]), two)
    assert "one epoch is" in talk and f"model: {two / 'model'}" in talk
    assert all(line.startswith("[Gloo]") for line in silence.splitlines())  # XLA says that the processes are connected
    config = resolve(str(config_file(tmp_path, "one", [0.5, 0.5])), [], TrainPRM).config
    one = RunDirectory(tmp_path / "one", config)
    run(config, one, SilentProgress())
    lines = [read_metrics(path / "metrics.jsonl") for path in (one.path, two)]
    for name in ("loss", "gradient_norm", "evaluation/loss", "evaluation/step_auroc"):
        first, second = ([line[name] for line in each if name in line] for each in lines)
        assert first
        np.testing.assert_allclose(second, first, rtol=1e-4, err_msg=name)
    assert [line["step"] for line in lines[1]] == [1, 2, 3, 4, 5]
    found = [json.loads((path / "results.json").read_text()) for path in (one.path, two)]
    assert found[0]["held_out"].keys() == found[1]["held_out"].keys() and (two / "report.html").is_file()
    assert json.loads((two / "status.json").read_text())["state"] == "finished"


def test_share_of_rows():
    assert share_of_rows(None) == share_of_rows(make_mesh(2, 2, 2)) == (0, 1)
    assert [_share({0: {0, 1}, 1: {2, 3}}, process) for process in (0, 1)] == [(0, 2), (1, 2)]
    assert [_share({0: {2, 3}, 1: {0, 1}}, process) for process in (0, 1)] == [(1, 2), (0, 2)]
    same = {0: {0}, 1: {1}, 2: {0}, 3: {1}}  # the devices of two processes hold a model together
    assert [_share(same, process) for process in range(4)] == [(0, 2), (1, 2), (0, 2), (1, 2)]
    for uneven in ({0: {0, 1}, 1: {1, 2}}, {0: {0}, 1: {1, 2}}):
        with pytest.raises(InputError, match="field 'mesh': does not split rows evenly over 2 processes"):
            _share(uneven, 0)


def test_processes_need_a_mesh_and_wait_for_the_first(monkeypatch):
    events = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr("jaxprm.training.processes.multihost.get_barrier_sync_fn",
                        lambda: lambda key, timeout_ms: events.append(key))
    with pytest.raises(InputError, match="field 'mesh' = None: is needed by 2 processes that train together"):
        share_of_rows(None)
    for index in (0, 1):
        monkeypatch.setattr(jax, "process_index", lambda: index)  # noqa: B023
        with pytest.raises(KeyError), first_process_first("work"):
            events.append(index)
            raise KeyError
    assert events == [0, "jaxprm work", "jaxprm work", 1]


@pytest.mark.parametrize("text", ["1234", "host,2,0", "host:1234,2", "host:port,2,0", "host:1234,2,-1", "host:1,2,0,0"])
def test_how_processes_are_named(text):
    with pytest.raises(InputError, match="field 'distributed' = .*: must be auto or HOST:PORT,COUNT,INDEX; such as 10.0.0.1"):
        join_processes(text)


def test_processes_that_cannot_be_joined():
    with pytest.raises(InputError, match="has index 2, but processes are numbered from 0 to 1"):
        join_processes("localhost:1234,2,2")
    # This process has been computing: jax must be told before.
    jax.devices()
    with pytest.raises(InputError, match="field 'distributed' = 'localhost:1,2,0': the processes cannot be joined"):
        join_processes("localhost:1,2,0")
