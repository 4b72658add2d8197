"""XLA's own memory analysis of a training step, to hold the plan against. Nothing is allocated or run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxprm.models import batch_sharding, parameters
from jaxprm.pipelines.plan import Setup
from jaxprm.training import TrainState, lora, make_train_step, mesh_scope
from jaxprm.training.optimizer import is_head
from jaxprm.training.placement import placements


def compiled_memory(plan: Setup, mesh: jax.sharding.Mesh | None, *, head_alone: bool = False):
    """``argument_size_in_bytes`` and ``temp_size_in_bytes`` (and more) per device of the step that `fit` compiles.

    Args:
      plan: what is trained.
      mesh: devices (simulated ones, in tests) in the shape of ``plan.mesh``; None = one device.
      head_alone: the stage with a frozen backbone.
    """
    training = plan.training
    optimizer = training.optimizer.build(training.steps)
    model = jax.eval_shape(lambda: plan.build(plan.model))
    whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())

    def place(array, sharding):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    def place_all(values):
        shardings = dict.fromkeys(values) if mesh is None else placements(values, mesh)
        return {name: place(value, shardings[name]) for name, value in values.items()}

    trained, frozen = map(place_all, jax.eval_shape(lambda values: lora.split(training.lora, values), parameters(model)))
    batch = {name: place(value, mesh and batch_sharding(mesh)) for name, value in plan.batch().items()}
    with mesh_scope(mesh):
        moments = jax.eval_shape(optimizer.init, trained)
        if mesh is not None:
            moments = jax.tree.map(place, moments, jax.jit(optimizer.init).lower(trained).compile().output_shardings)
        state = TrainState(place(jnp.zeros((), jnp.int32), whole), trained, moments, trained if training.ema else None)
        step = make_train_step(model, plan.loss(), optimizer, accumulate=training.accumulate, ema=training.ema,
                               lora=training.lora, only=is_head if head_alone else None)
        return step.lower(state, batch, frozen).compile().memory_analysis()
