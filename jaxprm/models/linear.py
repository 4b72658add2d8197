"""The matrix product of every projection, on one device and on a mesh."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jaxprm.models.sharding import gathered, has_mesh, out_sharding, whole_width

SAVED = "product"
"""Name of bfloat16 products, for policies of `jax.checkpoint`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdaptedWeight:
    """A frozen weight and a trained change of low rank: stands where a parameter's array stands, for `project`.

    Types are open: transforms rebuild the tree with other leaves.

    Attributes:
      base: the weight, [(layers,) inputs..., outputs...].
      down: [(layers,) inputs..., rank].
      up: [(layers,) rank, outputs...].
      scale: factor on the product ``down @ up``.
    """

    base: Any
    down: Any
    up: Any
    scale: float = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def __getitem__(self, index) -> AdaptedWeight:
        """``parameter[...]`` reads a parameter; there is nothing else to index."""
        if index is not Ellipsis:
            raise TypeError("an adapted weight is read as a whole")
        return self


def project(x: Float[Array, "B T ..."], weight: Float[Array, "..."] | AdaptedWeight, axes: tuple[str | None, ...],
            inputs: int = 1) -> Float[Array, "B T ..."]:
    """``x`` times ``weight`` over the last ``inputs`` axes of x = the first ``inputs`` axes of the weight.

    Args:
      x: activations, rows split over the mesh's batch axes.
      weight: parameter, cast to the activations' dtype. The change of an adapted weight is applied to the activations, so
        that neither it nor the weight's gradient ever exists in full size.
      axes: logical axes of the weight (`jaxprm.models.sharding`); the product is whole again along contracted axes.
    """
    if isinstance(weight, AdaptedWeight):
        low = project(x, weight.down, (*axes[:inputs], None), inputs)
        return project(x, weight.base, axes, inputs) + weight.scale * project(low, weight.up, (None, *axes[inputs:]))
    weight = gathered(weight, *axes).astype(x.dtype)
    lead, tail = x.shape[:2], weight.shape[inputs:]
    if has_mesh():  # rows stay split: contract in place and let JAX place the result
        contract = (tuple(range(2, 2 + inputs)), tuple(range(inputs)))
        return lax.dot_general(x, weight, (contract, ((), ())),
                               out_sharding=out_sharding("batch", None, *whole_width(axes[inputs:])))
    size = math.prod(weight.shape[:inputs])
    product = jnp.matmul if x.dtype == jnp.float32 else _low_precision_matmul
    return product(x.reshape(-1, size), weight.reshape(size, -1)).reshape(*lead, *tail)


@jax.custom_vjp
def _low_precision_matmul(x: Float[Array, "M I"], weight: Float[Array, "I O"]) -> Float[Array, "M O"]:
    """A bfloat16 product that leaves the kernel in float32 and is rounded then: the form that CPUs have instructions for, at
    twice the speed of the other (measured with jax 0.10.2); accelerators fuse the rounding."""
    return jnp.matmul(x, weight, preferred_element_type=jnp.float32).astype(x.dtype)


def _matmul_forward(x, weight):
    # A policy of `jax.checkpoint` that keeps matrix products does not see this one but for its name.
    return checkpoint_name(_low_precision_matmul(x, weight), SAVED), (x, weight)


def _matmul_backward(saved, cotangent):
    # Left to autodiff, the float32 cotangent would make both products float32 ones.
    x, weight = saved
    return _low_precision_matmul(cotangent, weight.T), _low_precision_matmul(x.T, cotangent)


_low_precision_matmul.defvjp(_matmul_forward, _matmul_backward)
