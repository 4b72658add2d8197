"""The matrix product of every projection, on one device and on a mesh."""

from __future__ import annotations

import math

from jax import lax
from jaxtyping import Array, Float

from jaxprm.models.sharding import gathered, has_mesh, out_sharding, whole_width


def project(x: Float[Array, "B T ..."], weight: Float[Array, "..."], axes: tuple[str | None, ...],
            inputs: int = 1) -> Float[Array, "B T ..."]:
    """``x`` times ``weight`` over the last ``inputs`` axes of x = the first ``inputs`` axes of the weight.

    Args:
      x: activations, rows split over the mesh's batch axes.
      weight: parameter, cast to the activations' dtype.
      axes: logical axes of the weight (`jaxprm.models.sharding`); the product is whole again along contracted axes.
    """
    weight = gathered(weight, *axes).astype(x.dtype)
    lead, tail = x.shape[:2], weight.shape[inputs:]
    if has_mesh():  # rows stay split: contract in place and let JAX place the result
        contract = (tuple(range(2, 2 + inputs)), tuple(range(inputs)))
        return lax.dot_general(x, weight, (contract, ((), ())),
                               out_sharding=out_sharding("batch", None, *whole_width(axes[inputs:])))
    size = math.prod(weight.shape[:inputs])
    return (x.reshape(-1, size) @ weight.reshape(size, -1)).reshape(*lead, *tail)
