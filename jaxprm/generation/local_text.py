"""A local language model as a `TextPolicy`: steps are drawn on the device and leave it as text."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxprm.errors import InputError
from jaxprm.generation.policy import pad_prompts
from jaxprm.generation.sampler import Generation, Samples, SamplingConfig, entropy, generate, start
from jaxprm.generation.stops import stop_at_ids
from jaxprm.generation.text import Ahead, Ending, Part, StepSample, problem_seed
from jaxprm.generation.text_encoder import TextEncoder
from jaxprm.models.shared_rows import ROOM, SharedRows, spread
from jaxprm.models.transformer import LanguageModel
from jaxprm.records import Problem
from jaxprm.steps.format import StepEncoder

_start = jax.jit(start, static_argnames=("width", "capacity"))
_entropy = jax.jit(entropy)
_generate = jax.jit(generate, static_argnames=("config", "limit", "entropies"), donate_argnums=1)


def problem_keys(problems: Sequence[Problem], seed: int) -> jax.Array:
    """A key for each problem [B] that depends on nothing but the seed and the problem."""
    numbers = jnp.asarray([problem_seed(problem) for problem in problems], jnp.uint32)
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)


@functools.partial(jax.jit, static_argnames=("width", "ahead"))
def _row_keys(keys: jax.Array, level: Int[Array, ""], width: int, ahead: int = -1) -> jax.Array:
    """A key per row, as the compiled search makes them: of the problem, the level, the step of lookahead and the place."""
    fold = jax.vmap(jax.random.fold_in, (0, None))
    of_level = fold(keys, level)
    if ahead >= 0:
        of_level = fold(fold(of_level, width + 1), ahead)
    return jax.vmap(lambda key: jax.vmap(lambda place: jax.random.fold_in(key, place))(jnp.arange(width)))(of_level).reshape(-1)


class LocalTextPolicy:
    """A language model on this machine's devices.

    Args:
      model, encoder: the model; how it is asked and where its steps end: a step format whose separator is a token of its own,
        or of a published model the `TextEncoder`.
      max_steps, max_step_tokens: most steps of a path, those of lookahead included, and most tokens of a step.
      sampling: how tokens are drawn.
      entropies: fill the entropies of `StepSample`.

    Raises (at construction):
      InputError: the format has no separator to stop at.
    """

    def __init__(self, model: LanguageModel, encoder: StepEncoder | TextEncoder, *, max_steps: int, max_step_tokens: int,
                 sampling: SamplingConfig = SamplingConfig(), entropies: bool = False):
        self.model, self.encoder, self.sampling, self.entropies = model, encoder, sampling, entropies
        self.max_steps, self.max_step_tokens = max_steps, max_step_tokens
        rows = model.config.vocab_size
        if isinstance(encoder, TextEncoder):
            self.stops = encoder.stops(rows)
        elif encoder.separator_id is None:
            raise InputError("must not be empty: a step ends at it", field="separator", value="")
        else:
            self.stops = stop_at_ids(encoder.separator_id, encoder.end_id, rows)

    def text(self, ids: Sequence[int], ending: Ending) -> str:
        """What a step says, without what has ended it."""
        if isinstance(self.encoder, TextEncoder):
            return self.encoder.decode_step(ids, ending == "solution")
        return self.encoder.tokenizer.decode(ids[:-1] if ending in ("step", "solution") else ids)

    def begin(self, problems: Sequence[Problem], width: int, seed: int) -> LocalSession:
        return LocalSession(self, problems, width, seed)


class LocalSession:
    """Paths of a `LocalTextPolicy`; each draws with a key of its own, and only those that draw are computed.

    Attributes:
      positions: int[B, C], tokens that each path has in the model, its prompt included.
    """

    def __init__(self, policy: LocalTextPolicy, problems: Sequence[Problem], width: int, seed: int):
        self._policy, self._shape = policy, (len(problems), width)
        self.forwards = np.ones(len(problems), np.int64)  # the prompt's
        self.warnings: list[Counter[str]] = [Counter() for _ in problems]
        prompts = [policy.encoder.encode_prompt(problem.prompt) for problem in problems]
        # A prompt without room for a step is not read; its paths stay empty.
        room = policy.model.config.context - policy.max_step_tokens
        self.positions = np.array([[len(prompt)] * width for prompt in prompts])
        tokens, lengths = pad_prompts([prompt if len(prompt) <= room else prompt[:1] for prompt in prompts])
        most = policy.max_steps * policy.max_step_tokens
        state: Generation = _start(policy.model, jnp.asarray(tokens), jnp.asarray(lengths), 1, min(ROOM, most))
        self._prompts, self._rows = self.positions, SharedRows(state.cache, state.next_logits, width, most)
        self._keys = problem_keys(problems, seed)
        self._begun: Samples | None = None  # what was drawn last

    def sample(self, level: int, active: Bool[np.ndarray, "B C"], ahead: Ahead | None = None,
               part: Part | None = None) -> list[list[StepSample | None]]:
        policy, sampling = self._policy, self._policy.sampling
        begun = self._begun if part is not None and part.rest else None
        before = 0 if begun is None else part.tokens
        left = policy.max_step_tokens - before
        limit, open_ = (part.tokens, "begun") if part is not None and not part.rest else (left, "cut")
        room = self.positions + left <= policy.model.config.context
        if ahead is None:
            for row in np.flatnonzero((active & ~room).any(1)).tolist():
                self.warnings[row]["policy's context is full"] += int((active & ~room)[row].sum())
        elif ahead.greedy:
            sampling = dataclasses.replace(sampling, temperature=0.0)
        active = active & room
        keys = _row_keys(self._keys, jnp.int32(level), self._shape[1], -1 if ahead is None else ahead.number)
        found, following = self._generate(keys, active, sampling, limit, before, begun)
        lengths = found.lengths.reshape(self._shape)
        self.forwards += lengths.max(1)
        self.positions = self.positions + lengths
        if begun is not None:
            found = _joined(begun, found)
        self._begun = found
        rows = [self._step(found, row, following, open_) if active.flat[row] else None for row in range(active.size)]
        return [rows[start : start + self._shape[1]] for start in range(0, len(rows), self._shape[1])]

    def _generate(self, keys: jax.Array, active: Bool[np.ndarray, "B C"], sampling: SamplingConfig, limit: int, before: int,
                  begun: Samples | None) -> tuple[Samples, np.ndarray | None]:
        """What all B * C paths draw, on the host, and the entropies of what comes next; only active ones are computed."""
        policy = self._policy
        places, cache, logits = self._rows.take(active, self.positions - self._prompts, limit)
        there = np.maximum(places, 0)
        found, state = _generate(policy.model, Generation(cache, logits), keys[there], jnp.asarray(places >= 0), sampling,
                                 limit, stops=policy.stops, entropies=policy.entropies, before=before,
                                 written=None if begun is None else begun.written[there])
        following = _entropy(state.next_logits) if policy.entropies else None
        self._rows.put(state.cache, state.next_logits)
        return jax.tree.map(lambda values: spread(values, places, active.size), (found, following))

    def _step(self, found: Samples, row: int, following: np.ndarray | None, open_: Ending) -> StepSample:
        length = int(found.lengths[row])
        ending = "solution" if found.finished[row] else "step" if found.closed[row] else open_
        text = self._policy.text(found.tokens[row, :length].tolist(), ending)
        sample = StepSample(text, length, ending, float(found.log_probs[row, :length].sum()))
        if following is None:
            return sample
        return dataclasses.replace(sample, entropy=float(found.entropies[row, :length].mean()),
                                   next_entropy=float(following[row]))

    def gather(self, parents: Int[np.ndarray, "B C"]) -> None:
        self._rows.gather(parents)
        self.positions = np.take_along_axis(self.positions, parents, axis=1)

    def mark(self) -> Any:
        return self._rows.mark(), self.positions

    def back(self, mark: Any) -> None:
        rows, self.positions = mark
        self._rows.back(rows)


def _joined(begun: Samples, rest: Samples) -> Samples:
    """Beginnings of steps and their rest: the whole steps in rows that went on, which had drawn all tokens of their part."""
    join = lambda name: np.concatenate([getattr(begun, name), getattr(rest, name)], axis=1)  # noqa: E731
    return dataclasses.replace(rest, tokens=join("tokens"), log_probs=join("log_probs"), lengths=begun.lengths + rest.lengths,
                               entropies=None if rest.entropies is None else join("entropies"))
