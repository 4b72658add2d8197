"""Export: what is written is what was read, byte for byte, and what does not fit is one line."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from flax import nnx

from jaxprm.errors import InputError
from jaxprm.hub.export import export_directory
from jaxprm.hub.hf_config import read_hf_config
from jaxprm.hub.hf_config_write import carried_fields, find_model_type
from jaxprm.hub.hf_weights import load_backbone, open_weights
from jaxprm.models import HeadConfig, LanguageModel, RewardModel, TransformerConfig, parameters

BASE = ("qwen2_untied", "qwen2_tied", "qwen2_swa", "qwen2_yarn", "qwen2_bf16", "qwen3", "llama3", "llama_bias_sharded",
        "mistral", "gemma2", "gemma3_text", "llama3_v4", "gemma3_text_v4")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
SMALL = TransformerConfig(40, width=16, layers=2, heads=4, kv_heads=2, head_dim=6, mlp_dim=24, context=64)


def raw_bytes(directory: Path) -> dict:
    """Name -> (shape, type, bytes) of every tensor."""
    weights = open_weights(directory)
    return {name: (info.shape, info.dtype, weights.read(name).tobytes()) for name, info in weights.names().items()}


def drawn(config, head=None, dtype=np.float32) -> dict[str, np.ndarray]:
    """Random parameters of a reward model, or of a language model without a head."""
    make = lambda: RewardModel(config, head, rngs=nnx.Rngs(0)) if head else LanguageModel(config, rngs=nnx.Rngs(0))  # noqa: E731
    random = np.random.default_rng(0)
    return {name: random.normal(size=value.shape).astype(dtype)
            for name, value in parameters(jax.eval_shape(make)).items()}


@pytest.fixture(scope="module")
def base(shared) -> Path:
    folder = shared / "fixtures" / "hf" / "base"
    if not folder.is_dir():
        pytest.skip("no Hugging Face fixtures in ../shared")
    return folder


@pytest.mark.parametrize("name", BASE)
def test_export_of_import_is_exact(base, name, tmp_path):
    source = base / name
    config = read_hf_config(source)
    loaded = load_backbone(open_weights(source), config.transformer, config.model_type, language_model=True)
    files = {file: (source / file).read_bytes() for file in TOKENIZER}
    out = export_directory(tmp_path / "out", config.transformer, config.model_type, loaded, tokenizer_files=files,
                           extra=carried_fields(config.raw), jaxprm_section={"family": "none"}, shard_bytes=100_000)
    assert raw_bytes(out) == raw_bytes(source)
    again = read_hf_config(out)
    assert again.transformer == config.transformer and again.architecture == config.architecture
    assert again.dtype == config.dtype and again.raw["jaxprm"] == {"family": "none"}
    for field in ("bos_token_id", "eos_token_id", "pad_token_id", "vocab_size", "hidden_size", "rms_norm_eps"):
        assert again.raw.get(field) == config.raw.get(field), field
    assert {file: (out / file).read_bytes() for file in TOKENIZER} == files
    for key in ("rope_theta", "rope_scaling", "rope_parameters", "dtype", "torch_dtype"):
        assert key in again.raw
    # And import of the export is what was exported.
    reloaded = load_backbone(open_weights(out), again.transformer, again.model_type, language_model=True)
    assert list(reloaded) == list(loaded)
    for parameter, value in loaded.items():
        assert value.dtype == reloaded[parameter].dtype
        np.testing.assert_array_equal(value, reloaded[parameter], err_msg=parameter)


def test_shards_index_and_metadata(tmp_path):
    config = dataclasses.replace(SMALL, tie_embeddings=False)
    values = drawn(config)
    one = export_directory(tmp_path / "one", config, "llama", values, tokenizer_files={})
    many = export_directory(tmp_path / "many", config, "llama", values, tokenizer_files={}, shard_bytes=4000)
    assert raw_bytes(one) == raw_bytes(many)
    total = sum(value.nbytes for value in values.values())
    index = json.loads((many / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": total} and set(index["weight_map"]) == set(raw_bytes(one))
    shards = sorted(path.name for path in many.glob("*.safetensors"))
    assert shards == [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)] and len(shards) > 3
    sizes = {}
    for file in [one / "model.safetensors", *many.glob("*.safetensors")]:
        with safetensors.safe_open(file, framework="np") as tensors:
            assert tensors.metadata() == {"format": "pt"}
            sizes[file.name] = sum(tensors.get_tensor(name).nbytes for name in tensors.keys())
    assert sizes.pop("model.safetensors") == total == sum(sizes.values())
    assert sorted(path.name for path in one.iterdir()) == ["config.json", "generation_config.json", "model.safetensors"]
    # The library's own writer makes the same bytes.
    tensors = {name: np.frombuffer(data, kind).reshape(shape) for name, (shape, kind, data) in raw_bytes(one).items()}
    assert (one / "model.safetensors").read_bytes() == safetensors.numpy.save(tensors, {"format": "pt"})


@pytest.mark.parametrize(("head", "architecture", "labels"), [
    (HeadConfig("scalar"), "LlamaForTokenClassification", 2), (HeadConfig("ranking"), "LlamaForTokenClassification", 2),
    (HeadConfig("value"), "LlamaForTokenClassification", 2), (HeadConfig("binary"), "LlamaForTokenClassification", 2),
    (HeadConfig("difference"), "LlamaForTokenClassification", 2), (HeadConfig("validity"), "LlamaForTokenClassification", 3),
    (HeadConfig("mlp", hidden=10), "LlamaForProcessRewardModel", 2),
    (HeadConfig("ensemble", hidden=5, members=3), "LlamaForEnsemblePRM", 0)])
def test_heads(tmp_path, head, architecture, labels):
    values = drawn(SMALL, head)
    out = export_directory(tmp_path / "out", SMALL, "llama", values, head, tokenizer_files={})
    config, weights = read_hf_config(out), open_weights(out)
    assert config.architecture == architecture and len(config.raw.get("id2label", {})) == labels
    assert not (out / "generation_config.json").exists()
    tensors = {name: weights.read(name) for name in weights.names() if name.startswith("score")}
    hidden = np.random.default_rng(0).normal(size=(7, 16)).astype(np.float32)
    ours = {name.removeprefix("head."): np.asarray(value) for name, value in values.items() if name.startswith("head.")}
    if head.kind == "ensemble":
        assert config.raw["num_ensemble"] == 3 and tensors["score.model.nn1.weight"].shape == (3, 16, 5)
        np.testing.assert_array_equal(tensors["score.model.nn_out.bias"], ours["last_bias"])
        assert len(tensors) == 6
    elif head.kind == "mlp":
        theirs = np.maximum(hidden @ tensors["score.0.weight"].T + tensors["score.0.bias"], 0)
        expected = np.maximum(hidden @ ours["hidden_kernel"] + ours["hidden_bias"], 0) @ ours["kernel"] + ours["bias"]
        np.testing.assert_allclose(theirs @ tensors["score.2.weight"].T + tensors["score.2.bias"], expected, rtol=1e-5)
    else:
        theirs = hidden @ tensors["score.weight"].T + tensors["score.bias"]
        expected = hidden @ ours["kernel"] + ours["bias"]
        if head.outputs == 1:  # the log-odds are the output
            assert not tensors["score.weight"][0].any() and tensors["score.bias"][0] == 0
            theirs, expected = theirs[:, 1] - theirs[:, 0], expected[:, 0]
        np.testing.assert_allclose(theirs, expected, rtol=1e-5, atol=1e-6)
    backbone = load_backbone(weights, config.transformer, "llama", claimed=["score.*"])
    for name, value in backbone.items():
        np.testing.assert_array_equal(value, values[name], err_msg=name)


def test_types(tmp_path):
    """Weights keep their types, or all get one; config.json names the backbone's."""
    values = drawn(SMALL, HeadConfig("binary"), jnp.bfloat16)
    values["head.kernel"], values["head.bias"] = (values[name].astype(jnp.float32) for name in ("head.kernel", "head.bias"))
    out = export_directory(tmp_path / "a", SMALL, "llama", values, HeadConfig("binary"), tokenizer_files={})
    kinds = {name: info.dtype.name for name, info in open_weights(out).names().items()}
    assert kinds.pop("score.weight") == kinds.pop("score.bias") == "float32" and set(kinds.values()) == {"bfloat16"}
    assert read_hf_config(out).dtype == "bfloat16"
    out = export_directory(tmp_path / "b", SMALL, "llama", values, HeadConfig("binary"), tokenizer_files={}, dtype="float16")
    assert {info.dtype.name for info in open_weights(out).names().values()} == {"float16"}
    assert read_hf_config(out).dtype == "float16"
    half = load_backbone(open_weights(out), SMALL, "llama", claimed=["score.*"])
    assert {value.dtype.name for value in half.values()} == {"float32"}  # float16 is never computed with
    with pytest.raises(InputError, match="field 'dtype' = 'int8': must be one of float32"):
        export_directory(tmp_path / "c", SMALL, "llama", values, HeadConfig("binary"), tokenizer_files={}, dtype="int8")


