"""Slow, plain NumPy and Python versions of what the package does on device, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprm.models import TransformerConfig


def _norm(x: np.ndarray, scale: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps) * scale


def _rotate(x: np.ndarray, position: int, theta: float) -> np.ndarray:
    """[N, H] at one position: pairs (i, i + H/2) turned by position * theta^(-2i/H)."""
    half = x.shape[-1] // 2
    angle = position * theta ** (-2 * np.arange(half) / x.shape[-1])
    first, second = x[:, :half], x[:, half:]
    return np.concatenate([first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], -1)


def decoder_hidden(config: TransformerConfig, values: Mapping[str, Any], tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """Final hidden states [T, D] of one solution, from the flat parameters of `jaxprm.models.parameters`."""
    values = {name: np.asarray(value, np.float64) for name, value in values.items()}
    group = config.heads // config.kv_heads
    x = values["backbone.embedding"][list(tokens)]
    for layer in range(config.layers):
        p = lambda name: values[f"backbone.blocks.{name}"][layer]  # noqa: B023, E731
        normed = _norm(x, p("attention_norm.scale"), config.norm_eps)
        projected = {}
        for name in ("query", "key", "value"):
            projected[name] = np.einsum("td,dnh->tnh", normed, p(f"attention.{name}"))
            if config.attention_bias:
                projected[name] = projected[name] + p(f"attention.{name}_bias")
            if config.qk_norm and name != "value":
                projected[name] = _norm(projected[name], p(f"attention.{name}_norm.scale"), config.norm_eps)
        query, key = (np.stack([_rotate(row, t, config.rope_theta) for t, row in enumerate(projected[name])])
                      for name in ("query", "key"))
        mixed = np.zeros_like(query)
        for t in range(len(tokens)):
            for head in range(config.heads):
                logits = key[: t + 1, head // group] @ query[t, head] / np.sqrt(config.head_dim)
                weights = np.exp(logits - logits.max())
                mixed[t, head] = weights / weights.sum() @ projected["value"][: t + 1, head // group]
        x = x + np.einsum("tnh,nhd->td", mixed, p("attention.output"))
        if config.output_bias:
            x = x + p("attention.output_bias")
        normed = _norm(x, p("mlp_norm.scale"), config.norm_eps)
        gate = normed @ p("mlp.gate")
        x = x + (gate / (1 + np.exp(-gate)) * (normed @ p("mlp.up"))) @ p("mlp.down")
    return _norm(x, values["backbone.final_norm.scale"], config.norm_eps)


def next_token_logits(config: TransformerConfig, values: Mapping[str, Any], tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """[T, V] logits of a language model after each token of one solution."""
    matrix = values["backbone.embedding"].T if config.tie_embeddings else values["unembedding"]
    return decoder_hidden(config, values, tokens) @ np.asarray(matrix, np.float64)


def filtered(logits: Sequence[float] | np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """Probabilities [V] after temperature, then top-k, then top-p; tokens tied with the last one kept are kept."""
    values = np.asarray(logits, np.float64) / temperature
    keep = np.ones(len(values), bool)
    if top_k:
        keep = values >= np.sort(values)[-min(top_k, len(values))]
    probabilities = np.where(keep, np.exp(values - values.max()), 0.0)
    probabilities /= probabilities.sum()
    if top_p < 1:
        mass = 0.0
        for index in np.argsort(-probabilities, kind="stable"):
            if mass >= top_p:
                break
            mass, lowest = mass + probabilities[index], values[index]
        keep &= values >= lowest
        probabilities = np.where(keep, probabilities, 0.0)
    return probabilities / probabilities.sum()


def split_steps(prompt: Sequence[int], generated: Sequence[int], separator_id: int, end_id: int,
                read_back: int) -> tuple[list[int], list[int]]:
    """What `jaxprm.generation.solution_rows` finds in one row: (column of each step's read-out, step of each
    generated token)."""
    ends, owner, open_tokens = [], [], 0
    for column, token in enumerate(generated, len(prompt)):
        owner.append(len(ends))
        if token == separator_id or (token == end_id and open_tokens):
            ends.append(column - read_back)
            open_tokens = 0
        else:
            open_tokens += 1
        if token == end_id:
            break
    return ends, [step if step < len(ends) else -1 for step in owner]
