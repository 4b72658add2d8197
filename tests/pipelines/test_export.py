"""``jaxprm export``: what comes back without options is the model that went out, bit for bit."""

import json

import numpy as np
import pytest
from flax import nnx

from jaxprm.errors import InputError
from jaxprm.hub import load_reward_model, save_model
from jaxprm.hub.families import Settings
from jaxprm.hub.load import load_prm
from jaxprm.models import HeadConfig, RewardModel, TransformerConfig, parameters
from jaxprm.pipelines import export
from jaxprm.progress import SilentProgress
from jaxprm.scoring.implicit import ImplicitModel
from jaxprm.steps import StepEncoder, StepFormat, train_sentencepiece

PROBLEM, STEPS = "Tom has 3 boxes.\nHow many?", ["He has 3 * 4 = 12.", "So √144 = 12, too.", "The answer is 12."]

# fixture, folder of the model, family, settings, class that is written
CASES = [
    ("qwen_math_prm", ".", None, Settings(), "Qwen2ForProcessRewardModel"),
    ("math_shepherd", ".", "math-shepherd", Settings("prmbench"), "MistralForTokenClassification"),
    ("rlhflow", ".", "rlhflow", Settings(), "LlamaForTokenClassification"),
    ("skywork", ".", None, Settings(), "Qwen2ForTokenClassification"),
    ("trl_qwen3", ".", None, Settings(separator=" ки\n##"), "Qwen3ForTokenClassification"),
    ("trl_gemma2", ".", None, Settings(), "Gemma2ForTokenClassification"),
    ("pure", ".", "pure", Settings(), "Qwen2ForTokenClassification"),
    ("pqm", "zeta-4", None, Settings("with_bos"), "LlamaForTokenClassification"),
    ("reasoneval_7b", ".", None, Settings(), "MistralForTokenClassification"),
    ("openr_math_psa", "adapter", "openr", Settings(), "Qwen2ForTokenClassification"),
    ("actprm", ".", None, Settings("code_snippet"), "Qwen2ForEnsemblePRM"),
    ("openrlhf", ".", "openrlhf", Settings(columns=("-", "+")), "MistralForTokenClassification"),
    ("er_prm", ".", "er-prm", Settings(), "LlamaForTokenClassification"),
    ("universal_prm_assumed", ".", None, Settings(), "Qwen2ForTokenClassification"),
    ("reasonflux_prm_15b", ".", None, Settings(), "Qwen2ForTokenClassification"),
]


def same_parameters(first, second):
    first, second = parameters(first), parameters(second)
    assert list(first) == list(second)
    for name in first:
        np.testing.assert_array_equal(np.asarray(first[name]), np.asarray(second[name]), err_msg=name)