def test_tokenizer_files_and_template(tmp_path):
    values = drawn(SMALL)
    template = "{% for message in messages %}{{ message.content }}é{% endfor %}"
    out = export_directory(tmp_path / "out", SMALL, "llama", values, chat_template=template, tokenizer_files={
        "tokenizer.json": b"{}", "tokenizer_config.json": '{"eos_token": "</s>"}'}, extra={"eos_token_id": [2, 3]})
    assert (out / "chat_template.jinja").read_text(encoding="utf-8") == template
    assert json.loads((out / "tokenizer_config.json").read_text()) == {"eos_token": "</s>", "chat_template": template}
    assert json.loads((out / "generation_config.json").read_text()) == {"_from_model_config": True, "eos_token_id": [2, 3]}
    for name in ("config.json", "../x", "model.safetensors"):
        with pytest.raises(InputError, match="is no name for a file of a tokenizer"):
            export_directory(tmp_path / "bad", SMALL, "llama", values, tokenizer_files={name: b""})
    assert not (tmp_path / "bad").exists()


def test_all_or_nothing(tmp_path, monkeypatch):
    values = drawn(SMALL)
    out = export_directory(tmp_path / "out", SMALL, "llama", values, tokenizer_files={})
    before = raw_bytes(out)

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr("jaxprm.hub.export.write_safetensors", fails)
    for target in ("out", "new"):
        with pytest.raises(OSError, match="disk full"):
            export_directory(tmp_path / target, SMALL, "llama", values, tokenizer_files={})
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and raw_bytes(out) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="exists and is not a model directory"):
        export_directory(tmp_path / "mine", SMALL, "llama", values, tokenizer_files={})


