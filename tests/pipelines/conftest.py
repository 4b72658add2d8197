"""A small labelled set that a tiny model can learn, a config for it, and a model trained on it."""

import json
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxprm.cli.main import main
from jaxprm.data.solutions import SolutionFiles
from jaxprm.models import TransformerConfig
from jaxprm.pipelines.train_prm import TrainPRM, run
from jaxprm.progress import SilentProgress
from jaxprm.run_directory import RunDirectory
from jaxprm.steps import StepFormat
from jaxprm.training import OptimizerConfig, TrainConfig

PROBLEMS = 40


def candidate_rows(problems=PROBLEMS, seed=0):
    """Per problem a chosen solution of 3 right steps and, at each depth, one candidate: a wrong, wrong or neutral step.

    A right step says "so", a wrong one "oops": 4 rows, 3 + 3 distinct prefixes, 2 of them wrong, 1 neutral.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(problems):
        problem = f"Add {index} and {rng.integers(10)} ."
        chosen = [f"so we have {rng.integers(10)}" for _ in range(3)]
        rows.append({"id": f"{index}-chosen", "problem": problem, "steps": chosen, "labels": [1, 1, 1],
                     "first_error": -1})
        for depth, rating in enumerate((-1, -1, 0)):
            word = "oops" if rating == -1 else "so"
            rows.append({"id": f"{index}-{depth}", "problem": problem, "labels": [1] * depth + [rating],
                         "steps": [*chosen[:depth], f"{word} maybe {rng.integers(10)}"],
                         "first_error": depth if rating == -1 else None})
    return rows


def write_rows(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tiny_config(files, **fields) -> TrainPRM:
    training = TrainConfig(steps=24, log_every=4, checkpoint_every=8, optimizer=OptimizerConfig(learning_rate=2e-2))
    values = {"data": SolutionFiles(tuple(map(str, files))), "row_tokens": 64, "row_steps": 16, "batch_rows": 8,
              "model": TransformerConfig(320, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_dim=32,
                                         context=64),
              "step_format": StepFormat(separator="<step>"), "held_out": 0.3, "training": training}
    return TrainPRM(**(values | fields))


def tiny_gin(file, steps: int) -> str:
    """A config file for `tiny_config`, with a line of metrics for every step."""
    return f"""
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
    row_tokens = 64
    row_steps = 16
    batch_rows = 8
    held_out = 0.3
solutions.SolutionFiles.files = ("{file}",)
steps.StepFormat.separator = "<step>"
models.TransformerConfig:
    vocab_size = 320
    width = 16
    layers = 1
    heads = 2
    kv_heads = 1
    head_dim = 8
    mlp_dim = 32
    context = 64
loop.TrainConfig:
    steps = {steps}
    log_every = 1
    checkpoint_every = 40
    optimizer = @optimizer.OptimizerConfig()
optimizer.OptimizerConfig.learning_rate = 1e-3
"""


def train(config, path, progress=None) -> RunDirectory:
    directory = RunDirectory(path, config)
    run(config, directory, progress or SilentProgress())
    return directory


def call(*arguments) -> int:
    """Exit code of the command line."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


@pytest.fixture(scope="session")
def toy() -> types.SimpleNamespace:
    """The functions of this file, for test modules, which cannot import it."""
    return types.SimpleNamespace(PROBLEMS=PROBLEMS, rows=candidate_rows, write=write_rows, config=tiny_config,
                                 gin=tiny_gin, train=train, call=call)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "labelled.jsonl", candidate_rows())


@pytest.fixture(scope="session")
def trained(labelled, tmp_path_factory) -> Path:
    """The directory of a finished run on `labelled`."""
    return train(tiny_config([labelled]), tmp_path_factory.mktemp("runs") / "trained").path


@pytest.fixture(autouse=True)
def own_compilation_cache(monkeypatch, tmp_path_factory):
    """Commands set the persistent cache up; here one of the test session's own."""
    monkeypatch.setenv("JAXPRM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("JAXPRM_DATA", raising=False)
    yield
    jax.config.update("jax_compilation_cache_dir", None)
