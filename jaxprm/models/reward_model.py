"""Process reward models: a decoder, and a head that reads only the hidden states at step ends."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxprm.errors import InputError
from jaxprm.models.config import TransformerConfig
from jaxprm.models.heads import HeadConfig, HeadKind, StepHead
from jaxprm.models.sharding import constrain, gathered, out_sharding
from jaxprm.models.transformer import LanguageModel, Transformer

__all__ = ["HeadConfig", "HeadKind", "PolicyRewardModel", "RewardModel", "StepHead"]


class RewardModel(nnx.Module):
    """Backbone + step head. With ``tie_embeddings`` it can still predict tokens, from its embedding table.

    Raises:
      InputError: a head of kind ``lm_rows`` whose rows are not chosen, not in the vocabulary, or of a model that has no output
        matrix (a `PolicyRewardModel` has one of its own).
    """

    def __init__(self, config: TransformerConfig, head: HeadConfig, *, rngs: nnx.Rngs):
        if head.kind == "lm_rows":
            if not head.rows or max(head.rows) >= config.vocab_size:
                raise InputError(f"must be two of the {config.vocab_size} token ids", field="rows", value=head.rows)
            if not (config.tie_embeddings or isinstance(self, PolicyRewardModel)):
                raise InputError("a reward model without an output matrix has no such rows", field="kind", value=head.kind,
                                 hint="use PolicyRewardModel, or a decoder with tie_embeddings")
        self.backbone = Transformer(config, rngs=rngs)
        self.head = StepHead(config.width, head, rngs)

    @property
    def config(self) -> TransformerConfig:
        return self.backbone.config

    def output_matrix(self) -> Float[Array, "D V"]:
        """The matrix that hidden states are multiplied with for next-token logits.

        Raises:
          InputError: there is none.
        """
        return gathered(self._matrix(), "embed", "vocab")

    def outputs(self, hidden: Float[Array, "... S D"], partners: Int[Array, "... S"] | None = None) -> Float[Array, "... S K"]:
        """Head outputs (logits or Q-values) of hidden states at step ends, float32.

        Args:
          hidden: of S steps.
          partners: for a head that reads in two directions: the place among the S at which the same step is read in the
            other direction. It is symmetric where both readings are complete:

              steps      a b c | c b a        the second half is a segment of its own
              partners   5 4 3   2 1 0

        Raises:
          InputError: ``partners`` is absent where it is needed, or given to a head that reads forward only.
        """
        both = self.head.config.direction != "forward"
        if both and partners is None:
            raise InputError("reads whole solutions in both directions; here each step is read once", field="direction",
                             value=self.head.config.direction, hint="score whole solutions, or train a head that reads forward")
        if self.head.config.kind == "lm_rows":
            found = hidden.astype(jnp.float32) @ self._label_rows()
            cap = self.config.logit_softcap
            found = found if cap is None else cap * jnp.tanh(found / cap)
        else:
            found = self.head(hidden)
        if not both or partners is None:
            return found
        place = partners[..., None]
        gate = self.head.gate(hidden, jnp.take_along_axis(hidden, place, axis=-2))
        return gate * found + (1 - gate) * jnp.take_along_axis(found, place, axis=-2)

    def _matrix(self) -> Float[Array, "D V"]:
        if not self.config.tie_embeddings:
            raise InputError("a reward model reads its language model's logits from its embedding table",
                             field="tie_embeddings", value=False, hint="use PolicyRewardModel, which keeps an output matrix")
        return self.backbone.embedding[...].T

    def _label_rows(self) -> Float[Array, "D 2"]:
        rows = jnp.asarray(self.head.config.rows)
        whole = constrain(self._matrix().T, None, None)
        return whole.at[rows].get(out_sharding=out_sharding(None, None)).astype(jnp.float32).T


class PolicyRewardModel(RewardModel):
    """A policy that is its own process reward model: one decoder, an output matrix and a step head (MetaStone-S1's SPRM, 2025;
    AlphaMath, 2024). Text is read once for tokens and scores.

    Its output matrix is the embedding table with ``tie_embeddings``, else the parameter ``unembedding``.
    """

    def __init__(self, config: TransformerConfig, head: HeadConfig, *, rngs: nnx.Rngs):
        super().__init__(config, head, rngs=rngs)
        if not config.tie_embeddings:
            self.unembedding = nnx.Param(
                jax.random.normal(rngs.params(), (config.width, config.vocab_size), jnp.float32) * config.width ** -0.5)

    def policy(self) -> LanguageModel:
        """The language model of the same arrays; nothing is copied."""
        model = jax.eval_shape(lambda: LanguageModel(self.config, rngs=nnx.Rngs(0)))
        model.backbone = self.backbone
        if not self.config.tie_embeddings:
            model.unembedding = self.unembedding
        return model

    def _matrix(self) -> Float[Array, "D V"]:
        return super()._matrix() if self.config.tie_embeddings else self.unembedding[...]
