"""LoRA adapters: merged as PEFT computes them, whole and in slices; what does not fit is one error."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from jaxprm.errors import InputError
from jaxprm.hub.hf_config import read_hf_config
from jaxprm.hub.hf_weights import load_backbone, open_weights
from jaxprm.hub.lora import is_adapter, merged, read_adapter_config
from jaxprm.hub.weight_files import TensorInfo
from jaxprm.models import LanguageModel, forward, logits, with_parameters

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none", "fan_in_fan_out": False, "modules_to_save": None}
PREFIX = "base_model.model.model.layers.0.q_proj."


@pytest.fixture
def base(tmp_path) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    tensors = {"model.layers.0.q_proj.weight": random.normal(size=(6, 4)).astype(np.float32),
               "model.layers.0.o_proj.weight": random.normal(size=(4, 6)).astype(ml_dtypes.bfloat16),
               "score.weight": random.normal(size=(2, 4)).astype(np.float32)}
    (tmp_path / "base").mkdir()
    safetensors.numpy.save_file(tensors, tmp_path / "base" / "model.safetensors")
    return tensors


def adapter(tmp_path: Path, tensors=None, **config) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    random = np.random.default_rng(1)
    if tensors is None:
        tensors = {PREFIX + "lora_A.weight": random.normal(size=(2, 4)).astype(np.float32),
                   PREFIX + "lora_B.weight": random.normal(size=(6, 2)).astype(np.float32)}
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(("config", "scale"), [
    ({}, 3.0), ({"use_rslora": True}, 6 / 2 ** 0.5), ({"alpha_pattern": {"q_proj": 1}}, 0.5),
    ({"r": 64, "rank_pattern": {"layers.0.q_proj": 2}}, 3.0)])
def test_sum(base, tmp_path, config, scale):
    folder = adapter(tmp_path, **config)
    tensors = safetensors.numpy.load_file(folder / "adapter_model.safetensors")
    weights = merged(open_weights(tmp_path / "base"), folder)
    name = "model.layers.0.q_proj.weight"
    expected = base[name].astype(np.float64) + scale * (tensors[PREFIX + "lora_B.weight"].astype(np.float64)
                                                        @ tensors[PREFIX + "lora_A.weight"])
    np.testing.assert_allclose(weights.read(name), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(weights.read(name, (slice(2, 5), slice(1, 3))), weights.read(name)[2:5, 1:3])
    np.testing.assert_array_equal(weights.read("score.weight"), base["score.weight"])
    assert weights.names() == {name: TensorInfo(value.shape, value.dtype) for name, value in base.items()}
    assert weights.source == folder / "adapter_model.safetensors" and is_adapter(folder) and not is_adapter(tmp_path)


def test_sums_of_bfloat16_are_not_rounded(base, tmp_path):
    """The file's type is that of the base; what is read has the adapter in full."""
    name = "base_model.model.model.layers.0.o_proj.lora_"
    tensors = {name + "A.weight": np.full((2, 6), 1e-4, np.float32), name + "B.weight": np.ones((4, 2), np.float32)}
    weights = merged(open_weights(tmp_path / "base"), adapter(tmp_path, tensors))
    name = "model.layers.0.o_proj.weight"
    np.testing.assert_allclose(weights.read(name) - base[name].astype(np.float32), 6e-4, rtol=1e-3)
    assert weights.names()[name].dtype == jnp.bfloat16


def test_modules_that_were_trained_whole(base, tmp_path):
    for name in ("score.weight", "score.modules_to_save.default.weight"):
        new = np.ones((2, 4), np.float32)
        weights = merged(open_weights(tmp_path / "base"),
                         adapter(tmp_path, {"base_model.model." + name: new}, modules_to_save=["score"]))
        np.testing.assert_array_equal(weights.read("score.weight"), new)
    weights = merged(open_weights(tmp_path / "base"),
                     adapter(tmp_path, {"base_model.model.head.bias": np.ones(2, np.float32)}, modules_to_save=["head"]))
    assert weights.names()["head.bias"].shape == (2,) and weights.read("head.bias", (slice(1, 2),)).tolist() == [1.0]


@pytest.mark.parametrize(("tensors", "config", "message"), [
    ({PREFIX + "lora_A.weight": (2, 4)}, {}, "lora_A.weight stands alone"),
    ({PREFIX + "lora_A.weight": (2, 5), PREFIX + "lora_B.weight": (6, 2)}, {}, "fit model.layers.0.q_proj.weight [6, 4]"),
    ({"base_model.model.x.lora_A.weight": (2, 4), "base_model.model.x.lora_B.weight": (6, 2)}, {}, "the model has no x.weight"),
    ({"base_model.model.score.weight": (2, 4)}, {}, "base_model.model.score.weight is not known"),
    ({PREFIX + "lora_magnitude_vector": (6,)}, {}, "lora_magnitude_vector is not known"),
    (None, {"r": 3}, "field 'r' = 3: does not fit model.layers.0.q_proj, whose rank is 2"),
    (None, {"lora_alpha": None}, "field 'lora_alpha' = None: does not fit"),
    (None, {"use_dora": True}, "field 'use_dora' = True: is not supported; merge the adapter with peft"),
    (None, {"bias": "all"}, "field 'bias' = 'all': is not supported"),
    (None, {"peft_type": "IA3"}, "field 'peft_type' = 'IA3': only LoRA adapters are known")])
def test_adapters_that_do_not_fit(base, tmp_path, tensors, config, message):
    made = tensors and {name: np.zeros(shape, np.float32) for name, shape in tensors.items()}
    with pytest.raises(InputError) as caught:
        merged(open_weights(tmp_path / "base"), adapter(tmp_path, made, **config))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_missing(base, tmp_path):
    folder = adapter(tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="holds neither adapter_model.safetensors nor adapter_model.bin"):
        merged(open_weights(tmp_path / "base"), folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match="adapter_config.json: cannot be read"):
        read_adapter_config(folder)


def test_math_psa(shared):
    """OpenR's adapter on its base gives PyTorch's logits at the step tags."""
    folder = shared / "fixtures" / "hf" / "prm" / "openr_math_psa"
    if not folder.is_dir():
        pytest.skip("no Hugging Face fixtures in ../shared")
    assert read_adapter_config(folder / "adapter")["base_model_name_or_path"] == "../base"
    config = read_hf_config(folder / "base")
    transformer = dataclasses.replace(config.transformer, context=256)
    weights = merged(open_weights(folder / "base"), folder / "adapter")
    model = with_parameters(jax.eval_shape(lambda: LanguageModel(transformer, rngs=nnx.Rngs(0))),
                            load_backbone(weights, transformer, "qwen2", language_model=True))
    expected = json.loads((folder / "expected.json").read_text())
    columns = expected["special"]["good_bad_ids"]

    @jax.jit
    def run(tokens, length):
        slots = jnp.arange(tokens.shape[0], dtype=jnp.int32)[None]
        return logits(model, forward(model.backbone, tokens[None], slots, (slots < length).astype(jnp.int32)))[0]

    longest = max(len(row["input_ids"]) for row in expected["rows"])
    for row in expected["rows"]:
        ids = np.asarray(row["input_ids"], np.int32)
        values = run(np.pad(ids, (0, longest - len(ids))), len(ids))
        np.testing.assert_allclose(values[np.asarray(row["positions"])][:, np.asarray(columns)], row["logits"], rtol=0,
                                   atol=1e-4, err_msg=row["id"])
