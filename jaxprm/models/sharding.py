"""Where arrays live on a mesh: one dataclass of rules, one table of parameters, one adapter.

Parameters and activations are described by *logical* axes; `ShardingRules` maps these to mesh axes. A mesh has the axes
``("data", "fsdp", "tensor")``: rows are split over data and fsdp, weights over fsdp (gathered before use) and tensor.
The core runs with Explicit mesh axes, with Auto axes, and without a mesh; `constrain` is the only place that knows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re

import jax
from jax.sharding import AxisType, PartitionSpec

from jaxprm.errors import InputError

MESH_AXES = ("data", "fsdp", "tensor")

# Dotted parameter path -> logical axes of that parameter. Every parameter matches exactly one row (tested).
PARAMETER_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"backbone\.embedding", ("vocab", "embed")),
    (r"backbone\.blocks\.(attention|mlp)(_post)?_norm\.scale", ("layers", None)),
    (r"backbone\.blocks\.attention\.query", ("layers", "embed", "heads", None)),
    (r"backbone\.blocks\.attention\.(key|value)", ("layers", "embed", "kv_heads", None)),
    (r"backbone\.blocks\.attention\.output", ("layers", "heads", None, "embed")),
    (r"backbone\.blocks\.attention\.query_bias", ("layers", "heads", None)),
    (r"backbone\.blocks\.attention\.(key|value)_bias", ("layers", "kv_heads", None)),
    (r"backbone\.blocks\.attention\.output_bias", ("layers", None)),
    (r"backbone\.blocks\.attention\.(query|key)_norm\.scale", ("layers", None)),
    (r"backbone\.blocks\.mlp\.(gate|up)", ("layers", "embed", "mlp")),
    (r"backbone\.blocks\.mlp\.down", ("layers", "mlp", "embed")),
    (r"backbone\.blocks\.mlp\.(gate|up)_bias", ("layers", "mlp")),
    (r"backbone\.blocks\.mlp\.down_bias", ("layers", None)),
    (r"backbone\.final_norm\.scale", (None,)),
    (r"unembedding", ("embed", "vocab")),
    (r"head\.(hidden_|gate_)?kernel", ("embed", None)),
    (r"head\.(hidden_|gate_)?bias", (None,)),
    (r"head\.first_kernel", (None, "embed", None)),
    (r"head\.(second|last)_kernel", (None, None, None)),
    (r"head\.(first|second|last)_bias", (None, None)),
)


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """Logical axis -> mesh axes. ``None`` keeps an axis whole. The defaults suit one device up to a pod slice."""

    batch: tuple[str, ...] | str | None = ("data", "fsdp")
    embed: tuple[str, ...] | str | None = "fsdp"
    heads: tuple[str, ...] | str | None = "tensor"
    kv_heads: tuple[str, ...] | str | None = "tensor"
    mlp: tuple[str, ...] | str | None = "tensor"
    vocab: tuple[str, ...] | str | None = "tensor"
    layers: tuple[str, ...] | str | None = None

    def spec(self, axes: tuple[str | None, ...]) -> PartitionSpec:
        """Raises InputError if two logical axes of one array fall on the same mesh axis."""
        entries = [None if axis is None else getattr(self, axis) for axis in axes]
        used = [name for entry in entries if entry is not None for name in ((entry,) if isinstance(entry, str) else entry)]
        if len(used) != len(set(used)):
            raise InputError(f"puts two axes of {axes} on one mesh axis", field="ShardingRules", value=entries)
        return PartitionSpec(*entries)


def parameter_axes(path: str) -> tuple[str | None, ...]:
    """Logical axes of the parameter at a dotted path; raises if no row, or more than one row, of the table matches."""
    matches = [axes for pattern, axes in PARAMETER_AXES if re.fullmatch(pattern, path)]
    if len(matches) != 1:
        raise InputError(f"matches {len(matches)} rows of PARAMETER_AXES, needs exactly one", field=path)
    return matches[0]


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None) -> jax.sharding.Mesh:
    """A mesh with Explicit axes; one size may be -1 = whatever devices are left.

    Raises:
      InputError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes((data, fsdp, tensor), len(devices))
    return jax.make_mesh(sizes, MESH_AXES, axis_types=(AxisType.Explicit,) * 3, devices=devices)


