"""Model directories: what is saved is what is loaded, and everything that does not fit is one line."""

import dataclasses
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from jaxprm.errors import InputError
from jaxprm.hub import find_model, load_language_model, load_reward_model, save_model
from jaxprm.hub.directory import read_architecture
from jaxprm.models import (HeadConfig, LanguageModel, PolicyRewardModel, RewardModel, RopeScaling, TransformerConfig,
                           parameters, with_parameters)
from jaxprm.records import Problem, Solution
from jaxprm.scoring.implicit import ImplicitModel
from jaxprm.scoring.scorer import StepScorer
from jaxprm.steps import StepEncoder, StepFormat, train_sentencepiece
from jaxprm.testing.models import random_model

TEXT = ["What is 3 + 4 ? It is 7 because 3 + 4 = 7 .", "Then 7 * 2 = 14 and so on .", "So the answer is 14 ."]
STEP_FORMAT = StepFormat(separator="<step>", readout="before", aggregation="prod", neutral="bad")


@pytest.fixture(scope="module")
def encoder():
    return StepEncoder(STEP_FORMAT, train_sentencepiece(TEXT, 300, symbols=("<step>",)))


def reward_model(encoder, seed=0, kind="binary", **fields):
    config = TransformerConfig(encoder.tokenizer.vocab_size, width=16, layers=2, heads=2, kv_heads=1, head_dim=8,
                               mlp_dim=24, context=64, qk_norm=True, **fields)
    model = RewardModel(config, HeadConfig(kind), rngs=nnx.Rngs(seed))
    key = jax.random.key(seed)
    return with_parameters(model, {name: jax.random.normal(jax.random.fold_in(key, index), value.shape)
                                   for index, (name, value) in enumerate(parameters(model).items())})


@pytest.fixture
def saved(encoder, tmp_path):
    return save_model(tmp_path / "run" / "model", reward_model(encoder), encoder, {"seed": 3, "threshold": 0.25})


def test_round_trip(saved, encoder):
    model, loaded = reward_model(encoder), load_reward_model(saved)
    assert loaded.info == {"seed": 3, "threshold": 0.25}
    assert loaded.encoder.format == STEP_FORMAT and loaded.model.config == model.config
    assert loaded.model.head.config == HeadConfig("binary")
    before, after = parameters(model), parameters(loaded.model)
    assert list(before) == list(after)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    solution = [Solution(Problem("p", "What is 3 + 4 ?"), ("It is 7 .", "So 14 ."))]
    np.testing.assert_array_equal(StepScorer(model, encoder).score(solution)[0],
                                  StepScorer(loaded.model, loaded.encoder).score(solution)[0])
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors", "tokenizer.model"]
    assert load_reward_model(saved.parent).info["seed"] == 3 and find_model(saved.parent) == saved


def test_how_attention_is_computed_is_not_saved(encoder, tmp_path):
    model = reward_model(encoder, attention="splash")
    saved = save_model(tmp_path / "model", model, encoder, {})
    assert "splash" not in (saved / "config.json").read_text()
    assert load_reward_model(saved).model.config == dataclasses.replace(model.config, attention="blocked")
    assert read_architecture(saved) == load_reward_model(saved).model.config


@pytest.mark.parametrize("tied", [True, False])
def test_language_model(encoder, tmp_path, tied):
    config = TransformerConfig(encoder.tokenizer.vocab_size + 5, width=16, layers=1, heads=2, kv_heads=2, head_dim=8,
                               mlp_dim=24, context=32, tie_embeddings=tied)
    model = LanguageModel(config, rngs=nnx.Rngs(1))
    loaded = load_language_model(save_model(tmp_path / "policy", model, encoder, {}))
    assert loaded.model.config == config and ("unembedding" in parameters(loaded.model)) is not tied
    np.testing.assert_array_equal(model.output_matrix(), loaded.model.output_matrix())
    with pytest.raises(InputError, match="field 'kind' = 'language_model': is not a reward_model"):
        load_reward_model(tmp_path / "policy")


@pytest.mark.parametrize("head", [
    HeadConfig("quantile", levels=(0.25, 0.5)), HeadConfig("two_head", beta=0.5), HeadConfig("ternary"),
    HeadConfig("buffer"), HeadConfig("lm_rows", rows=(4, 6)), HeadConfig("ensemble", hidden=3, members=2, direction="gate"),
], ids=lambda head: head.kind)
def test_every_head(encoder, tmp_path, head):
    config = TransformerConfig(encoder.tokenizer.vocab_size, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_dim=24)
    model = random_model(lambda: RewardModel(config, head, rngs=nnx.Rngs(0)), 2)
    loaded = load_reward_model(save_model(tmp_path / "model", model, encoder, {})).model
    assert loaded.head.config == head
    solution = [Solution(Problem("p", "What is 3 + 4 ?"), ("It is 7 .", "So 14 ."))]
    np.testing.assert_array_equal(StepScorer(model, encoder).score(solution)[0], StepScorer(loaded, encoder).score(solution)[0])
    if head.kind == "lm_rows":
        edit(tmp_path / "model", head={"rows": [4, 4000]})
        with pytest.raises(InputError, match="config.json: field 'head.rows' = .*: must be two of the"):
            load_reward_model(tmp_path / "model")


