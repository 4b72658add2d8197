"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): ``W + alpha / rank * down @ up``, with W frozen.

The adapters of all layers lie in one array, as the weights do, under the name of their weight:

    backbone.blocks.mlp.up             [L, D, F]   frozen
    backbone.blocks.mlp.up.lora_down   [L, D, r]   random
    backbone.blocks.mlp.up.lora_up     [L, r, F]   zero, so that training starts at W

Gradients, optimiser state and checkpoints hold the adapters and the head alone. (Adapters that others have published are read
by `jaxprm.hub.lora`.)
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprm.errors import InputError
from jaxprm.models.linear import AdaptedWeight
from jaxprm.models.sharding import parameter_axes

_INPUTS = {"query": 1, "key": 1, "value": 1, "output": 2, "gate": 1, "up": 1, "down": 1}
_DOWN, _UP = ".lora_down", ".lora_up"


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Adapters on projections of the blocks.

    Attributes:
      rank: columns of ``down``, r.
      alpha: the change is multiplied by ``alpha / rank``, so that the learning rate need not follow the rank.
      targets: the projections: any of query, key, value, output (attention) and gate, up, down (MLP).
      seed: of the random half.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ("query", "key", "value", "output", "gate", "up", "down")
    seed: int = 0

    def __post_init__(self):
        if self.rank < 1:
            raise InputError("must be at least 1", field="rank", value=self.rank)
        if self.alpha <= 0:
            raise InputError("must be positive", field="alpha", value=self.alpha)
        if not self.targets or len(set(self.targets)) != len(self.targets):
            raise InputError("must name at least one projection, each once", field="targets", value=self.targets)
        for target in self.targets:
            if target not in _INPUTS:
                raise InputError(f"must be among {', '.join(_INPUTS)}", field="targets", value=target)
        if not 0 <= self.seed < 2**32:
            raise InputError("must be in [0, 2**32)", field="seed", value=self.seed)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def targets_of(self, names) -> list[str]:
        """The adapted parameters among ``names``, in a fixed order."""
        paths = {f"backbone.blocks.{'attention' if target in _ATTENTION else 'mlp'}.{target}" for target in self.targets}
        return sorted(paths & set(names))


_ATTENTION = ("query", "key", "value", "output")


def split(config: LoraConfig | None, values: Mapping[str, jax.Array]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """A model's parameters -> (what is trained, with fresh adapters; what stays as it is)."""
    if config is None:
        return dict(values), {}
    targets = config.targets_of(values)
    if not targets:
        raise InputError("this model has none of these projections", field="targets", value=config.targets)
    trained = {name: value for name, value in values.items() if name.startswith("head.")}
    frozen = {name: value for name, value in values.items() if name not in trained}
    key = jax.random.key(config.seed)
    for index, name in enumerate(targets):
        inputs, outputs = _sides(name, values[name].shape)
        layers = values[name].shape[0]
        spread = math.prod(inputs) ** -0.5
        trained[name + _DOWN] = spread * jax.random.normal(jax.random.fold_in(key, index), (layers, *inputs, config.rank))
        trained[name + _UP] = jnp.zeros((layers, config.rank, *outputs), jnp.float32)
    return trained, frozen


def combined(config: LoraConfig | None, trained: Mapping[str, jax.Array],
             frozen: Mapping[str, jax.Array]) -> dict[str, jax.Array | AdaptedWeight]:
    """Parameters to run the model with: adapted weights stand where their arrays stood."""
    if config is None:
        return dict(trained)
    values = {name: value for name, value in trained.items() if not name.endswith((_DOWN, _UP))} | dict(frozen)
    for name in config.targets_of(frozen):
        values[name] = AdaptedWeight(frozen[name], trained[name + _DOWN], trained[name + _UP], config.scale)
    return values


def merged(config: LoraConfig | None, trained: Mapping[str, jax.Array],
           frozen: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Parameters of the plain model that computes the same; sums in float32, types those of the weights."""
    return {name: _merge(value) if isinstance(value, AdaptedWeight) else value
            for name, value in combined(config, trained, frozen).items()}


@jax.jit
def _merge(weight: AdaptedWeight) -> jax.Array:
    rank_axis = weight.down.ndim - 1
    change = lax.dot_general(weight.down, weight.up, (((rank_axis,), (1,)), ((0,), (0,))),
                             precision=lax.Precision.HIGHEST)
    return (weight.base.astype(jnp.float32) + weight.scale * change).astype(weight.base.dtype)


def axes_of(name: str) -> tuple[str | None, ...]:
    """Logical axes of a parameter or an adapter: an adapter's long sides are split as its weight's are."""
    if not name.endswith((_DOWN, _UP)):
        return parameter_axes(name)
    base = name.removesuffix(_DOWN).removesuffix(_UP)
    axes, inputs = parameter_axes(base), _INPUTS[base.rsplit(".", 1)[1]]
    return (*axes[: 1 + inputs], None) if name.endswith(_DOWN) else (axes[0], None, *axes[1 + inputs:])


def fingerprint(frozen: Mapping[str, jax.Array]) -> str:
    """Hash of frozen weights: equal for equal bits, on any mesh. Adapters on another base would be silently wrong."""
    digest = hashlib.sha256()
    for name, value in sorted(frozen.items()):
        digest.update(f"{name}{value.shape}{value.dtype}{int(np.asarray(_bits(value)))}".encode())
    return digest.hexdigest()


@jax.jit
def _bits(value: jax.Array) -> jax.Array:
    """Sum of the bit patterns modulo 2**32, each times an odd number that depends on its place."""
    patterns = lax.bitcast_convert_type(value, jnp.uint16 if value.dtype.itemsize == 2 else jnp.uint32).astype(jnp.uint32)
    places = sum(lax.broadcasted_iota(jnp.uint32, value.shape, axis) * jnp.uint32(2654435761 + 2 * axis)
                 for axis in range(value.ndim))
    return jnp.sum(patterns * (2 * places + 1), dtype=jnp.uint32)


def _sides(name: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    inputs = _INPUTS[name.rsplit(".", 1)[1]]
    return shape[1 : 1 + inputs], shape[1 + inputs :]
