"""Process reward models: a decoder, and a head that reads only the hidden states at step ends."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxprm.errors import InputError
from jaxprm.models.config import TransformerConfig
from jaxprm.models.sharding import gathered
from jaxprm.models.transformer import Transformer

HeadKind = Literal["scalar", "binary", "ranking"]
_OUTPUTS = {"scalar": 1, "binary": 2, "ranking": 1}


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """What stands behind a step score.

    kind:
      ``scalar``   one logit, score = sigmoid(logit): P(step is right).
      ``binary``   logits of (-, +), score = softmax(.)[+]: P(step is right).
      ``ranking``  a Q-value on an open scale (PQM, Li & Li 2024); score = sigmoid(Q), which keeps the order within and
                   between solutions but is not a calibrated probability.
    """

    kind: HeadKind = "scalar"

    def __post_init__(self):
        if self.kind not in _OUTPUTS:
            raise InputError(f"must be one of {', '.join(_OUTPUTS)}", field="kind", value=self.kind)

    @property
    def outputs(self) -> int:
        """K, the number of outputs per step."""
        return _OUTPUTS[self.kind]


class StepHead(nnx.Module):
    """A linear map from a hidden state to the K outputs of `HeadConfig`; starts at zero, so every score starts at 0.5."""

    def __init__(self, width: int, config: HeadConfig):
        self.kernel = nnx.Param(jnp.zeros((width, config.outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((config.outputs,), jnp.float32))
        self.config = config

    def __call__(self, hidden: Float[Array, "... D"]) -> Float[Array, "... K"]:
        return hidden.astype(jnp.float32) @ gathered(self.kernel[...], "embed", None) + self.bias[...]

    def score(self, outputs: Float[Array, "... K"]) -> Float[Array, "..."]:
        """Outputs -> score in [0, 1]."""
        if self.config.kind == "binary":
            return jax.nn.sigmoid(outputs[..., 1] - outputs[..., 0])
        return jax.nn.sigmoid(outputs[..., 0])


class RewardModel(nnx.Module):
    """Backbone + step head."""

    def __init__(self, config: TransformerConfig, head: HeadConfig, *, rngs: nnx.Rngs):
        self.backbone = Transformer(config, rngs=rngs)
        self.head = StepHead(config.width, head)

    @property
    def config(self) -> TransformerConfig:
        return self.backbone.config
