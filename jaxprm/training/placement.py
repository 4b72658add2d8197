"""Where a run's arrays lie: parameters by the sharding rules, rows of a batch over the mesh's batch axes."""

from __future__ import annotations

from collections.abc import Mapping

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from jaxprm.models.parameters import batch_sharding, parameter_shardings
from jaxprm.models.sharding import ShardingRules
from jaxprm.training.lora import axes_of


def place_batch(batch: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh | None) -> dict[str, jax.Array]:
    """Rows of this process's batch, split over the mesh's batch axes."""
    if mesh is None:
        return {name: jnp.asarray(value) for name, value in batch.items()}
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def placements(values: Mapping[str, Any], mesh: Mesh | AbstractMesh) -> dict[str, NamedSharding]:
    """Where parameters and adapters lie, by name.

    Raises:
      InputError: a parameter that is not known, or that the mesh does not divide.
    """
    plain = {name: value for name, value in values.items() if ".lora_" not in name}
    rules = ShardingRules()
    adapters = {name: NamedSharding(mesh, rules.spec(axes_of(name))) for name in values.keys() - plain.keys()}
    return parameter_shardings(plain, mesh) | adapters


def place_parameters(values: Mapping[str, jax.Array], mesh: Mesh | None) -> dict[str, jax.Array]:
    """Parameters (and adapters) on the mesh; without one, as they are. Raises as `placements`."""
    if mesh is None:
        return dict(values)
    shardings = placements(values, mesh)
    return {name: jax.device_put(value, shardings[name]) for name, value in values.items()}


def on_one_device(values: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Whole parameters on the default device of every process, from wherever they lie; all processes must call it."""
    return {name: jnp.asarray(np.asarray(value if value.is_fully_addressable
                                         else multihost_utils.process_allgather(value, tiled=True)))
            for name, value in values.items()}
