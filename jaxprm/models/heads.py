"""Step heads: what maps the hidden state at a step's end to the outputs that an objective reads, and those to a score."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxprm.errors import InputError
from jaxprm.models.sharding import gathered

HeadKind = Literal["scalar", "binary", "ranking", "value", "difference", "validity", "mlp", "ensemble", "quantile", "two_head",
                   "ternary", "buffer", "lm_rows"]
Direction = Literal["forward", "mean", "gate"]
_OUTPUTS = {"scalar": 1, "binary": 2, "ranking": 1, "value": 1, "difference": 2, "validity": 3, "mlp": 2, "two_head": 2,
            "ternary": 3, "buffer": 3, "lm_rows": 2}
_KINDS = (*_OUTPUTS, "ensemble", "quantile")
_LEVELS = (0.1, 0.5, 0.9)


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
      ``ternary``     logits of (-, neutral, +), score = P(+) + P(neutral) / 2: the expected label where a neutral step is
                      labelled one half.
      ``buffer``      logits of (-, +, buffer): the third takes what a noisy label leaves open (FreePRM, 2025); score =
                      P(+ | not buffer), which is how we read it: the paper does not say.
      ``mlp``         as binary, from one hidden layer with ReLU (Qwen2.5-Math-PRM).
      ``ensemble``    one logit from each of several networks with two hidden layers and ReLU, score = mean of their sigmoids
                      (ActPRM).
      ``quantile``    one logit per level of `levels`, each of a quantile of P(step leads to the right answer); score = sigmoid
                      of the median's.
      ``two_head``    logits of a reward r (is the solution right so far?) and a value v (will it end well?), score =
                      (beta r + v) / (beta + 1) of their sigmoids (BiRM, 2025: beta r + v, here scaled to [0, 1]).
      ``lm_rows``     logits of the tokens `rows` (-, +) of the language model itself, score = softmax over these two
                      (Math-Shepherd, OpenRLHF); the rows of the output matrix are trained with the rest.

    Attributes:
      kind: see above.
      hidden: size of a hidden layer, for mlp and ensemble only.
      members: networks of an ensemble.
      levels: of a quantile head, increasing, with 0.5 among them; empty = (0.1, 0.5, 0.9).
      beta: of a two_head, how much the reward counts against the value; None = 1.
      rows: of lm_rows, the two token ids (wrong, right); empty until a tokenizer has named them.
      direction: "forward" reads steps in their order. Else the solution is read a second time with its steps in reverse, and
        the outputs of both readings are joined (BiPRM): by their "mean", or by a "gate" g in (0, 1), learnt from both hidden
        states: g forward + (1 - g) backward. (Our definition: outputs are joined before the score, so that every objective
        trains them.)
    """

    kind: HeadKind = "scalar"
    hidden: int = 0
    members: int = 0
    levels: tuple[float, ...] = ()
    beta: float | None = None
    rows: tuple[int, ...] = ()
    direction: Direction = "forward"

    def __post_init__(self):
        if self.kind not in _KINDS:
            raise InputError(f"must be one of {', '.join(_KINDS)}", field="kind", value=self.kind)
        if self.direction not in ("forward", "mean", "gate"):
            raise InputError("must be one of forward, mean, gate", field="direction", value=self.direction)
        for field, users in (("hidden", ("mlp", "ensemble")), ("members", ("ensemble",))):
            value = getattr(self, field)
            if self.kind in users and value < 1:
                raise InputError(f"must be at least 1 for a head of kind {self.kind}", field=field, value=value)
            if self.kind not in users and value:
                raise InputError(f"must be 0: a head of kind {self.kind} has none", field=field, value=value)
        for field, user in (("levels", "quantile"), ("beta", "two_head"), ("rows", "lm_rows")):
            value = getattr(self, field)
            if self.kind != user and value not in ((), None):
                raise InputError(f"must be left out: a head of kind {self.kind} has none", field=field, value=value)
        if self.kind == "quantile":
            levels = tuple(self.levels) or _LEVELS
            ordered = all(low < high for low, high in zip(levels, levels[1:]))
            if not ordered or levels[0] <= 0 or levels[-1] >= 1 or 0.5 not in levels:
                raise InputError("must increase inside (0, 1) and hold 0.5", field="levels", value=levels)
            object.__setattr__(self, "levels", levels)
        if self.kind == "two_head":
            beta = 1.0 if self.beta is None else self.beta
            if not 0 <= beta < float("inf"):
                raise InputError("must be finite and not negative", field="beta", value=beta)
            object.__setattr__(self, "beta", beta)
        if self.rows and (len(self.rows) != 2 or min(self.rows) < 0 or self.rows[0] == self.rows[1]):
            raise InputError("must be two token ids, wrong before right", field="rows", value=self.rows)

    @property
    def outputs(self) -> int:
        """K, the number of outputs per step."""
        return {"ensemble": self.members, "quantile": len(self.levels)}.get(self.kind) or _OUTPUTS[self.kind]


