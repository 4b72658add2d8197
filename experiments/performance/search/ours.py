"""The searches and the sampler of jaxprm that are timed, and one that reads prefixes again."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from checkpoints import END, SEPARATOR
from counts import Counts

from jaxprm.generation.sampler import Generation, SamplingConfig, generate, sample, start
from jaxprm.hub.families import Settings
from jaxprm.hub.hf_config import read_hf_config
from jaxprm.hub.hf_weights import open_weights
from jaxprm.hub.load import load_prm, read_language_model
from jaxprm.scoring import StepScorer
from jaxprm.search import Budget, SearchResult, search
from jaxprm.search.strategies import Beam

SAMPLING = SamplingConfig()


class OurModels:
    """The checkpoints in jaxprm, with a scorer that reads whole texts."""

    def __init__(self, policy: Path, reward: Path, dtype: str, batch_tokens: int, doublings: int):
        self.doublings = doublings
        self.policy = read_language_model(open_weights(policy), read_hf_config(policy), dtype)
        loaded = load_prm(reward, "trl", dtype=dtype, settings=Settings(separator="\n\n"))
        self.reward, self.scorer = loaded.model, StepScorer(loaded.model, loaded.encoder, batch_tokens)

    def search(self, key: int, prompts: np.ndarray, candidates: int, expansions: int, steps: int,
               step_tokens: int, levels: int | None = None) -> SearchResult:
        """`jaxprm.search.search` of all prompts at once; with ``levels`` the same programs stop after so many."""
        return search(self.policy, self.reward, jax.random.key(key), prompts.astype(np.int32),
                      np.full(len(prompts), prompts.shape[1], np.int32), Beam(candidates // expansions, expansions),
                      max_steps=steps, max_step_tokens=step_tokens, sampling=SAMPLING, separator_id=SEPARATOR, end_id=END,
                      budget=Budget(levels=levels), doublings=self.doublings)


def counts_of(models: OurModels, result: SearchResult, prompt: int) -> Counts:
    """What a search has read by theory: the prompt once, and every new step once.

    Raises:
      RuntimeError: the search has counted something else.
    """
    _, steps, candidates, step_tokens = result.tree.tokens.shape
    drawn = candidates * steps * step_tokens
    reads = [(1, 0, prompt), *((candidates, prompt + level * step_tokens, step_tokens) for level in range(steps))]
    counts = Counts(reads, reads, 1 + drawn, 1 + steps * step_tokens, 1 + steps)
    costs = result.costs
    for name, found, expected in (
            ("policy tokens", costs.policy_tokens, drawn), ("reward tokens", costs.reward_tokens, prompt + drawn),
            ("policy forwards", costs.policy_forwards, counts.policy_forwards),
            ("reward forwards", costs.reward_forwards, counts.reward_forwards),
            ("FLOPs", costs.flops, counts.flops(models.policy.config, models.reward.config))):
        if not np.allclose(found, expected, rtol=1e-5, atol=0):
            raise RuntimeError(f"{name}: {found.tolist()} counted, {expected} expected")
    return counts


@functools.partial(jax.jit, static_argnames=("rows", "capacity"))
def _start(policy, prompt, rows: int, capacity: int) -> Generation:
    return start(policy, prompt, jnp.full((1,), prompt.shape[1], jnp.int32), rows, capacity)


@functools.partial(jax.jit, static_argnames="step_tokens", donate_argnames="state")
def _step(policy, state: Generation, order, key, step_tokens: int):
    state = Generation(state.cache.gather(order[None]), state.next_logits[order])
    samples, state = generate(policy, state, key, jnp.ones(order.shape, bool), SAMPLING, step_tokens, END, SEPARATOR)
    return samples.tokens, state


def search_reading_again(models: OurModels, key: int, prompt: np.ndarray, candidates: int, expansions: int, steps: int,
                         step_tokens: int) -> tuple[list[list[int]], list[np.ndarray], Counts]:
    """Beam search of one problem with our sampler and cache, where the reward model reads whole texts with `StepScorer`."""
    state = _start(models.policy, prompt[None].astype(np.int32), candidates, (steps + 1) * step_tokens)
    texts, order = [prompt.tolist()] * candidates, np.arange(candidates)
    length, reads = len(prompt), []
    for level in range(steps):
        tokens, state = _step(models.policy, state, order, jax.random.fold_in(jax.random.key(key), level), step_tokens)
        texts = [texts[parent] + new for parent, new in zip(order.tolist(), np.asarray(tokens).tolist())]
        ends = list(range(length + step_tokens - 1, len(texts[0]), step_tokens))
        scores = models.scorer.score_ids([(text, ends) for text in texts],
                                         lambda rows, tokens: reads.append((rows, 0, tokens // rows)))
        best = np.argsort([-row.min() for row in scores], kind="stable")[: candidates // expansions]
        order = np.repeat(best, expansions)
    policy = [(1, 0, length), *((candidates, length + level * step_tokens, step_tokens) for level in range(steps))]
    return texts, scores, Counts(policy, reads, 1 + candidates * steps * step_tokens, 1 + steps * step_tokens, len(reads))


_sample = jax.jit(sample, static_argnames=("width", "limit", "config", "end_id"))


def draw(models: OurModels, key: int, prompt: np.ndarray, rows: int, tokens: int) -> jax.Array:
    """[rows, tokens] drawn behind the prompt [P], which is read once."""
    return _sample(models.policy, jax.random.key(key), prompt[None].astype(np.int32),
                   np.full(1, len(prompt), np.int32), width=rows, limit=tokens, config=SAMPLING, end_id=END).tokens



@jax.jit
def _next_logits(policy, rows, lengths):
    return start(policy, rows, lengths, 1, 1).next_logits


def next_logits(models: OurModels, rows: np.ndarray) -> jax.Array:
    """Logits float32[N, V] of what follows texts [N, T]."""
    return _next_logits(models.policy, rows.astype(np.int32), np.full(len(rows), rows.shape[1], np.int32))
