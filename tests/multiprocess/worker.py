"""One process of a training run: ``python worker.py DIRECTORY PORT INDEX COUNT STEPS``; exit code 75 after SIGTERM."""

import sys
from pathlib import Path

import jax
import numpy as np
import optax


def train(directory: Path, index: int, count: int, steps: int) -> None:
    """Process ``index`` of ``count`` reads every ``count``-th example; together they are the mesh 2 x 2 of 4 devices.

    Process 0 leaves the gradient of the first step in ``gradient.npz`` and the last parameters in ``parameters.npz``.
    """
    from jaxprm.data.examples import step_example
    from jaxprm.data.pipeline import StepDataset
    from jaxprm.models import make_mesh, parameters
    from jaxprm.objectives import binary_cross_entropy
    from jaxprm.testing import random_solutions, tiny_config, tiny_reward_model
    from jaxprm.training import (
        OptimizerConfig, TrainConfig, fit, initial_state, make_train_step, mesh_scope, on_one_device, step_loss)
    from jaxprm.training.placement import place_batch

    examples = [step_example(s.ids, s.step_ends, s.labels) for s in random_solutions(0, 24)]
    data = StepDataset(examples, row_tokens=32, row_steps=8, batch_rows=8 // count, seed=None, packing=False,
                       process_index=index, process_count=count)
    loss, model = step_loss(binary_cross_entropy), tiny_reward_model(0, config=tiny_config(layers=1))
    mesh = make_mesh(2, 2, 1, devices=jax.devices()[:4])

    def save(name: str, values) -> None:
        values = on_one_device(values)
        if index == 0:
            directory.mkdir(parents=True, exist_ok=True)
            np.savez(directory / name, **values)

    if not (directory / "checkpoints").exists():  # the run begins
        sgd = optax.sgd(1.0)  # the change of a parameter is its gradient
        with mesh_scope(mesh):
            state = make_train_step(model, loss, sgd)(initial_state(model, sgd, mesh), place_batch(next(iter(data)), mesh))[0]
        moved = on_one_device(state.parameters)
        save("gradient.npz", {name: value - moved[name] for name, value in parameters(model).items()})
    optimizer = OptimizerConfig(learning_rate=0.01, final_rate=1.0, warmup=0.0)
    model = fit(model, loss, data, TrainConfig(steps, optimizer, log_every=1, checkpoint_every=2, accumulate=2), directory,
                run={}, mesh=mesh)
    save("parameters.npz", parameters(model))


if __name__ == "__main__":
    from jaxprm.errors import Stopped

    port, index, count, steps = map(int, sys.argv[2:])
    jax.distributed.initialize(f"localhost:{port}", count, index)
    print("devices", jax.device_count(), jax.local_device_count())
    try:
        train(Path(sys.argv[1]), index, count, steps)
    except Stopped as stopped:
        print(stopped)
        sys.exit(75)