def test_a_policy_that_is_its_own_reward_model(encoder, tmp_path):
    config = TransformerConfig(encoder.tokenizer.vocab_size, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_dim=24,
                               tie_embeddings=False)
    model = random_model(lambda: PolicyRewardModel(config, HeadConfig("scalar"), rngs=nnx.Rngs(0)), 2)
    saved = save_model(tmp_path / "model", model, encoder, {"seed": 1})
    loaded = load_reward_model(saved).model
    assert type(loaded) is PolicyRewardModel and parameters(loaded).keys() == parameters(model).keys()
    policy = load_language_model(saved)
    assert type(policy.model) is LanguageModel and policy.info == {"seed": 1}
    np.testing.assert_array_equal(policy.model.output_matrix(), model.output_matrix())


def test_an_implicit_model(encoder, tmp_path):
    config = TransformerConfig(encoder.tokenizer.vocab_size, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_dim=24)
    models = [random_model(lambda: LanguageModel(config, rngs=nnx.Rngs(0)), seed, 0.1) for seed in range(3)]
    model = ImplicitModel(*models[:2], coefficient=0.5)
    saved = save_model(tmp_path / "model", model, encoder, {})
    loaded = load_reward_model(saved).model
    assert isinstance(loaded, ImplicitModel) and loaded.coefficient == 0.5
    for part in ("policy", "reference"):
        for name, value in parameters(getattr(model, part)).items():
            np.testing.assert_array_equal(value, parameters(getattr(loaded, part))[name])
    edit(saved, coefficient=0)
    with pytest.raises(InputError, match="field 'coefficient' = 0: must be a positive number"):
        load_reward_model(saved)
    other = TransformerConfig(encoder.tokenizer.vocab_size, width=16, layers=1, heads=2, kv_heads=2, head_dim=8, mlp_dim=24)
    mixed = ImplicitModel(models[0], random_model(lambda: LanguageModel(other, rngs=nnx.Rngs(0)), 0), 0.5)
    with pytest.raises(InputError, match="field 'reference' = .*: has another architecture than the policy"):
        save_model(tmp_path / "mixed", mixed, encoder, {})


def test_saving_again_replaces_the_whole_directory(saved, encoder):
    (saved / "tokenizer.json").write_text("left behind by somebody")
    save_model(saved, reward_model(encoder, seed=1, kind="scalar"), encoder, {"seed": 4})
    loaded = load_reward_model(saved)
    assert loaded.info == {"seed": 4} and loaded.model.head.config.kind == "scalar"
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors", "tokenizer.model"]
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_a_write_that_fails_leaves_nothing(encoder, tmp_path, saved, monkeypatch):
    before = (saved / "config.json").read_bytes()
    with pytest.raises(TypeError):
        save_model(saved, reward_model(encoder), encoder, {"model": object()})
    with pytest.raises(TypeError):
        save_model(tmp_path / "new", reward_model(encoder), encoder, {"model": object()})
    assert (saved / "config.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_other_files_are_not_overwritten(encoder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not a model directory"):
        save_model(tmp_path, reward_model(encoder), encoder, {})
    with pytest.raises(InputError, match="exists and is not a model directory"):
        save_model(tmp_path / "notes.txt", reward_model(encoder), encoder, {})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_every_field_of_an_architecture_is_kept(encoder, tmp_path):
    fields = dict(activation="gelu_tanh", mlp_bias=True, norm_plus_one=True, post_norms=True, embed_scale=True, query_scale=0.5,
                  attention_softcap=20.0, logit_softcap=9.0, windows=(4, 0), rope_scaling=RopeScaling("linear", 2.0),
                  local_rope_theta=500.0)
    saved = save_model(tmp_path / "model", reward_model(encoder, **fields), encoder, {})
    config = load_reward_model(saved).model.config
    assert {name: getattr(config, name) for name in fields} == fields
    edit(saved, transformer={"rope_scaling": {"kind": "linear"}})
    with pytest.raises(InputError, match="field 'transformer.rope_scaling.factor': is missing"):
        load_reward_model(saved)
    edit(saved, transformer={"rope_scaling": None, "windows": [4, "x"]})
    with pytest.raises(InputError, match=r"field 'transformer.windows\[1\]' = 'x': must be a int"):
        load_reward_model(saved)


def test_models_saved_before_a_field_was_added(saved):
    later = ("activation", "mlp_bias", "norm_plus_one", "post_norms", "embed_scale", "query_scale", "attention_softcap",
             "logit_softcap", "windows", "rope_scaling", "local_rope_theta")
    before = load_reward_model(saved).model.config
    edit(saved, transformer=dict.fromkeys(later, ...), head=dict.fromkeys(
        ("hidden", "members", "levels", "beta", "rows", "direction"), ...))
    assert load_reward_model(saved).model.config == before


