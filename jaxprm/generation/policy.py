"""`LocalPolicy`: a language model with its encoder; solutions for problems in, texts and ids out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxprm.errors import InputError
from jaxprm.generation.sampler import SamplingConfig, sample
from jaxprm.models.transformer import LanguageModel
from jaxprm.steps.format import StepEncoder

_sample = jax.jit(sample, static_argnames=("width", "limit", "config", "end_id"))


@dataclasses.dataclass(frozen=True)
class SampledSolution:
    """One sample.

    Attributes:
      steps: its texts; ``finished`` says whether it ended by itself (else the last step may be cut off).
      ids: generated token ids including the end token.
      log_prob: sum over its tokens under the sampling distribution, nats.
    """

    steps: tuple[str, ...]
    finished: bool
    ids: tuple[int, ...]
    log_prob: float


class LocalPolicy:
    """A language model on this machine's devices.

    Args:
      model: the language model.
      encoder: its step format and tokenizer.
      limit: most tokens of a solution.
      sampling: how tokens are drawn.
      batch_rows: samples per compiled call.
    """

    def __init__(self, model: LanguageModel, encoder: StepEncoder, *, limit: int,
                 sampling: SamplingConfig = SamplingConfig(), batch_rows: int = 512):
        if limit < 1:
            raise InputError("must be at least 1", field="limit", value=limit)
        self.model, self.encoder, self.limit = model, encoder, limit
        self.sampling, self.batch_rows = sampling, batch_rows

    def prompts(self, texts: Sequence[str], rows: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Right-padded ids int32[rows, P] and lengths int32[rows] of problems; spare rows hold a one-token prompt."""
        return pad_prompts([self.encoder.encode_prompt(text) for text in texts], rows)

    def sample(self, key: jax.Array, texts: Sequence[str], n: int,
               on_batch: Callable[[int, int], None] = lambda problems, tokens: None) -> list[list[SampledSolution]]:
        """``n`` solutions for each problem text."""
        return self.continue_ids(key, [self.encoder.encode_prompt(text) for text in texts], n, on_batch)

    def continue_ids(self, key: jax.Array, prefixes: Sequence[Sequence[int]], n: int,
                     on_batch: Callable[[int, int], None] = lambda problems, tokens: None) -> list[list[SampledSolution]]:
        """``n`` continuations of each prefix of token ids (a prompt, or a prompt and some steps).

        Prefixes of similar length share a compiled call; each is read once for its n continuations. The samples are fixed
        by the key, the list of prefixes, n and ``batch_rows``. ``on_batch(prefixes, tokens)``
        is called after each compiled call with how many prefixes it continued and the tokens it generated.

        Raises:
          InputError: a prefix leaves no room in the model's context.
        """
        room = self.model.config.context - self.limit
        results: list[list[SampledSolution]] = [[] for _ in prefixes]
        problems = max(1, self.batch_rows // n)
        order = sorted(range(len(prefixes)), key=lambda i: len(prefixes[i]))
        for start in range(0, len(order), problems):
            members = order[start : start + problems]
            longest = max(len(prefixes[i]) for i in members)
            if longest > room:
                raise InputError(f"needs {longest} tokens; context {self.model.config.context} less limit {self.limit} "
                                 f"leaves {room}", field="prefix", hint="use a model with a longer context")
            tokens, lengths = pad_prompts([prefixes[i] for i in members], problems)
            batch = jax.device_get(_sample(self.model, jax.random.fold_in(key, start), jnp.asarray(tokens),
                                           jnp.asarray(lengths), width=n, limit=self.limit, config=self.sampling,
                                           end_id=self.encoder.end_id))
            for place, index in enumerate(members):
                results[index] = [self._solution(batch, place * n + k) for k in range(n)]
            on_batch(len(members), int(batch.lengths[: len(members) * n].sum()))
        return results

    def _solution(self, batch, row: int) -> SampledSolution:
        ids = batch.tokens[row, : batch.lengths[row]].tolist()
        steps, finished = self.encoder.decode_steps(ids)
        return SampledSolution(steps, finished, tuple(ids), float(batch.log_probs[row].sum()))


def pad_prompts(ids: Sequence[Sequence[int]], rows: int | None = None, multiple: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Right-padded int32[rows, P] with P a multiple of ``multiple`` (few compiled shapes), and int32[rows] lengths."""
    rows = len(ids) if rows is None else rows
    size = -(-max(len(prompt) for prompt in ids) // multiple) * multiple
    tokens, lengths = np.zeros((rows, size), np.int32), np.ones((rows,), np.int32)
    for row, prompt in enumerate(ids):
        tokens[row, : len(prompt)] = prompt
        lengths[row] = len(prompt)
    return tokens, lengths
