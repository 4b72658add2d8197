"""One process of a training run: ``python worker.py DIRECTORY PORT INDEX COUNT STEPS``."""

import sys
from pathlib import Path

import jax


def train(directory: Path, index: int, count: int, steps: int) -> None:
    """Process ``index`` of ``count`` reads every ``count``-th example; together they are the mesh 2 x 2 of 4 devices."""
    from jaxprm.data.examples import step_example
    from jaxprm.data.pipeline import StepDataset
    from jaxprm.models import make_mesh
    from jaxprm.objectives import binary_cross_entropy
    from jaxprm.testing import random_solutions, tiny_config, tiny_reward_model
    from jaxprm.training import OptimizerConfig, TrainConfig, fit, step_loss

    examples = [step_example(s.ids, s.step_ends, s.labels) for s in random_solutions(0, 24)]
    data = StepDataset(examples, row_tokens=32, row_steps=8, batch_rows=8 // count, seed=None, packing=False,
                       process_index=index, process_count=count)
    optimizer = OptimizerConfig(learning_rate=0.01, final_rate=1.0, warmup=0.0)
    model = tiny_reward_model(0, config=tiny_config(layers=1))
    fit(model, step_loss(binary_cross_entropy), data, TrainConfig(steps, optimizer, log_every=1, checkpoint_every=2),
        directory, run={}, mesh=make_mesh(2, 2, 1, devices=jax.devices()[:4]))


if __name__ == "__main__":
    port, index, count, steps = map(int, sys.argv[2:])
    jax.distributed.initialize(f"localhost:{port}", count, index)
    print("devices", jax.device_count(), jax.local_device_count())
    train(Path(sys.argv[1]), index, count, steps)
