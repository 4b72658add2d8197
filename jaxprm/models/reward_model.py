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

HeadKind = Literal["scalar", "binary", "ranking", "value", "difference", "validity", "mlp", "ensemble"]
_OUTPUTS = {"scalar": 1, "binary": 2, "ranking": 1, "value": 1, "difference": 2, "validity": 3, "mlp": 2}


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """What stands behind a step score.

    kind:
      ``scalar``      one logit, score = sigmoid(logit): P(step is right).
      ``binary``      logits of (-, +), score = softmax(.)[+]: P(step is right).
      ``ranking``     a Q-value on an open scale (PQM, Li & Li 2024); score = sigmoid(Q), which keeps the order within and
                      between solutions but is not a calibrated probability.
      ``value``       a Q-value whose score is the Q-value itself, any real number (PQM as published).
      ``difference``  logits of (-, +), score = softmax(.)[+] - softmax(.)[-], in [-1, 1] (PURE, Cheng et al. 2025).
      ``validity``    logits of (wrong, right but redundant, right), score = P(not wrong) (ReasonEval, Xia et al. 2024).
      ``mlp``         as binary, from one hidden layer with ReLU (Qwen2.5-Math-PRM).
      ``ensemble``    one logit from each of several networks with two hidden layers and ReLU, score = mean of their sigmoids
                      (ActPRM).

    Attributes:
      kind: see above.
      hidden: size of a hidden layer, for mlp and ensemble only.
      members: networks of an ensemble.
    """

    kind: HeadKind = "scalar"
    hidden: int = 0
    members: int = 0

    def __post_init__(self):
        kinds = (*_OUTPUTS, "ensemble")
        if self.kind not in kinds:
            raise InputError(f"must be one of {', '.join(kinds)}", field="kind", value=self.kind)
        for field, users in (("hidden", ("mlp", "ensemble")), ("members", ("ensemble",))):
            value = getattr(self, field)
            if self.kind in users and value < 1:
                raise InputError(f"must be at least 1 for a head of kind {self.kind}", field=field, value=value)
            if self.kind not in users and value:
                raise InputError(f"must be 0: a head of kind {self.kind} has none", field=field, value=value)

    @property
    def outputs(self) -> int:
        """K, the number of outputs per step."""
        return self.members if self.kind == "ensemble" else _OUTPUTS[self.kind]


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