@pytest.mark.parametrize("fixture, folder, family, settings, written", CASES, ids=[case[0] for case in CASES])
def test_a_published_model_comes_back_without_options(shared, tmp_path, fixture, folder, family, settings, written):
    source = shared / "fixtures" / "hf" / "prm" / fixture / folder
    export.run(tmp_path / "out", model=source, family=family, settings=settings, progress=SilentProgress())
    before, after = load_prm(source, family, settings=settings), load_prm(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == [written] and config["jaxprm"]["family"] == before.info["family"]
    assert after.model.config == before.model.config and after.model.head.config == before.model.head.config
    same_parameters(before.model, after.model)
    assert after.encoder.encode_rows(PROBLEM, STEPS) == before.encoder.encode_rows(PROBLEM, STEPS)
    assert after.encoder.aggregation == before.encoder.aggregation
    # The second time nothing changes.
    export.run(tmp_path / "again", model=tmp_path / "out", progress=SilentProgress())
    for path in sorted((tmp_path / "out").iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_an_implicit_model_gives_its_policy(shared, tmp_path):
    folder = shared / "fixtures" / "hf" / "prm" / "implicit_prm_llama"
    options = {"reference": folder / "ref", "settings": Settings("processbench")}
    export.run(tmp_path / "out", model=folder / "prm", **options, progress=SilentProgress())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    before, after = load_prm(folder / "prm", **options), load_prm(tmp_path / "out", reference=folder / "ref")
    assert isinstance(after.model, ImplicitModel)
    same_parameters(before.model.policy, after.model.policy)
    assert after.encoder.encode_rows(PROBLEM, STEPS) == before.encoder.encode_rows(PROBLEM, STEPS)
    with pytest.raises(InputError, match="field 'reference': needs one"):
        load_prm(tmp_path / "out")


def test_bfloat16_and_shards(shared, tmp_path):
    source = shared / "fixtures" / "hf" / "prm" / "trl_llama"
    export.run(tmp_path / "out", model=source, settings=Settings(separator="\n\n"), dtype="bfloat16", shard_bytes=20_000,
               progress=SilentProgress())
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    before, after = load_prm(source, settings=Settings(separator="\n\n")), load_prm(tmp_path / "out")
    for name, value in parameters(before.model).items():
        np.testing.assert_array_equal(parameters(after.model)[name], value.astype("bfloat16").astype("float32"), err_msg=name)
    assert after.encoder.separator == "\n\n"


def test_our_own_model_comes_back(toy, trained, tmp_path):
    assert toy.call("export", "--run", trained, "--output", tmp_path / "out") == 0
    before, after = load_reward_model(trained), load_prm(tmp_path / "out")
    same_parameters(before.model, after.model)
    assert after.encoder.format == before.encoder.format and after.model.head.config == before.model.head.config
    steps = ["so we have 7", "oops maybe 3"]
    assert after.encoder.encode("Add 3 and 4 .", steps) == before.encoder.encode("Add 3 and 4 .", steps)
    assert after.info["threshold"] == before.info["threshold"] and after.info["family"] == "jaxprm"
    toy.write(tmp_path / "in.jsonl", [{"problem": "Add 3 and 4 .", "steps": steps}])
    for name, model in (("a", trained), ("b", tmp_path / "out")):
        assert toy.call("score", "--model", model, "--input", tmp_path / "in.jsonl", "--output", tmp_path / name) == 0
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    assert toy.call("inspect", tmp_path / "out") == 0


@pytest.mark.parametrize("bias, head, lines", [
    (False, HeadConfig("binary"), []),
    (True, HeadConfig("binary"), ["warning: AutoTokenizer of transformers 5"]),
    (True, HeadConfig("mlp", hidden=4), ["its head is no class of transformers", "warning: AutoTokenizer of transformers 5"])])
def test_what_transformers_needs_to_be_told_is_said(toy, tmp_path, capfd, bias, head, lines):
    """A decoder with biases is a qwen2 model; a sentencepiece tokenizer is not Qwen2's."""
    tokenizer = train_sentencepiece(["Add 3 and 4 .", "so we have 7"], 300, symbols=["\n"])
    config = TransformerConfig(300, width=8, layers=1, heads=2, kv_heads=1, head_dim=4, mlp_dim=8, attention_bias=bias)
    model = RewardModel(config, head, rngs=nnx.Rngs(0))
    save_model(tmp_path / "own", model, StepEncoder(StepFormat(), tokenizer), {})
    assert toy.call("export", "--run", tmp_path / "own", "--output", tmp_path / "out") == 0
    said = capfd.readouterr().err.splitlines()
    assert said[0].startswith("exported") and len(said) == 1 + len(lines)
    assert all(line.startswith(start) for line, start in zip(said[1:], lines))
    assert (tmp_path / "out" / "modeling_jaxprm.py").is_file() == (head.kind == "mlp")
    if head.kind == "mlp":
        compile((tmp_path / "out" / "modeling_jaxprm.py").read_text(), "modeling_jaxprm.py", "exec")
    same_parameters(model, load_prm(tmp_path / "out").model)


def test_what_cannot_be_exported(toy, trained, tmp_path, capfd):
    for arguments in ((), ("--run", trained, "--model", trained)):
        assert toy.call("export", "--output", tmp_path / "out", *arguments) == 2
        assert "give either --run" in capfd.readouterr().err
    assert toy.call("export", "--run", trained, "--family", "trl", "--output", tmp_path / "out") == 2
    assert "says itself how it is read" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