def test_parameters_that_do_not_fit_are_listed(tmp_path):
    values = drawn(SMALL, HeadConfig("binary"))
    del values["backbone.blocks.mlp.up"]
    values |= {"head.scale": np.zeros(1), "head.bias": np.zeros(3)}
    with pytest.raises(InputError) as caught:
        export_directory(tmp_path / "out", SMALL, "llama", values, HeadConfig("binary"), tokenizer_files={})
    assert str(caught.value) == ("parameters do not fit llama: missing backbone.blocks.mlp.up, unknown head.scale, "
                                 "head.bias has shape (3,), expected (2,)")


@pytest.mark.parametrize(("changes", "model_type", "message"), [
    ({"qk_norm": True}, "llama", "field 'qk_norm' = True: llama has no such tensors"),
    ({"attention_bias": True}, "llama", "field 'output_bias' = False: cannot be expressed by model_type 'llama'"),
    ({"windows": (8, 0)}, "mistral", "field 'windows' = (8, 0): cannot be expressed by model_type 'mistral'"),
    ({"windows": (8, 4)}, "qwen2", "field 'windows' = (8, 4): must be one size for all layers that have one"),
    ({}, "gemma2", "field 'post_norms' = False: does not fit gemma2"),
    ({"logit_softcap": 30.0}, "llama", "field 'logit_softcap' = 30.0: cannot be expressed by model_type 'llama'"),
    ({"width": 18}, "llama", "field 'width' = 18: must be a multiple of heads = 4"),
    ({}, "mixtral", "field 'model_type' = 'mixtral': must be one of qwen2")])
def test_decoders_that_an_architecture_cannot_express(tmp_path, changes, model_type, message):
    config = dataclasses.replace(SMALL, **changes)
    values = drawn(config)
    with pytest.raises(InputError) as caught:
        export_directory(tmp_path / "out", config, model_type, values, tokenizer_files={})
    assert message in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_gemma_3_has_no_class_with_a_step_head(tmp_path):
    config = dataclasses.replace(SMALL, activation="gelu_tanh", norm_plus_one=True, post_norms=True, embed_scale=True,
                                 qk_norm=True)
    head = HeadConfig("binary")
    with pytest.raises(InputError, match="no class for a Gemma 3 with a head"):
        export_directory(tmp_path / "out", config, "gemma3_text", drawn(config, head), head, tokenizer_files={})
    assert not (tmp_path / "out").exists()


def test_architecture_is_found():
    cases = {"llama": {}, "qwen2": {"attention_bias": True}, "qwen3": {"qk_norm": True},
             "mistral": {"windows": (8, 8)}}
    for name, changes in cases.items():
        assert find_model_type(dataclasses.replace(SMALL, **changes)) == name
    gemma = dict(activation="gelu_tanh", norm_plus_one=True, post_norms=True, embed_scale=True)
    assert find_model_type(dataclasses.replace(SMALL, **gemma, attention_softcap=50.0)) == "gemma2"
    assert find_model_type(dataclasses.replace(SMALL, **gemma, qk_norm=True)) == "gemma3_text"
    with pytest.raises(InputError, match="no architecture of transformers computes this decoder: llama: field 'qk_norm'"):
        find_model_type(dataclasses.replace(SMALL, qk_norm=True, mlp_bias=True))
