"""Muon on stacked layers: which axes of a parameter are a matrix, and how its update runs on a mesh.

Parameters of all layers lie in one array with a leading layer axis, and projections to and from heads have two axes for one
side of the matrix. optax, left alone, takes every two-dimensional array for a matrix: stacked norm scales [layers, width]
and the embedding table, but no projection. So the axes are named here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers

from jaxprm.models.sharding import is_explicit

# Within the blocks; axis 0 counts layers and is a batch axis: each layer's matrix is orthogonalised on its own.
_MATRICES: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = (
    (r"attention\.(query|key|value)", (1,), (2, 3)),           # [L, D, N, H]
    (r"attention\.output", (1, 2), (3,)),                      # [L, N, H, D]
    (r"mlp\.(gate|up|down)", (1,), (2,)),                      # [L, in, out]
    (r"(attention\.(query|key|value)|mlp\.\w+)\.lora_down", (1,), (2,)),  # [L, in, r]
    (r"attention\.output\.lora_down", (1, 2), (3,)),           # [L, N, H, r]
    (r"attention\.(query|key|value)\.lora_up", (1,), (2, 3)),  # [L, r, N, H]
    (r"(attention\.output|mlp\.\w+)\.lora_up", (1,), (2,)),    # [L, r, out]
)


def matrix_axes(parameters: Mapping[str, Any]) -> dict[str, MuonDimensionNumbers | None]:
    """Input and output axes of every hidden matrix; None for the rest (embeddings, heads, norms, biases), which AdamW takes."""
    found = {}
    for name in parameters:
        inside = name.removeprefix("backbone.blocks.")
        axes = next((MuonDimensionNumbers(reduction, output) for pattern, reduction, output in _MATRICES
                     if inside != name and re.fullmatch(pattern, inside)), None)
        found[name] = axes
    return found


def partitioned(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same transformation, with JAX choosing how its products are split over an Explicit mesh.

    Muon flattens axes and multiplies matrices along split ones, for which Explicit axes demand a placement of every result.
    Updates and state end where gradients and state were.
    """

    def update(updates, state, params=None):
        if not is_explicit():
            return inner.update(updates, state, params)
        places = jax.tree.map(lambda x: jax.typeof(x).sharding.spec, (updates, state))
        return jax.sharding.auto_axes(inner.update, out_sharding=places)(updates, state, params)

    return optax.GradientTransformation(inner.init, update)
