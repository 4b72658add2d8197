"""What is exported of models without a class in transformers: nothing of new heads, the policy of an implicit model."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from jaxprm.errors import InputError
from jaxprm.hub import save_model
from jaxprm.models import HeadConfig, LanguageModel, PolicyRewardModel, RewardModel
from jaxprm.pipelines.export import run
from jaxprm.progress import SilentProgress
from jaxprm.scoring.implicit import ImplicitModel
from jaxprm.steps import StepEncoder, StepFormat, train_sentencepiece
from jaxprm.testing import tiny_config
from jaxprm.testing.models import random_model

ENCODER = StepEncoder(StepFormat(separator="<step>"), train_sentencepiece(["so we have 3 - 4 + 5"], 290, symbols=("<step>",)))
CONFIG = tiny_config(vocab_size=ENCODER.tokenizer.vocab_size)


@pytest.mark.parametrize("head", [HeadConfig("quantile"), HeadConfig("two_head"), HeadConfig("lm_rows", rows=(3, 4)),
                                  HeadConfig("binary", direction="mean")], ids=lambda head: f"{head.kind}, {head.direction}")
def test_heads(tmp_path, head):
    save_model(tmp_path / "model", random_model(lambda: RewardModel(CONFIG, head, rngs=nnx.Rngs(0)), 1), ENCODER, {})
    with pytest.raises(InputError, match=f"field 'head.kind' = '{head.kind}, {head.direction}': transformers has no class"):
        run(tmp_path / "out", run=tmp_path / "model", progress=SilentProgress())
    assert not (tmp_path / "out").exists()


def test_an_implicit_model_gives_its_policy(tmp_path):
    policy, reference = (random_model(lambda: LanguageModel(CONFIG, rngs=nnx.Rngs(0)), seed) for seed in (1, 2))
    save_model(tmp_path / "model", ImplicitModel(policy, reference, 0.1), ENCODER, {})
    run(tmp_path / "out", run=tmp_path / "model", progress=SilentProgress())
    assert json.loads((tmp_path / "out/config.json").read_text())["architectures"][0].endswith("ForCausalLM")
    written = safetensors.numpy.load_file(tmp_path / "out/model.safetensors")
    np.testing.assert_array_equal(written["model.embed_tokens.weight"], policy.backbone.embedding[...])


@pytest.mark.parametrize("tied", [True, False])
def test_a_policy_that_is_its_own_reward_model_is_exported_as_a_reward_model(tmp_path, tied):
    config = dataclasses.replace(CONFIG, tie_embeddings=tied)
    model = random_model(lambda: PolicyRewardModel(config, HeadConfig("binary"), rngs=nnx.Rngs(0)), 1)
    save_model(tmp_path / "model", model, ENCODER, {})
    run(tmp_path / "out", run=tmp_path / "model", progress=SilentProgress())
    written = safetensors.numpy.load_file(tmp_path / "out/model.safetensors")
    np.testing.assert_array_equal(written["score.weight"], model.head.kernel[...].T)
    assert "lm_head.weight" not in written
