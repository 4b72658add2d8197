"""Slow, plain NumPy and Python versions of what the package does on device, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprm.models import RopeScaling, TransformerConfig


def _norm(config: TransformerConfig, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + config.norm_eps) * (config.norm_plus_one + scale)


def _capped(logits: np.ndarray, cap: float | None) -> np.ndarray:
    return logits if cap is None else cap * np.tanh(logits / cap)


def rope_frequencies(size: int, theta: float, scaling: RopeScaling | None, length: int) -> tuple[np.ndarray, float]:
    """(radians per token of each pair of a head, factor on cos and sin), for a text of ``length`` tokens."""
    frequencies, factor = [], 1.0
    if scaling is not None and scaling.kind == "dynamic":
        growth = max(length, scaling.original_context) / scaling.original_context
        theta *= (scaling.factor * growth - scaling.factor + 1) ** (size / (size - 2))
    for pair in range(size // 2):
        frequency = theta ** (-2 * pair / size)
        turns = 0 if scaling is None else (scaling.original_context or 0) * frequency / (2 * np.pi)
        if scaling is None or scaling.kind == "dynamic":
            kept = 1.0
        elif scaling.kind == "linear":
            kept = 0.0
        elif scaling.kind == "llama3":
            kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        else:  # linear in the pair's index, between the pairs that turn beta_fast and beta_slow times
            factor = 0.1 * np.log(scaling.factor) + 1 if scaling.attention_factor is None else scaling.attention_factor
            first, last = (np.log(scaling.original_context / (2 * np.pi * turns)) / np.log(theta) * size / 2
                           for turns in (scaling.beta_fast, scaling.beta_slow))
            first, last = max(np.floor(first), 0), min(np.ceil(last), size - 1)
            kept = 1 - (pair - first) / (last - first)
        kept = min(max(kept, 0.0), 1.0)
        frequencies.append(frequency * (kept + (1 - kept) / (1 if scaling is None else scaling.factor)))
    return np.array(frequencies), factor


def _rotate(x: np.ndarray, position: int, frequencies: np.ndarray, factor: float) -> np.ndarray:
    """[N, H] at one position: pairs (i, i + H/2) turned by position * frequency."""
    half = x.shape[-1] // 2
    cos, sin = factor * np.cos(position * frequencies), factor * np.sin(position * frequencies)
    first, second = x[:, :half], x[:, half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def decoder_hidden(config: TransformerConfig, values: Mapping[str, Any], tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """Final hidden states [T, D] of one solution, from the flat parameters of `jaxprm.models.parameters`."""
    values = {name: np.asarray(value, np.float64) for name, value in values.items()}
    group = config.heads // config.kv_heads
    x = values["backbone.embedding"][list(tokens)] * (np.sqrt(config.width) if config.embed_scale else 1)
    for layer in range(config.layers):
        p = lambda name: values[f"backbone.blocks.{name}"][layer]  # noqa: B023, E731
        window = config.windows[layer] if config.windows else 0
        rope = rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling, len(tokens))
        if window and config.local_rope_theta is not None:
            rope = rope_frequencies(config.head_dim, config.local_rope_theta, None, len(tokens))
        normed = _norm(config, x, p("attention_norm.scale"))
        projected = {}
        for name in ("query", "key", "value"):
            projected[name] = np.einsum("td,dnh->tnh", normed, p(f"attention.{name}"))
            if config.attention_bias:
                projected[name] = projected[name] + p(f"attention.{name}_bias")
            if config.qk_norm and name != "value":
                projected[name] = _norm(config, projected[name], p(f"attention.{name}_norm.scale"))
        query, key = (np.stack([_rotate(row, t, *rope) for t, row in enumerate(projected[name])]) for name in ("query", "key"))
        mixed = np.zeros_like(query)
        scale = config.head_dim ** -0.5 if config.query_scale is None else config.query_scale
        for t in range(len(tokens)):
            seen = slice(max(t + 1 - window, 0) if window else 0, t + 1)
            for head in range(config.heads):
                logits = _capped(key[seen, head // group] @ query[t, head] * scale, config.attention_softcap)
                weights = np.exp(logits - logits.max())
                mixed[t, head] = weights / weights.sum() @ projected["value"][seen, head // group]
        out = np.einsum("tnh,nhd->td", mixed, p("attention.output"))
        if config.output_bias:
            out = out + p("attention.output_bias")
        x = x + (_norm(config, out, p("attention_post_norm.scale")) if config.post_norms else out)
        normed = _norm(config, x, p("mlp_norm.scale"))
        bias = lambda name: p(f"mlp.{name}_bias") if config.mlp_bias else 0.0  # noqa: B023, E731
        gate, up = (normed @ p(f"mlp.{name}") + bias(name) for name in ("gate", "up"))
        if config.activation == "silu":
            gate = gate / (1 + np.exp(-gate))
        else:
            gate = gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        out = (gate * up) @ p("mlp.down") + bias("down")
        x = x + (_norm(config, out, p("mlp_post_norm.scale")) if config.post_norms else out)
    return _norm(config, x, values["backbone.final_norm.scale"])


def next_token_logits(config: TransformerConfig, values: Mapping[str, Any], tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """[T, V] logits of a language model after each token of one solution."""
    matrix = values["backbone.embedding"].T if config.tie_embeddings else values["unembedding"]
    return _capped(decoder_hidden(config, values, tokens) @ np.asarray(matrix, np.float64), config.logit_softcap)


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
