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
    """The map from a hidden state to the K outputs of `HeadConfig`, in float32.

    Its last layer starts at zero, so that every probability starts at 0.5; hidden layers are drawn from ``rngs``, or are zero
    without it (for parameters that come from elsewhere).
    """

    def __init__(self, width: int, config: HeadConfig, rngs: nnx.Rngs | None = None):
        def zeros(*shape: int) -> nnx.Param:
            return nnx.Param(jnp.zeros(shape, jnp.float32))

        def drawn(*shape: int) -> nnx.Param:
            if rngs is None:
                return zeros(*shape)
            return nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32) * (2 / shape[-2]) ** 0.5)

        hidden, members = config.hidden, config.members
        if config.kind == "ensemble":
            self.first_kernel, self.first_bias = drawn(members, width, hidden), zeros(members, hidden)
            self.second_kernel, self.second_bias = drawn(members, hidden, hidden), zeros(members, hidden)
            self.last_kernel, self.last_bias = zeros(members, hidden, 1), zeros(members, 1)
        else:
            if config.kind == "mlp":
                self.hidden_kernel, self.hidden_bias = drawn(width, hidden), zeros(hidden)
            self.kernel = zeros(hidden or width, config.outputs)
            self.bias = zeros(config.outputs)
        self.config = config

    def __call__(self, hidden: Float[Array, "... D"]) -> Float[Array, "... K"]:
        x = hidden.astype(jnp.float32)
        if self.config.kind == "ensemble":
            x = jax.nn.relu(_members("...i,eio->...eo", x, self.first_kernel[...], self.first_bias[...]))
            x = jax.nn.relu(_members("...ei,eio->...eo", x, self.second_kernel[...], self.second_bias[...]))
            return _members("...ei,eio->...eo", x, self.last_kernel[...], self.last_bias[...])[..., 0]
        if self.config.kind == "mlp":
            x = jax.nn.relu(_linear(x, self.hidden_kernel[...], self.hidden_bias[...]))
        return _linear(x, self.kernel[...], self.bias[...])

    def score(self, outputs: Float[Array, "... K"]) -> Float[Array, "..."]:
        """Outputs -> score: in [0, 1], but in [-1, 1] for ``difference`` and unbounded for ``value``."""
        kind = self.config.kind
        if kind in ("binary", "mlp"):
            return jax.nn.sigmoid(outputs[..., 1] - outputs[..., 0])
        if kind == "difference":  # softmax(.)[+] - softmax(.)[-] = tanh(half the log-odds)
            return jnp.tanh((outputs[..., 1] - outputs[..., 0]) / 2)
        if kind == "validity":
            return jax.nn.sigmoid(jax.nn.logsumexp(outputs[..., 1:], axis=-1) - outputs[..., 0])
        if kind == "ensemble":
            return jnp.mean(jax.nn.sigmoid(outputs), axis=-1)
        return outputs[..., 0] if kind == "value" else jax.nn.sigmoid(outputs[..., 0])

    def redundancy(self, outputs: Float[Array, "... K"]) -> Float[Array, "..."]:
        """P(step is right but adds nothing), from the outputs of a ``validity`` head.

        Raises:
          InputError: the head is of another kind.
        """
        if self.config.kind != "validity":
            raise InputError("gives no redundancy; a validity head does", field="kind", value=self.config.kind)
        return jax.nn.softmax(outputs, axis=-1)[..., 1]


def _linear(x: Float[Array, "... I"], kernel: Float[Array, "I O"], bias: Float[Array, " O"]) -> Float[Array, "... O"]:
    return x @ gathered(kernel, "embed", None).astype(jnp.float32) + bias.astype(jnp.float32)


def _members(product: str, x: Float[Array, "... I"], kernel: Float[Array, "E I O"],
             bias: Float[Array, "E O"]) -> Float[Array, "... E O"]:
    return jnp.einsum(product, x, gathered(kernel, None, "embed", None).astype(jnp.float32)) + bias.astype(jnp.float32)


class RewardModel(nnx.Module):
    """Backbone + step head."""

    def __init__(self, config: TransformerConfig, head: HeadConfig, *, rngs: nnx.Rngs):
        self.backbone = Transformer(config, rngs=rngs)
        self.head = StepHead(config.width, head, rngs)

    @property
    def config(self) -> TransformerConfig:
        return self.backbone.config