def edit(saved, **sections):
    """Sets (or with None removes) values of config.json: ``transformer={"width": 8}``, ``format="x"``."""
    path = saved / "config.json"
    config = json.loads(path.read_text())
    for name, value in sections.items():
        if isinstance(value, dict):
            config[name] = {key: item for key, item in (config[name] | value).items() if item is not ...}
        else:
            config[name] = value
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(("change", "message"), [
    ({"format": "jaxprm-model-9"}, "config.json: field 'format' = 'jaxprm-model-9': is not 'jaxprm-model-1'"),
    ({"kind": "diffusion"}, "field 'kind' = 'diffusion': is not a reward_model"),
    ({"transformer": {"width": ...}}, "field 'transformer.width': is missing"),
    ({"transformer": {"experts": 8}}, "field 'transformer.experts': is not known"),
    ({"transformer": {"width": "16"}}, "field 'transformer.width' = '16': must be a int"),
    ({"transformer": {"layers": True}}, "field 'transformer.layers' = True: must be a int"),
    ({"transformer": {"kv_heads": 3}}, "field 'transformer.kv_heads' = 3: must divide heads = 2"),
    ({"head": None}, "field 'head': is missing"),
    ({"head": {"kind": "vote"}}, "field 'head.kind' = 'vote': must be one of scalar, binary, ranking, value"),
    ({"step_format": {"aggregation": "median"}}, "field 'step_format.aggregation' = 'median': must be one of min"),
    ({"step_format": {"separator": "<gap>"}}, "field 'step_format': the tokenizer does not fit: field 'separator'"),
    ({"step_format": {"end_token": "<eot>"}}, "field 'end_token' = '<eot>': is not in the tokenizer's vocabulary"),
    ({"tokenizer": {"sha256": "0" * 64}}, "field 'tokenizer.sha256' = '0000"),
    ({"tokenizer": "x"}, "field 'tokenizer.sha256' = None"),
    ({"transformer": {"vocab_size": 5}}, "field 'transformer.vocab_size' = 5: the tokenizer has 300 entries"),
    ({"info": [1]}, "field 'info' = [1]: must be a JSON object"),
])
def test_configs_that_do_not_fit(saved, change, message, without_type_checks):
    edit(saved, **change)
    with pytest.raises(InputError) as caught:
        load_reward_model(saved)
    assert message in str(caught.value) and str(caught.value).startswith(str(saved)) and "\n" not in str(caught.value)


def test_tensors_that_do_not_fit_are_listed_in_one_line(saved):
    path = saved / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    del tensors["head.bias"]
    tensors |= {"head.scale": np.zeros(1, np.float32), "head.kernel": np.zeros((8, 2), np.float32)}
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(InputError) as caught:
        load_reward_model(saved)
    assert str(caught.value) == (f"{path}: parameters do not fit the architecture: missing head.bias, "
                                 "unknown head.scale, head.kernel has shape (8, 2), expected (16, 2)")


@pytest.mark.parametrize(("value", "message"), [(np.zeros(2), "has type float64, expected float32"),
                                                (np.full(2, np.nan, np.float32), "holds numbers that are not finite")])
def test_tensors_of_another_kind(saved, value, message):
    path = saved / "model.safetensors"
    safetensors.numpy.save_file(safetensors.numpy.load_file(path) | {"head.bias": value}, path)
    with pytest.raises(InputError, match=f"field 'head.bias': {message}"):
        load_reward_model(saved)


def test_damaged_files(saved, tmp_path):
    weights = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(weights[:100])
    with pytest.raises(InputError, match=r"model.safetensors: cannot be read"):
        load_reward_model(saved)
    os.remove(saved / "model.safetensors")
    with pytest.raises(InputError, match=r"model.safetensors: cannot be read"):
        load_reward_model(saved)
    os.remove(saved / "tokenizer.model")
    with pytest.raises(InputError, match="no tokenizer.json or tokenizer.model here"):
        load_reward_model(saved)
    (saved / "config.json").write_text("{")
    with pytest.raises(InputError, match="config.json: cannot be read"):
        load_reward_model(saved)
    shutil.rmtree(saved)
    with pytest.raises(InputError, match="holds no config.json"):
        load_reward_model(saved.parent)
    (saved.parent / "status.json").write_text("{}")
    with pytest.raises(InputError, match="is a run without a model; finish the run"):
        load_reward_model(saved.parent)
    with pytest.raises(InputError, match="no such directory"):
        load_reward_model(tmp_path / "absent")


def test_another_tokenizer_is_refused(saved):
    train_sentencepiece(TEXT[:2], 290, symbols=("<step>",)).save(saved)
    with pytest.raises(InputError, match="put that one back"):
        load_reward_model(saved)


def test_parameters_are_float32_on_one_device(saved):
    for value in parameters(load_reward_model(saved).model).values():
        assert value.dtype == jnp.float32 and len(value.sharding.device_set) == 1
