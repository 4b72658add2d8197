"""Published architectures: directories of transformers, read from disk, give the logits that PyTorch computed."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprm.hub.hf_config import read_hf_config
from jaxprm.hub.hf_weights import load_backbone, open_weights
from jaxprm.models import (LanguageModel, ShardingRules, forward, logits, make_mesh, parameter_shardings, parameters,
                           with_parameters)

NAMES = ("qwen2_untied", "qwen2_tied", "qwen2_swa", "qwen2_yarn", "qwen2_bf16", "qwen3", "llama3", "llama_bias_sharded",
         "mistral", "gemma2", "gemma3_text", "llama3_v4", "gemma3_text_v4")
# fp32 against fp32; the fixtures' README allows this much.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def fixtures(shared) -> Path:
    folder = shared / "fixtures" / "hf"
    if not folder.is_dir():
        pytest.skip("no Hugging Face fixtures in ../shared")
    return folder


def load(directory: Path, **changes) -> LanguageModel:
    config = read_hf_config(directory)
    transformer = dataclasses.replace(config.transformer, **changes)
    empty = jax.eval_shape(lambda: LanguageModel(transformer, rngs=nnx.Rngs(0)))
    dtype = changes.get("dtype", "float32")
    return with_parameters(empty, load_backbone(open_weights(directory), transformer, config.model_type,
                                                language_model=True, dtype=dtype))


@jax.jit
def run(model: LanguageModel, tokens: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    slots = jnp.arange(tokens.shape[0], dtype=jnp.int32)[None]
    with jax.default_matmul_precision("highest"):
        hidden = forward(model.backbone, tokens[None], slots, (slots < length).astype(jnp.int32))
        return hidden[0], logits(model, hidden)[0]


def sequences(directory: Path):
    """(name, ids, what PyTorch computed for them)."""
    arrays = np.load(directory / "expected.npz")
    for row in json.loads((directory / "expected.json").read_text())["sequences"]:
        prefix = row["name"] + "/"
        yield row["name"], row["input_ids"], {key.removeprefix(prefix): arrays[key] for key in arrays.files
                                              if key.startswith(prefix)}


def compute(model, ids):
    longest = 96  # one compilation for all texts of a model
    assert len(ids) <= longest
    hidden, values = run(model, np.pad(np.asarray(ids, np.int32), (0, longest - len(ids))), len(ids))
    return np.asarray(hidden)[:len(ids)].astype(np.float64), np.asarray(values)[:len(ids)].astype(np.float64)


def check(model, directory: Path, projection: np.ndarray) -> float:
    """Compares everything that is stored; the largest difference of logits."""
    worst, argmax = 0.0, 0
    for name, ids, expected in sequences(directory):
        hidden, values = compute(model, ids)
        found = {"hidden_norm": np.linalg.norm(hidden, axis=-1), "last_logits": values[-1],
                 "proj": values @ projection[:values.shape[1]], "hidden": hidden, "logits": values,
                 "logsumexp": np.logaddexp.reduce(values, axis=-1)}
        for key, value in expected.items():
            if key != "argmax":
                np.testing.assert_allclose(found[key], value, rtol=0, atol=TOLERANCE, err_msg=f"{name}/{key}")
                if key in ("logits", "last_logits"):
                    worst = max(worst, np.abs(found[key] - value).max())
        best = np.sort(values, axis=-1)
        clear = best[:, -1] - best[:, -2] > 1e-3
        np.testing.assert_array_equal(values.argmax(-1)[clear], expected["argmax"][clear], err_msg=name)
        argmax += clear.sum()
    assert argmax > 20
    return worst


@pytest.mark.parametrize("name", NAMES)
def test_logits(fixtures, name):
    projection = np.load(fixtures / "projection.npz")["P"].astype(np.float64)
    worst = check(load(fixtures / "base" / name), fixtures / "base" / name, projection)
    print(f"{name}: largest difference of logits {worst:.2g}")


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("_v4")])
def test_both_styles_of_config_say_the_same(fixtures, name, tmp_path):
    directory = fixtures / "base" / name
    shutil.copy(directory / "config.v4.json", tmp_path / "config.json")
    old, new = read_hf_config(tmp_path), read_hf_config(directory)
    assert old.transformer == new.transformer and old.dtype == new.dtype and old.architecture == new.architecture
    assert "rope_parameters" in new.raw and "rope_parameters" not in old.raw


def test_bfloat16_stays_near_float32(fixtures):
    directory = fixtures / "base" / "qwen2_bf16"
    stored = load_backbone(open_weights(directory), read_hf_config(directory).transformer, "qwen2", language_model=True)
    assert {value.dtype for value in stored.values()} == {jnp.dtype(jnp.bfloat16)}
    narrow = load(directory, dtype="bfloat16")
    assert parameters(narrow)["backbone.blocks.mlp.up"].dtype == jnp.bfloat16
    pytorch = json.loads((directory / "expected.json").read_text())["bf16_compute"]
    for name, ids, expected in sequences(directory):
        values = compute(narrow, ids)[1]
        worst = np.abs(values[-1] - expected["last_logits"]).max()
        # PyTorch in bfloat16 is 0.1 to 0.2 away from itself in float32 (logits up to 10), we are up to 0.28.
        assert worst <= 2 * pytorch[name]["max_abs_logit_diff_vs_fp32"]
        if "logits" in expected:
            assert np.abs(values - expected["logits"]).mean() < 0.03


def test_parameters_go_straight_to_their_shards(fixtures):
    """On a mesh, every parameter equals the one on one device, and every device holds only its part of it."""
    directory = fixtures / "base" / "llama_bias_sharded"
    config = read_hf_config(directory)
    weights = open_weights(directory)
    whole = load_backbone(weights, config.transformer, "llama", language_model=True)
    mesh = make_mesh(data=1, fsdp=4, tensor=2)
    for rules in (ShardingRules(), ShardingRules(layers="fsdp", embed=None)):
        if rules.layers:
            mesh = make_mesh(data=2, fsdp=2, tensor=2)
        split = load_backbone(weights, config.transformer, "llama", language_model=True,
                              shardings=parameter_shardings(whole, mesh, rules))
        for name, value in whole.items():
            np.testing.assert_array_equal(value, split[name], err_msg=name)
        query = split["backbone.blocks.attention.query"]
        assert {shard.data.shape for shard in query.addressable_shards} == \
            ({(2, 8, 2, 12)} if rules.layers is None else {(1, 32, 2, 12)})
