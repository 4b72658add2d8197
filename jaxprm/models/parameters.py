"""A model's parameters as one flat dictionary, ``{"backbone.blocks.mlp.up": array, ...}``.

Optimisers, checkpoints, sharding rules and weight files all speak of parameters by these dotted names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from jaxprm.errors import InputError
from jaxprm.models.sharding import ShardingRules, parameter_axes

Model = TypeVar("Model", bound=nnx.Module)


def _name(path) -> str:
    return ".".join(key.name for key in path[:-1])  # the last key is the Variable's own: ``.value``


def parameters(model: nnx.Module) -> dict[str, Any]:
    """Dotted name -> array (or its shape and dtype, if the model is abstract), in a fixed order."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(model)}


def with_parameters(model: Model, values: Mapping[str, Any], *, source=None) -> Model:
    """A model of the same architecture with other parameters; ``model`` may be abstract (`jax.eval_shape`).

    A value is an array, or what stands for one of its shape (`jaxprm.models.linear.AdaptedWeight`).

    Raises:
      InputError: names are missing, unknown, or of another shape; all of them are listed.
    """
    paths, tree = jax.tree_util.tree_flatten_with_path(model)
    expected = {_name(path): leaf for path, leaf in paths}
    problems = [f"missing {name}" for name in expected if name not in values]
    problems += [f"unknown {name}" for name in values if name not in expected]
    problems += [f"{name} has shape {tuple(values[name].shape)}, expected {tuple(leaf.shape)}"
                 for name, leaf in expected.items() if name in values and values[name].shape != leaf.shape]
    if problems:
        raise InputError("parameters do not fit the architecture: " + ", ".join(problems), file=source)
    return jax.tree_util.tree_unflatten(tree, [values[name] for name in expected])


def parameter_shardings(names: Iterable[str] | Mapping[str, Any], mesh: Mesh | AbstractMesh,
                        rules: ShardingRules = ShardingRules()) -> dict[str, NamedSharding]:
    """Dotted name -> where that parameter lives on the mesh.

    Args:
      names: of parameters; given with their arrays (or shapes), sizes are checked against the mesh.
      mesh: devices by axis.
      rules: which axes are split.

    Raises:
      InputError: a name is not known, or the mesh does not divide a parameter.
    """
    shardings = {name: NamedSharding(mesh, rules.spec(parameter_axes(name))) for name in names}
    if isinstance(names, Mapping):
        for name, sharding in shardings.items():
            _check_divides(name, names[name].shape, sharding)
    return shardings


def on_mesh(model: Model, mesh: Mesh | None) -> Model:
    """The model with its parameters where they live on the mesh; what is there already is not moved.

    Raises:
      InputError: the mesh does not divide a parameter.
    """
    if mesh is None:
        return model
    values = parameters(model)
    return with_parameters(model, jax.device_put(values, parameter_shardings(values, mesh)))


def _check_divides(name: str, shape: tuple[int, ...], sharding: NamedSharding) -> None:
    for size, entry, axis in zip(shape, sharding.spec, parameter_axes(name)):
        meshes = (entry,) if isinstance(entry, str) else entry or ()
        parts = math.prod(sharding.mesh.shape[mesh_axis] for mesh_axis in meshes)
        if size % parts:
            raise InputError(f"mesh axis {'*'.join(meshes)} of size {parts} does not divide its {axis} axis of size {size}",
                             field=name, value=tuple(shape), hint="choose another mesh")


def batch_sharding(mesh: Mesh | AbstractMesh, rules: ShardingRules = ShardingRules()) -> NamedSharding:
    """Rows split over the mesh's batch axes, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(*rules.spec(("batch",))))