def auto_axes(mesh: jax.sharding.Mesh) -> jax.sharding.Mesh:
    """The same mesh with Auto axes: `constrain` says what is split, and the compiler does the rest. For programs that gather,
    sort and write rows by index, as searches do; with Explicit axes every such operation would have to say its split."""
    return jax.sharding.Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)


def mesh_scope(mesh: jax.sharding.Mesh | None) -> contextlib.AbstractContextManager:
    """Sets the mesh for tracing and execution, if there is one."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def abstract_mesh(sizes: tuple[int, int, int], devices: int) -> jax.sharding.AbstractMesh:
    """The same for devices that this machine does not have: code can be traced on it, but not run."""
    return jax.sharding.AbstractMesh(mesh_sizes(sizes, devices), MESH_AXES, axis_types=(AxisType.Explicit,) * 3)


def mesh_sizes(sizes: tuple[int, int, int], devices: int) -> tuple[int, int, int]:
    """Sizes of the axes (data, fsdp, tensor) with -1 replaced by whatever devices are left.

    Raises:
      InputError: the sizes do not multiply to the number of devices.
    """
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise InputError("at most one size may be -1, the others must be positive", field="mesh", value=sizes)
    known = math.prod(size for size in sizes if size != -1)
    found = tuple(devices // known if size == -1 else size for size in sizes)
    if math.prod(found) != devices or 0 in found:
        raise InputError(f"does not cover the {devices} devices", field="mesh", value=found,
                         hint="data * fsdp * tensor must equal the number of devices (-1 = the rest)")
    return found


def _mesh_kind() -> AxisType | None:
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or not set(MESH_AXES) <= set(mesh.axis_names) else mesh.axis_types[0]


def has_mesh() -> bool:
    """Whether code is traced under one of our meshes."""
    return _mesh_kind() is not None


def batch_parts(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None = None) -> int:
    """Into how many parts rows are split: on this mesh, or on the one that code is traced under; 1 without one."""
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    return math.prod(mesh.shape.get(axis, 1) for axis in ShardingRules().spec(("batch",))[0])


def is_explicit() -> bool:
    """Whether code is traced under one of our meshes with Explicit axes."""
    return _mesh_kind() == AxisType.Explicit


def constrain(x: jax.Array, *axes: str | None, rules: ShardingRules = ShardingRules()) -> jax.Array:
    """Places an array by logical axes: no mesh -> as is, Auto -> a constraint, Explicit -> a reshard."""
    kind = _mesh_kind()
    if kind is None:
        return x
    spec = rules.spec(axes)
    return jax.sharding.reshard(x, spec) if kind == AxisType.Explicit else jax.lax.with_sharding_constraint(x, spec)


def split_rows(tree):
    """Arrays [rows, ...] on a mesh with Auto axes: rows over its batch axes, the rest as the compiler likes. Without a mesh,
    and for numbers without axes, nothing changes."""
    if _mesh_kind() != AxisType.Auto:
        return tree
    batch = ShardingRules().spec(("batch",))[0]

    def split(x):
        spec = PartitionSpec(batch, *[PartitionSpec.UNCONSTRAINED] * (x.ndim - 1))
        return jax.lax.with_sharding_constraint(x, spec) if x.ndim else x

    return jax.tree.map(split, tree)


def gathered(weight: jax.Array, *axes: str | None) -> jax.Array:
    """A weight as a matrix product needs it: whole along fsdp (its ``embed`` axis), still split along tensor."""
    return constrain(weight, *whole_width(axes))


def whole_width(axes: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """Axes of a gathered weight or of activations: only stored weights are split along their ``embed`` axis."""
    return tuple(None if axis == "embed" else axis for axis in axes)


def out_sharding(*axes: str | None, rules: ShardingRules = ShardingRules()) -> PartitionSpec | None:
    """For operations whose result sharding JAX cannot infer; ``None`` unless the mesh axes are Explicit."""
    return rules.spec(axes) if _mesh_kind() == AxisType.Explicit else None
