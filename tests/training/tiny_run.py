"""The smallest training run: one logit per token. As a process: ``python tiny_run.py DIRECTORY STEPS``, exit code 75 after
SIGTERM; the last parameters go to ``result.npz``."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxprm.data.examples import step_example
from jaxprm.data.pipeline import StepDataset
from jaxprm.errors import Stopped
from jaxprm.models import parameters
from jaxprm.objectives import binary_cross_entropy
from jaxprm.testing import random_solutions
from jaxprm.training import OptimizerConfig, TrainConfig, fit


class TokenScores(nnx.Module):
    """One logit per token, and a norm-like parameter: the smallest model with something to learn."""

    def __init__(self):
        self.table = nnx.Param(jnp.zeros((20, 1)))
        self.bias = nnx.Param(jnp.zeros((1,)))


def loss_of(model, batch):
    tokens = jnp.take_along_axis(batch["tokens"], batch["step_ends"], axis=1)
    outputs = model.table[...][tokens] + model.bias[...]
    return binary_cross_entropy(outputs, batch["labels"], batch["label_mask"] & batch["step_mask"])


def dataset(epochs=None):
    examples = [step_example(s.ids, [end - 1 for end in s.step_ends], s.labels) for s in random_solutions(0, 40)]
    return StepDataset(examples, row_tokens=40, row_steps=8, batch_rows=4, seed=1, epochs=epochs)


def spread(model):
    """A number of the model for evaluations."""
    return {"spread": float(jnp.std(model.table[...])), "undefined": float("nan")}


def main(directory: Path, steps: int) -> int:
    config = TrainConfig(steps=steps, optimizer=OptimizerConfig(learning_rate=0.05), log_every=5, checkpoint_every=10, ema=0.9,
                         evaluate_every=20, best_by="spread")
    try:
        model = fit(TokenScores(), loss_of, dataset(), config, directory, run={}, evaluate=spread)
    except Stopped as stopped:
        print(stopped)
        return 75
    np.savez(directory / "result.npz", **parameters(model))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
