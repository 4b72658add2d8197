"""Rotary positions (Su et al. 2021) and the ways in which published models stretch them to longer texts."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxprm.errors import InputError

RopeKind = Literal["linear", "dynamic", "llama3", "yarn"]
_KINDS = ("linear", "dynamic", "llama3", "yarn")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies differ from ``theta ** (-2i / H)``.

    kind:
      ``linear``   all frequencies divided by ``factor``.
      ``dynamic``  theta grows with a text that is longer than ``original_context`` (NTK-aware); shorter ones are unchanged.
      ``llama3``   slow frequencies divided by ``factor``, fast ones kept, those between blended (Llama 3.1).
      ``yarn``     the same between two numbers of rotations, and larger angles' vectors (Peng et al. 2023, section 3).

    Attributes:
      kind: see above.
      factor: by how much the context is stretched, at least 1.
      original_context: tokens of the context before stretching; all kinds but linear need it.
      low_freq_factor, high_freq_factor: llama3: ``original_context`` over these are the wave lengths (tokens) beyond which
        frequencies are divided, and below which they are kept.
      beta_fast, beta_slow: yarn: rotations within ``original_context`` above which frequencies are kept, below which divided.
      attention_factor: yarn: multiplies cos and sin; ``None`` = ``0.1 ln(factor) + 1``.
    """

    kind: RopeKind
    factor: float
    original_context: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    def __post_init__(self):
        if self.kind not in _KINDS:
            raise InputError(f"must be one of {', '.join(_KINDS)}", field="kind", value=self.kind)
        if self.factor < 1:
            raise InputError("must be at least 1", field="factor", value=self.factor)
        if self.kind != "linear" and (self.original_context is None or self.original_context < 1):
            raise InputError(f"must be at least 1 for {self.kind} rope scaling", field="original_context",
                             value=self.original_context)
        for slow, fast in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
            if not 0 < getattr(self, slow) < getattr(self, fast):
                raise InputError(f"must lie between 0 and {fast} = {getattr(self, fast)}", field=slow,
                                 value=getattr(self, slow))
        if self.attention_factor is not None and self.attention_factor <= 0:
            raise InputError("must be positive", field="attention_factor", value=self.attention_factor)

    @property
    def amplitude(self) -> float:
        """What cos and sin are multiplied by."""
        if self.kind != "yarn":
            return 1.0
        return 0.1 * math.log(self.factor) + 1.0 if self.attention_factor is None else self.attention_factor


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> Float[np.ndarray, " F"]:
    """Radians per token of each of the F = H / 2 pairs of a head, float32, slowest last.

    The formulas and their order are those of transformers, so that angles agree at large positions, too. ``dynamic`` has the
    plain frequencies here: its theta depends on the text, see `rotary_angles`.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    powers = np.float32(theta) ** exponents
    plain = np.float32(1) / powers
    if scaling is None or scaling.kind == "dynamic":
        return plain
    if scaling.kind == "linear":
        return plain / np.float32(scaling.factor)
    divided = np.float32(1) / (np.float32(scaling.factor) * powers)
    if scaling.kind == "llama3":
        rotations = scaling.original_context * plain / np.float32(2 * math.pi)
        kept = (rotations - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    else:
        def pair(rotations: float) -> float:  # index of the pair that turns so often within the original context
            return head_dim * math.log(scaling.original_context / (rotations * 2 * math.pi)) / (2 * math.log(theta))

        first = max(math.floor(pair(scaling.beta_fast)), 0)
        last = min(math.ceil(pair(scaling.beta_slow)), head_dim - 1)
        kept = 1 - (np.arange(head_dim // 2, dtype=np.float32) - first) / (last - first or 0.001)
    kept = np.clip(kept, 0, 1).astype(np.float32)
    return divided * (1 - kept) + plain * kept


def rotary_angles(positions: Int[Array, "B T"], head_dim: int, theta: float, scaling: RopeScaling | None = None,
                  lengths: Int[Array, "B T"] | None = None, dtype=jnp.float32) -> tuple[Array, Array]:
    """(cos, sin) [B, T, 1, H/2], half-split layout as in Llama and Qwen; computed in float32, then rounded to ``dtype``.

    Args:
      positions: 0-based within each text.
      head_dim: H.
      theta: base of the frequencies.
      scaling: how they are stretched.
      lengths: tokens of the text that each token belongs to; ``dynamic`` scaling needs it and nothing else reads it.
    """
    frequency = inverse_frequencies(head_dim, theta, scaling)
    if scaling is not None and scaling.kind == "dynamic":
        growth = jnp.maximum(lengths, scaling.original_context).astype(jnp.float32) / scaling.original_context
        base = theta * (scaling.factor * growth - (scaling.factor - 1)) ** (head_dim / (head_dim - 2))
        frequency = 1 / base[..., None, None] ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    angles = positions[..., None, None].astype(jnp.float32) * frequency
    amplitude = 1.0 if scaling is None else scaling.amplitude
    return tuple((wave(angles) * amplitude).astype(dtype) for wave in (jnp.cos, jnp.sin))


def text_lengths(positions: Int[Array, "B T"], segment_ids: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """How many tokens the text of each token has.

    In:  positions [0, 1, 2, 0, 1], segment_ids [1, 1, 1, 2, 2]
    Out: [3, 3, 3, 2, 2]
    """
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    return jnp.max(jnp.where(same, positions[:, None, :], 0), axis=-1) + 1


def rotate(x: Float[Array, "B T N H"], angles: tuple[Array, Array]) -> Float[Array, "B T N H"]:
    """Turns the pairs (x[i], x[i + H/2]) by the position's angles."""
    cos, sin = angles
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
