"""Three reward models: one that knows the truth, the trained one, and one that knows nothing."""

from __future__ import annotations

from collections.abc import Sequence

import countdown
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxprm.models import HeadConfig, RewardModel, TransformerConfig, parameters, with_parameters
from jaxprm.models.layers import Block
from jaxprm.models.rope import inverse_frequencies
from jaxprm.records import Problem
from jaxprm.steps import StepEncoder
from jaxprm.tasks.arithmetic import ArithmeticTask
from jaxprm.tasks.countdown import CountdownTask

SCORERS = ("oracle", "trained", "random")
_SHARP = 1000.0  # attention logits of the token looked for and of its neighbours differ by a quarter of it


def random_model(config: TransformerConfig, seed: int) -> RewardModel:
    """The trained model's architecture with fresh weights: a score that follows from the text and says nothing of its truth.

    A fresh head is 0; here it is drawn so that logits have a deviation of about 2 and scores spread over (0, 1).
    """
    model = RewardModel(config, HeadConfig("scalar"), rngs=nnx.Rngs(1000 + seed))
    values = parameters(model)
    kernel = values["head.kernel"]
    drawn = 2.0 * config.width**-0.5 * jax.random.normal(jax.random.key(1000 + seed), kernel.shape, kernel.dtype)
    return with_parameters(model, values | {"head.kernel": drawn})


class Truth:
    """What the task's verifier says of a text that is given as token ids: 1 if the path is right up to here (it can still
    become a solution), else 0. The beginning of a step is right as long as a right step begins with it.

    Args:
      task: its ``judge`` knows.
      encoder: of the ids.
      problems: whose texts are read; any other text is worth 0.
    """

    def __init__(self, task: ArithmeticTask | CountdownTask, encoder: StepEncoder, problems: Sequence[Problem]):
        self.task, self.encoder = task, encoder
        self._problems = {tuple(encoder.encode_prompt(problem.prompt)): problem for problem in problems}
        self._sizes = sorted({len(prompt) for prompt in self._problems})
        self._known: dict[bytes, float] = {}

    @property
    def longest_prompt(self) -> int:
        return self._sizes[-1]

    def __call__(self, texts: Int[np.ndarray, "R N"]) -> Float[np.ndarray, " R"]:
        """Scores of texts, each padded with -1."""
        return np.array([self._score(text) for text in np.asarray(texts)], np.float32)

    def _score(self, text: Int[np.ndarray, " N"]) -> float:
        if text.tobytes() not in self._known:
            self._known[text.tobytes()] = self._judge(text[text >= 0].tolist())
        return self._known[text.tobytes()]

    def _judge(self, ids: list[int]) -> float:
        size = next((size for size in self._sizes if tuple(ids[:size]) in self._problems), None)
        if size is None:
            return 0.0
        problem, steps, begun = self._problems[tuple(ids[:size])], [], []
        for token in ids[size:]:
            if token == self.encoder.separator_id:
                steps.append(self.encoder.tokenizer.decode(begun))
                begun = []
            else:
                begun.append(token)
        if begun:
            text = self.encoder.tokenizer.decode(begun)
            return float(any(right.startswith(text) for right in self._right_steps(problem, tuple(steps))))
        return float(bool(steps) and self.task.judge(problem, tuple(steps)).right[-1])

    def _right_steps(self, problem: Problem, steps: tuple[str, ...]) -> Sequence[str]:
        if isinstance(self.task, CountdownTask):
            return countdown.right_steps(problem, steps)
        return self.task.solve(problem)[len(steps) : len(steps) + 1]


class OracleModel(RewardModel):
    """The `Truth` as a reward model: one block whose hidden states are the ids read so far, and a head that asks for them.

    So it stands wherever a trained model does: in every compiled search, whatever is done to its caches.

    Args:
      truth: knows the scores.
      vocab_size: of the policy.
      context: most tokens of a text.
    """

    def __init__(self, truth: Truth, vocab_size: int, context: int):
        config = TransformerConfig(vocab_size=vocab_size, width=context, layers=1, heads=context, kv_heads=1, head_dim=4,
                                   mlp_dim=1, context=context, rope_theta=1e6)
        super().__init__(config, HeadConfig("scalar"), rngs=nnx.Rngs(0))
        ids = jnp.arange(vocab_size, dtype=jnp.float32)[:, None]
        self.backbone.embedding = nnx.Param(jnp.broadcast_to(ids, (vocab_size, context)))
        self.backbone.blocks, self.backbone.final_norm = _Recall(config), _Same()
        self.head = _Ask(truth, self.head.config)

    def outputs(self, hidden: Float[Array, "... S D"], partners: Int[Array, "... S"] | None = None) -> Float[Array, "... S K"]:
        return hidden


class _Recall(Block):
    """For each token the ids of all tokens up to it, -1 behind it: head n looks for position n.

    The logit of a token at p is proportional to n p - p^2 / 2, which is largest at p = n, by half of it.
    """

    def __init__(self, config: TransformerConfig):
        self.config = config
        self.layer = nnx.Param(jnp.zeros((config.layers,)))  # parameters of blocks have a leading layer axis

    def __call__(self, x, angles, read, pick=None):
        slowest = inverse_frequencies(self.config.head_dim, self.config.rope_theta)[-1]
        position = jnp.round(jnp.arctan2(angles[1], angles[0])[..., 0, -1] / slowest)
        here, none = position[..., None], jnp.zeros_like(x[..., 0])
        place = jnp.arange(self.config.heads, dtype=x.dtype)
        ask = jnp.stack([place, jnp.ones_like(place)] + [jnp.zeros_like(place)] * 2, axis=-1)
        offer = jnp.stack([position, -(position**2) / 2, none, none], axis=-1)
        value = jnp.stack([x[..., 0], none, none, none], axis=-1)
        found = read(jnp.broadcast_to(_SHARP * ask, (*x.shape[:2], *ask.shape)), offer[:, :, None], value[:, :, None])
        return jnp.where(place <= here, found[..., 0], -1.0)


class _Same(nnx.Module):
    def __call__(self, x):
        return x


class _Ask(nnx.Module):
    """A head that asks the host."""

    def __init__(self, truth: Truth, config: HeadConfig):
        self.truth, self.config = truth, config

    def score(self, texts: Float[Array, "R N"]) -> Float[Array, " R"]:
        shape = jax.ShapeDtypeStruct(texts.shape[:-1], jnp.float32)
        return jax.pure_callback(self.truth, shape, jnp.round(texts).astype(jnp.int32))
