"""Logits of every supported architecture as transformers computes them, at once and in pieces."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.models import empty_cache, extend, forward, logits, prefill

NAMES = ["qwen2_untied", "qwen2_tied", "qwen2_swa", "qwen2_yarn", "qwen2_bf16", "qwen3", "llama3", "llama_bias_sharded",
         "mistral", "gemma2", "gemma3_text", "llama3_v4", "gemma3_text_v4"]
PROMPT, CHUNKS = 9, (1, 7, 1, 4)  # 22 tokens: longer than every window


@pytest.fixture(scope="module")
def directory(request, shared) -> Path:
    path = shared / "fixtures/hf/base" / request.param
    if not path.is_dir():
        pytest.skip("no such fixture")
    return path


every_model = pytest.mark.parametrize("directory", NAMES, indirect=True)


def read(directory):
    """(sequences, their expected arrays)."""
    return (json.loads((directory / "expected.json").read_text())["sequences"], np.load(directory / "expected.npz"))


def whole(model, sequences):
    """Hidden states and logits of all sequences, padded to one buffer."""
    size = max(len(sequence["input_ids"]) for sequence in sequences)
    tokens, segments = np.zeros((2, len(sequences), size), np.int32)
    for row, sequence in enumerate(sequences):
        tokens[row, : sequence["length"]], segments[row, : sequence["length"]] = sequence["input_ids"], 1
    positions = np.broadcast_to(np.arange(size, dtype=np.int32), tokens.shape)
    hidden = jax.jit(forward)(model.backbone, jnp.asarray(tokens), jnp.asarray(positions), jnp.asarray(segments))
    return np.asarray(hidden, np.float32), np.asarray(logits(model, hidden))


@every_model
def test_forward_equals_transformers(directory, published):
    model, (sequences, expected) = published.language_model(directory), read(directory)
    projection = np.load(directory.parents[1] / "projection.npz")
    projection = projection[projection.files[0]][: model.config.vocab_size]
    hidden, values = whole(model, sequences)
    for row, sequence in enumerate(sequences):
        name, real = sequence["name"], slice(sequence["length"])
        found = {"hidden": hidden[row, real], "logits": values[row, real], "last_logits": values[row, real][-1],
                 "hidden_norm": np.linalg.norm(hidden[row, real], axis=-1), "proj": values[row, real] @ projection,
                 "logsumexp": jax.nn.logsumexp(values[row, real], axis=-1)}
        for kind, value in found.items():
            if kind in ("hidden", "logits") and row > 0:
                continue
            np.testing.assert_allclose(value, expected[f"{name}/{kind}"], atol=1e-4, rtol=0, err_msg=f"{name} {kind}")
        top = np.sort(values[row, real], axis=-1)
        clear = top[:, -1] - top[:, -2] > 1e-3
        np.testing.assert_array_equal(values[row, real].argmax(-1)[clear], expected[f"{name}/argmax"][clear])


@pytest.mark.parametrize("directory", [name for name in NAMES if not name.endswith("_v4")], indirect=True)
def test_pieces_equal_transformers(directory, published):
    """Two rows behind one prompt: the sequence itself, and one that reads other tokens first and is then overtaken."""
    model, (sequences, expected) = published.language_model(directory), read(directory)
    sequence = next(one for one in sequences if one["length"] >= PROMPT + sum(CHUNKS))
    ids, size = np.asarray(sequence["input_ids"], np.int32), max(CHUNKS)
    prompt = np.zeros((1, PROMPT + 3), np.int32)
    prompt[0, :PROMPT] = ids[:PROMPT]
    hidden, cache = jax.jit(prefill)(model.backbone, jnp.asarray(prompt), jnp.asarray([PROMPT], jnp.int32))
    found, at = [np.asarray(logits(model, hidden))[0, :PROMPT]], PROMPT
    cache = empty_cache(model.config, 2, sum(CHUNKS) + size, cache)
    step = jax.jit(extend)
    for count in CHUNKS:
        tokens = np.zeros((2, size), np.int32)
        tokens[0, :count], tokens[1] = ids[at : at + count], ids[:size]
        hidden, cache = step(model.backbone, cache, jnp.asarray(tokens), jnp.asarray([count, count], jnp.int32))
        found.append(np.asarray(logits(model, hidden))[0, :count])
        at += count
    projection = np.load(directory.parents[1] / "projection.npz")
    projection = projection[projection.files[0]][: model.config.vocab_size]
    np.testing.assert_allclose(np.concatenate(found) @ projection, expected[f"{sequence['name']}/proj"][:at], atol=1e-4, rtol=0)


@pytest.mark.parametrize("directory", ["qwen2_bf16"], indirect=True)
def test_bfloat16_deviates_as_transformers_does(directory, published):
    """Weights and activations in bfloat16: the largest deviation from float32 is that of transformers, give or take."""
    sequences, _ = read(directory)
    theirs = json.loads((directory / "expected.json").read_text())["bf16_compute"]
    _, full = whole(published.language_model(directory), sequences)
    model = published.language_model(directory, jnp.bfloat16, dtype="bfloat16")
    _, half = whole(model, sequences)
    deviations = [np.abs(half[row, : one["length"]] - full[row, : one["length"]]).max() for row, one in enumerate(sequences)]
    expected = np.mean([theirs[one["name"]]["max_abs_logit_diff_vs_fp32"] for one in sequences])
    assert 0.5 * expected < np.mean(deviations) < 1.5 * expected
    # The file holds bfloat16 numbers, so keeping them so and computing in float32 changes nothing.
    np.testing.assert_allclose(whole(published.language_model(directory, jnp.bfloat16), sequences)[1], full, atol=1e-5)