class StepHead(nnx.Module):
    """The map from a hidden state to the K outputs of `HeadConfig`, in float32.

    Its last layer starts at zero, so that every probability starts at 0.5; hidden layers are drawn from ``rngs``, or are zero
    without it (for parameters that come from elsewhere). A head of kind ``lm_rows`` has no parameters: see `RewardModel`.
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
        elif config.kind != "lm_rows":
            if config.kind == "mlp":
                self.hidden_kernel, self.hidden_bias = drawn(width, hidden), zeros(hidden)
            self.kernel = zeros(hidden or width, config.outputs)
            self.bias = zeros(config.outputs)
        if config.direction == "gate":
            self.gate_kernel, self.gate_bias = zeros(2 * width, 1), zeros(1)
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

    def gate(self, forward: Float[Array, "... D"], backward: Float[Array, "... D"]) -> Float[Array, "... 1"]:
        """Share of the forward reading in (0, 1), from the hidden states of both; 0.5 for a head without a gate."""
        if self.config.direction != "gate":
            return jnp.full((*forward.shape[:-1], 1), 0.5, jnp.float32)
        both = jnp.concatenate([forward, backward], axis=-1).astype(jnp.float32)
        return jax.nn.sigmoid(_linear(both, self.gate_kernel[...], self.gate_bias[...]))

    def score(self, outputs: Float[Array, "... K"]) -> Float[Array, "..."]:
        """Outputs -> score: in [0, 1], but in [-1, 1] for ``difference`` and unbounded for ``value``."""
        kind = self.config.kind
        if kind in ("binary", "mlp", "lm_rows", "buffer"):
            return jax.nn.sigmoid(outputs[..., 1] - outputs[..., 0])
        if kind == "difference":  # softmax(.)[+] - softmax(.)[-] = tanh(half the log-odds)
            return jnp.tanh((outputs[..., 1] - outputs[..., 0]) / 2)
        if kind == "validity":
            return jax.nn.sigmoid(jax.nn.logsumexp(outputs[..., 1:], axis=-1) - outputs[..., 0])
        if kind == "ternary":
            return jax.nn.softmax(outputs, axis=-1) @ jnp.asarray([0.0, 0.5, 1.0])
        if kind == "ensemble":
            return jnp.mean(jax.nn.sigmoid(outputs), axis=-1)
        if kind == "quantile":
            return self.quantiles(outputs)[..., self.config.levels.index(0.5)]
        if kind == "two_head":
            share = self.config.beta / (self.config.beta + 1)
            return share * jax.nn.sigmoid(outputs[..., 0]) + (1 - share) * jax.nn.sigmoid(outputs[..., 1])
        return outputs[..., 0] if kind == "value" else jax.nn.sigmoid(outputs[..., 0])

    def redundancy(self, outputs: Float[Array, "... K"]) -> Float[Array, "..."]:
        """P(step is right but adds nothing), from the outputs of a ``validity`` head.

        Raises:
          InputError: the head is of another kind.
        """
        self._require("validity", "redundancy")
        return jax.nn.softmax(outputs, axis=-1)[..., 1]

    def quantiles(self, outputs: Float[Array, "... K"]) -> Float[Array, "... K"]:
        """Success probabilities at the levels of a ``quantile`` head, not decreasing.

        Quantiles that are trained apart may cross; in sorted order they do not, and are no further from the truth
        (Chernozhukov, Fernandez-Val & Galichon 2010).

        Raises:
          InputError: the head is of another kind.
        """
        self._require("quantile", "quantiles")
        return jax.nn.sigmoid(jnp.sort(outputs, axis=-1))

    def _require(self, kind: str, what: str) -> None:
        if self.config.kind != kind:
            raise InputError(f"gives no {what}; a {kind} head does", field="kind", value=self.config.kind)


def _linear(x: Float[Array, "... I"], kernel: Float[Array, "I O"], bias: Float[Array, " O"]) -> Float[Array, "... O"]:
    return x @ gathered(kernel, "embed", None).astype(jnp.float32) + bias.astype(jnp.float32)


def _members(product: str, x: Float[Array, "... I"], kernel: Float[Array, "E I O"],
             bias: Float[Array, "E O"]) -> Float[Array, "... E O"]:
    return jnp.einsum(product, x, gathered(kernel, None, "embed", None).astype(jnp.float32)) + bias.astype(jnp.float32)
