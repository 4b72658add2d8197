"""Weights: every tensor lands where it belongs, what does not fit is one error, and memory stays near the model's own size."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from jaxprm.errors import InputError
from jaxprm.hub import hf_weights
from jaxprm.hub.hf_names import tensor_table
from jaxprm.hub.hf_weights import PREFIXES, find_prefix, load_backbone, open_weights, stored_vocabulary
from jaxprm.models import ShardingRules, TransformerConfig, make_mesh, parameter_shardings

CONFIG = TransformerConfig(24, width=16, layers=3, heads=4, kv_heads=2, head_dim=4, mlp_dim=8, attention_bias=True,
                           tie_embeddings=False)


def tensors(config=CONFIG, model_type="qwen2", prefix="model.", dtype=np.float32) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.normal(size=entry.layout.file_shape).astype(dtype)
            for name, entry in tensor_table(config, model_type, language_model=True, prefix=prefix).items()}


def saved(folder: Path, values: dict, shards: int = 1) -> Path:
    if shards == 1:
        safetensors.numpy.save_file(values, folder / "model.safetensors")
        return folder
    places = {name: f"model-{index % shards}.safetensors" for index, name in enumerate(values)}
    for file in set(places.values()):
        safetensors.numpy.save_file({name: values[name] for name in values if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def load(folder: Path, **options):
    return load_backbone(open_weights(folder), CONFIG, "qwen2", **{"language_model": True, **options})


@pytest.mark.parametrize("host_stack", [0, 1 << 20])
@pytest.mark.parametrize("shards", [1, 3])
def test_every_layer_in_its_place(tmp_path, monkeypatch, shards, host_stack):
    """By the host and on the device, layer by layer."""
    monkeypatch.setattr(hf_weights, "_HOST_STACK", host_stack)
    values = tensors()
    loaded = load(saved(tmp_path, values, shards))
    for layer in range(3):
        name = f"model.layers.{layer}."
        np.testing.assert_array_equal(loaded["backbone.blocks.mlp.up"][layer], values[name + "mlp.up_proj.weight"].T)
        np.testing.assert_array_equal(loaded["backbone.blocks.attention.key"][layer].reshape(16, 8),
                                      values[name + "self_attn.k_proj.weight"].T)
        np.testing.assert_array_equal(loaded["backbone.blocks.attention.key_bias"][layer].ravel(),
                                      values[name + "self_attn.k_proj.bias"])
        np.testing.assert_array_equal(loaded["backbone.blocks.mlp_norm.scale"][layer],
                                      values[name + "post_attention_layernorm.weight"])
    np.testing.assert_array_equal(loaded["unembedding"], values["lm_head.weight"].T)
    np.testing.assert_array_equal(loaded["backbone.embedding"], values["model.embed_tokens.weight"])
    assert "unembedding" not in load(tmp_path, language_model=False)  # a reward model leaves it unread


@pytest.mark.parametrize("host_stack", [0, 1 << 20])
@pytest.mark.parametrize("rules", [ShardingRules(), ShardingRules(layers="data", batch=None, embed=None, heads=None,
                                                                  kv_heads=None, mlp=("tensor", "fsdp"))])
def test_shards_are_read_in_parts(tmp_path, monkeypatch, rules, host_stack):
    """Each device gets its part of each parameter, read from the slices of the file that hold it."""
    config = dataclasses.replace(CONFIG, layers=2)
    values = tensors(config)
    weights = open_weights(saved(tmp_path, values))
    whole = load_backbone(weights, config, "qwen2", language_model=True)
    monkeypatch.setattr(hf_weights, "_HOST_STACK", host_stack)
    read = []
    monkeypatch.setattr(type(weights), "read", lambda self, name, index=None, read_=type(weights).read: (
        read.append((name, read_(self, name, index).size)), read_(self, name, index))[1])
    mesh = make_mesh(2, 2, 2)
    split = load_backbone(weights, config, "qwen2", language_model=True, shardings=parameter_shardings(whole, mesh, rules))
    for name, value in whole.items():
        assert split[name].sharding.mesh.size == 8
        np.testing.assert_array_equal(value, split[name], err_msg=name)
    sizes = {size for name, size in read if name == "model.layers.1.mlp.up_proj.weight"}
    assert sizes == {8 * 16 // 4}  # split in four by both rules
    assert len([name for name, _ in read if name == "model.layers.1.mlp.up_proj.weight"]) == 4  # copies are not read again


def test_types(tmp_path):
    for stored, wanted, expected in ((ml_dtypes.bfloat16, None, "bfloat16"), (ml_dtypes.bfloat16, "float32", "float32"),
                                     (np.float16, None, "float32"), (np.float32, "bfloat16", "bfloat16")):
        values = tensors(dtype=stored)
        loaded = load(saved(tmp_path, values), dtype=wanted)
        assert {value.dtype.name for value in loaded.values()} == {expected}
        np.testing.assert_array_equal(loaded["unembedding"], values["lm_head.weight"].T.astype(jnp.dtype(expected)))
    values["model.layers.1.mlp.up_proj.weight"] = values["model.layers.1.mlp.up_proj.weight"].astype(ml_dtypes.bfloat16)
    loaded = load(saved(tmp_path, values))  # layers of two types: the one that holds both
    assert loaded["backbone.blocks.mlp.up"].dtype == jnp.float32


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(tmp_path, prefix):
    values = tensors(prefix=prefix)
    weights = open_weights(saved(tmp_path, values))
    assert find_prefix(weights) == prefix and stored_vocabulary(weights) == 24
    loaded = load(tmp_path)
    np.testing.assert_array_equal(loaded["backbone.final_norm.scale"], values[prefix + "norm.weight"])
    assert loaded["unembedding"].shape == (16, 24)


def test_what_is_left_unread(tmp_path):
    values = tensors() | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(2, np.float32),
                          "score.weight": np.zeros((2, 16), np.float32)}
    saved(tmp_path, values)
    assert set(load(tmp_path, claimed=["score.*"])) == set(load(saved(tmp_path, tensors())))
    saved(tmp_path, values)
    with pytest.raises(InputError, match="tensors do not fit the config: unknown: score.weight"):
        load(tmp_path)


def test_a_second_output_matrix(tmp_path):
    """Tied, and stored all the same: fine if it says the same as the embeddings."""
    values = tensors()
    tied = dataclasses.replace(CONFIG, tie_embeddings=True)
    weights = open_weights(saved(tmp_path, values))
    with pytest.raises(InputError) as caught:
        load_backbone(weights, tied, "qwen2", language_model=True)
    assert str(caught.value) == (f"{tmp_path / 'model.safetensors'}: field 'lm_head.weight': differs from "
                                 "model.embed_tokens.weight, although config.json says tie_word_embeddings; "
                                 "say in config.json which one it is")
    assert "backbone.embedding" in load_backbone(weights, tied, "qwen2")
    weights = open_weights(saved(tmp_path, values | {"lm_head.weight": values["model.embed_tokens.weight"]}))
    assert "unembedding" not in load_backbone(weights, tied, "qwen2", language_model=True)


def test_tensors_that_do_not_fit_are_listed_in_one_line(tmp_path):
    values = tensors()
    del values["model.norm.weight"], values["model.layers.2.mlp.up_proj.weight"]
    values |= {"extra.weight": np.zeros(1, np.float32), "model.layers.3.mlp.up_proj.weight": np.zeros((8, 16), np.float32),
               "lm_head.weight": np.zeros((23, 16), np.float32)}
    with pytest.raises(InputError) as caught:
        load(saved(tmp_path, values))
    assert str(caught.value) == (
        f"{tmp_path / 'model.safetensors'}: tensors do not fit the config: missing: model.norm.weight, "
        "model.layers.2.mlp.up_proj.weight; unknown: extra.weight, model.layers.3.mlp.up_proj.weight; "
        "of another shape: lm_head.weight is [23, 16], expected [24, 16]")
    values = {name.replace("layers", "h"): value for name, value in tensors().items()}
    with pytest.raises(InputError, match="and 16 more; unknown: .* and 16 more$"):
        load(saved(tmp_path, values))
    with pytest.raises(InputError, match="holds no model.embed_tokens.weight or .*; this is not a decoder that jaxprm knows"):
        load(saved(tmp_path, {"wte.weight": np.zeros(1, np.float32)}))


def test_damaged_files(tmp_path):
    with pytest.raises(InputError, match="holds no weights: neither model.safetensors, pytorch_model.bin, nor an index"):
        open_weights(tmp_path)
    saved(tmp_path, tensors(), shards=3)
    index = tmp_path / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]

    shard = tmp_path / "model-1.safetensors"
    data = shard.read_bytes()
    for cut in (len(data) - 1, len(data) // 2, 20, 4, 0):
        shard.write_bytes(data[:cut])
        with pytest.raises(InputError, match=r"model-1.safetensors: cannot be read .*; it is cut short or damaged; download"):
            open_weights(tmp_path)
    shard.unlink()
    with pytest.raises(InputError, match="index.json: names files that are not there: model-1.safetensors; download the"):
        open_weights(tmp_path)
    shard.write_bytes(data)
    index.write_text(json.dumps({"weight_map": places | {"ghost.weight": "model-1.safetensors"}}))
    with pytest.raises(InputError, match="index.json: names tensors that are in no shard: ghost.weight"):
        open_weights(tmp_path)
    for text in ("{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": "../x"}}', '{"weight_map": {"a": 3}}', '{"a": 1}'):
        index.write_text(text)
        with pytest.raises(InputError, match="index.json: is not an index of shards"):
            open_weights(tmp_path)
    (tmp_path / "model-2.safetensors").write_bytes(data)
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    with pytest.raises(InputError, match="model-2.safetensors: field '.*': is also in model-1.safetensors"):
        open_weights(tmp_path)


def test_memory_of_a_large_checkpoint(tmp_path, repository):
    """2.1 GB in bfloat16: beside the model itself, the host never holds more than a few tensors."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    script = Path(__file__).with_name("load_large.py")
    fast = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}  # it computes for longer than it compiles
    done = subprocess.run([sys.executable, script, tmp_path / "model.safetensors"], cwd=repository, capture_output=True,
                          text=True, check=False, env=fast)
    (tmp_path / "model.safetensors").unlink(missing_ok=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    print(result)
    assert result["file"] * 2**20 > 2e9 and result["largest"] == 128  # MiB: the embedding table
    for way, devices in (("whole", 1), ("split", 2)):
        assert result[way]["devices"] == devices and result[way]["model"] == pytest.approx(result["file"], rel=1e-3)
        # Measured: 0.8 to 1.3 times the largest tensor whole, 2.2 to 3.2 times split; a copy of the model would be 16 times.
        assert result[way]["peak"] < result[way]["model"] + 4 * result["largest"], way
