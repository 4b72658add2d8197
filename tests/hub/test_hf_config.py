"""config.json in both styles: what is read, what a missing field means, and what is refused by name."""

import json
from pathlib import Path

import pytest

from jaxprm.errors import InputError
from jaxprm.hub.hf_config import parse_hf_config, read_hf_config
from jaxprm.hub.hf_config_write import hf_config_json
from jaxprm.models import RopeScaling, TransformerConfig

FILE = Path("config.json")
SIZES = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}


def read(model_type="llama", **fields):
    return parse_hf_config({"architectures": ["X"], "model_type": model_type, **SIZES, **fields}, FILE).transformer


# As published: hidden sizes and rotary positions of models on the Hub, in the spelling of their time.
MATH_PRM = {"architectures": ["Qwen2ForProcessRewardModel"], "attention_dropout": 0.0, "bos_token_id": 151643,
            "auto_map": {"AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel"}, "eos_token_id": 151645,
            "hidden_act": "silu", "hidden_size": 3584, "initializer_range": 0.02, "intermediate_size": 18944,
            "max_position_embeddings": 4096, "max_window_layers": 28, "model_type": "qwen2", "num_attention_heads": 28,
            "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-05, "rope_theta": 10000,
            "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": False,
            "transformers_version": "4.43.1", "use_sliding_window": False, "vocab_size": 152064}
GEMMA3_4B = {"architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999, "eoi_token_index": 256000,
             "eos_token_id": [1, 106], "image_token_index": 262144, "initializer_range": 0.02, "mm_tokens_per_image": 256,
             "model_type": "gemma3", "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
             "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                             "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                             "sliding_window": 1024},
             "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"}}


def test_published_configs():
    config = parse_hf_config(MATH_PRM, FILE)
    assert config.architecture == "Qwen2ForProcessRewardModel" and config.dtype == "bfloat16"
    assert config.transformer == TransformerConfig(152064, 3584, 28, 28, 4, 128, 18944, 4096, 10_000.0, 1e-5,
                                                   attention_bias=True, tie_embeddings=False)
    config = parse_hf_config(GEMMA3_4B, FILE)
    assert config.model_type == "gemma3_text" and config.dtype == "bfloat16"
    assert config.transformer == TransformerConfig(
        262208, 2560, 34, 8, 4, 256, 10240, 131072, 1e6, 1e-6, qk_norm=True, activation="gelu_tanh", norm_plus_one=True,
        post_norms=True, embed_scale=True, windows=tuple(0 if layer % 6 == 5 else 1024 for layer in range(34)),
        rope_scaling=RopeScaling("linear", 8.0), local_rope_theta=10_000.0)


def test_what_a_missing_field_means():
    """The values of the classes of transformers, not those of `TransformerConfig`."""
    llama = read()
    assert (llama.kv_heads, llama.head_dim, llama.context, llama.rope_theta, llama.norm_eps, llama.tie_embeddings,
            llama.attention_bias) == (4, 8, 2048, 1e4, 1e-6, False, False)
    qwen = read("qwen2", num_key_value_heads=None, head_dim=None)
    assert (qwen.kv_heads, qwen.head_dim, qwen.attention_bias, qwen.output_bias, qwen.windows) == (4, 8, True, False, ())
    assert read("qwen3", num_key_value_heads=2).head_dim == 128
    mistral = read("mistral", num_attention_heads=8)
    assert (mistral.kv_heads, mistral.windows, mistral.context) == (8, (4096,) * 4, 131072)
    gemma = read("gemma2")
    assert (gemma.kv_heads, gemma.head_dim, gemma.tie_embeddings, gemma.attention_softcap, gemma.logit_softcap, gemma.windows,
            gemma.query_scale) == (4, 256, True, 50.0, 30.0, (4096, 0, 4096, 0), None)
    assert gemma.attention_scale == 256 ** -0.5


def test_every_field_is_live():
    changed = {"rms_norm_eps": ("norm_eps", 1e-3), "rope_theta": ("rope_theta", 7.0), "tie_word_embeddings":
               ("tie_embeddings", True), "mlp_bias": ("mlp_bias", True), "head_dim": ("head_dim", 16),
               "num_key_value_heads": ("kv_heads", 2), "max_position_embeddings": ("context", 99), "vocab_size":
               ("vocab_size", 101), "hidden_size": ("width", 40), "intermediate_size": ("mlp_dim", 7),
               "num_hidden_layers": ("layers", 3), "num_attention_heads": ("heads", 8)}
    for field, (ours, value) in changed.items():
        assert getattr(read(**{field: value}), ours) == value != getattr(read(), ours), field
    assert read(attention_bias=True).output_bias and read(attention_bias=True).attention_bias
    assert read("gemma2", query_pre_attn_scalar=24).query_scale == 24 ** -0.5
    assert read("gemma2", attn_logit_softcapping=None, final_logit_softcapping=None).attention_softcap is None
    assert read("gemma3_text", final_logit_softcapping=12.0).logit_softcap == 12.0


@pytest.mark.parametrize(("model_type", "fields", "windows"), [
    ("qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}, (0, 6, 6, 6)),
    ("qwen2", {"use_sliding_window": False, "sliding_window": 6, "max_window_layers": 1}, ()),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 4, "num_key_value_heads": 4}, ()),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 6,
               "layer_types": ["sliding_attention", "full_attention"] * 2}, (6, 0, 6, 0)),
    ("mistral", {"sliding_window": None, "num_key_value_heads": 4}, ()),
    ("gemma2", {"sliding_window": 5}, (5, 0, 5, 0)),
    ("gemma2", {"sliding_window": 5, "layer_types": ["full_attention"] * 4}, ()),
    ("gemma3_text", {"sliding_window": 5, "sliding_window_pattern": 2}, (5, 0, 5, 0)),
    ("gemma3_text", {"sliding_window": 5}, (5, 5, 5, 5))])
def test_windows(model_type, fields, windows):
    fields = {"num_key_value_heads": 4} | fields
    assert read(model_type, **fields).windows == windows


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 512}


@pytest.mark.parametrize(("fields", "theta", "scaling"), [
    ({"rope_theta": 5e5, "rope_scaling": LLAMA3}, 5e5, RopeScaling("llama3", 8.0, 512)),
    ({"rope_parameters": {"rope_theta": 5e5, **LLAMA3}}, 5e5, RopeScaling("llama3", 8.0, 512)),
    # rope_scaling replaces rope_parameters, theta included; an empty one does not.
    ({"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_theta": 5e5, **LLAMA3}}, 1e4,
     RopeScaling("linear", 2.0)),
    ({"rope_scaling": None, "rope_theta": 3, "rope_parameters": {"rope_theta": 4, "rope_type": "default"}}, 4.0, None),
    ({"rope_theta": 3, "rope_parameters": {"rope_type": "default"}}, 3.0, None),
    # A top-level original length wins over the one inside; without any, it is the context.
    ({"rope_scaling": LLAMA3, "original_max_position_embeddings": 64}, 1e4, RopeScaling("llama3", 8.0, 64)),
    ({"rope_scaling": {"type": "yarn", "factor": 4.0}, "max_position_embeddings": 77}, 1e4, RopeScaling("yarn", 4.0, 77)),
    ({"rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 512, "beta_fast": 16, "beta_slow": 2,
                       "attention_factor": 1.5}}, 1e4, RopeScaling("yarn", 4.0, 512, beta_fast=16.0, beta_slow=2.0,
                                                                   attention_factor=1.5)),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 1.0, "mscale": 2, "mscale_all_dim": 1}}, 1e4,
     RopeScaling("yarn", 1.0, 2048, attention_factor=1.0)),
    ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 1e4, RopeScaling("dynamic", 2.0, 2048)),
    ({"rope_scaling": {"rope_type": "default"}, "rope_theta": 9}, 9.0, None)])
def test_rope(fields, theta, scaling):
    config = read(**fields)
    assert config.rope_theta == theta and config.rope_scaling == scaling


def test_yarn_attention_factor_from_mscale():
    config = read(rope_scaling={"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.8})
    assert config.rope_scaling.amplitude == pytest.approx(1.368887945411394 / 1.2951103563291153, rel=1e-12)


def test_gemma3_rope_in_both_styles():
    nested = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
              "sliding_attention": {"rope_type": "default", "rope_theta": 2e4}}
    new = read("gemma3_text", rope_parameters=nested)
    old = read("gemma3_text", rope_theta=1e6, rope_local_base_freq=2e4, rope_scaling={"rope_type": "linear", "factor": 8.0})
    assert new == old and new.local_rope_theta == 2e4 and new.rope_scaling == RopeScaling("linear", 8.0)
    assert read("gemma3_text").rope_theta == 1e6 and read("gemma3_text").local_rope_theta == 1e4


@pytest.mark.parametrize(("model_type", "fields", "message"), [
    ("llama", {"attention_multiplier": 2.0}, "field 'attention_multiplier' = 2.0: is not known and might change the model's"),
    ("llama", {"mup": 1, "sinks": 4}, "field 'mup' = 1: is not known and might change the model's numbers, so is 'sinks'"),
    ("llama", {"quantization_config": {"bits": 4}}, "field 'quantization_config' = {'bits': 4}: is not supported; give the"),
    ("llama", {"partial_rotary_factor": 0.5}, "field 'partial_rotary_factor' = 0.5: is not supported"),
    ("llama", {"sliding_window": 64}, "field 'sliding_window' = 64: is not supported"),
    ("llama", {"hidden_act": "gelu"}, "field 'hidden_act' = 'gelu': must be one of silu, swish, gelu_pytorch_tanh"),
    ("qwen2", {"attention_bias": False}, "field 'attention_bias' = False: is not supported"),
    ("mistral", {"attention_bias": True}, "field 'attention_bias' = True: is not supported"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "field 'attn_logit_softcapping' = 50.0: is not supported"),
    ("gemma2", {"use_bidirectional_attention": True}, "field 'use_bidirectional_attention' = True: is not supported"),
    ("llama", {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "field 'rope_type' = 'longrope': rope type must be"),
    ("llama", {"rope_scaling": {"rope_type": "linear"}}, "field 'factor' = None: must be a number"),
    ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2, "beta_fast": 3}},
     "field 'rope_scaling.beta_fast' = 3: is not read by rope type 'linear'"),
    ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 2}}, "field 'rope_scaling.low_freq_factor': is missing"),
    ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2, "truncate": False}}, "'rope_scaling.truncate' = False: is"),
    ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 0.5}}, "field 'rope_scaling.factor' = 0.5: must be at least 1"),
    ("llama", {"rope_scaling": "linear"}, "field 'rope_scaling' = 'linear': must be a JSON object or null"),
    ("llama", {"rope_local_base_freq": 1e4}, "field 'rope_local_base_freq' = 10000.0: is not read by this architecture"),
    ("llama", {"rope_parameters": {"full_attention": {}}}, "only known for gemma3_text"),
    ("gemma3_text", {"rope_parameters": {"rope_theta": 1e4}}, "must have the keys full_attention and sliding_attention"),
    ("gemma3_text", {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2}}}, "cannot be scaled"),
    ("qwen2", {"layer_types": ["full_attention"]}, "field 'layer_types' = ['full_attention']: must be a list of 4 names"),
    ("qwen2", {"layer_types": ["chunked_attention"] * 4}, "names, each full_attention or sliding_attention"),
    ("qwen2", {"layer_types": ["sliding_attention"] * 4}, "field 'sliding_window' = None: is missing, but layers have a"),
    ("mistral", {"layer_types": ["full_attention"] * 4}, "transformers does not read it for mistral, and sliding_window says"),
    ("llama", {"num_key_value_heads": 3}, "does not make a decoder: field 'kv_heads' = 3: must divide heads = 4"),
    ("llama", {"hidden_size": "32"}, "field 'hidden_size' = '32': must be an integer, at least 1"),
    ("llama", {"rms_norm_eps": 0}, "field 'rms_norm_eps' = 0: must be a positive number"),
    ("llama", {"tie_word_embeddings": 1}, "field 'tie_word_embeddings' = 1: must be true or false"),
    ("mixtral", {}, "field 'model_type' = 'mixtral': architecture 'X' is not known; its model_type must be one of gemma3"),
    ("llama", {"architectures": "X"}, "field 'architectures' = 'X': must be a list of names")])
def test_what_is_refused(model_type, fields, message):
    with pytest.raises(InputError) as caught:
        read(model_type, **{"num_key_value_heads": 4, **fields})
    assert message in str(caught.value) and str(caught.value).startswith("config.json: ") and "\n" not in str(caught.value)


def test_missing_sizes_are_named():
    with pytest.raises(InputError, match="config.json: field 'hidden_size': is missing; every config has vocab_size, hidden"):
        parse_hf_config({"model_type": "llama", "vocab_size": 3}, FILE)


def test_files_that_are_no_config(tmp_path):
    with pytest.raises(InputError, match="config.json: no such file; give a directory with a Hugging Face checkpoint"):
        read_hf_config(tmp_path)
    for text, message in (("{", "cannot be read"), ("[1]", "must be a JSON object"), ("\xff", "cannot be read")):
        (tmp_path / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match=message):
            read_hf_config(tmp_path)


def test_what_is_written_is_read_in_both_styles():
    """Without the keys of one version, the other reads the same decoder."""
    scalings = [None, RopeScaling("linear", 2.0), RopeScaling("dynamic", 2.0, 512), RopeScaling("llama3", 8.0, 64),
                RopeScaling("yarn", 4.0, 128, beta_fast=16.0, attention_factor=1.2)]
    configs = [(model_type, read(model_type, num_key_value_heads=2)) for model_type in
               ("qwen2", "qwen3", "llama", "mistral", "gemma2", "gemma3_text")]
    configs += [("llama", TransformerConfig(100, 32, context=512, rope_theta=7.0, rope_scaling=each)) for each in scalings]
    configs += [("qwen2", read("qwen2", num_key_value_heads=2, use_sliding_window=True, sliding_window=9,
                               layer_types=["full_attention", "sliding_attention"] * 2)),
                ("gemma3_text", read("gemma3_text", sliding_window=5, query_pre_attn_scalar=168,
                                     layer_types=["full_attention"] * 3 + ["sliding_attention"]))]
    old = ("rope_theta", "rope_scaling", "rope_local_base_freq", "torch_dtype")
    for model_type, config in configs:
        written = json.loads(json.dumps(hf_config_json(config, model_type, architecture="X", dtype="bfloat16", labels=2)))
        assert written["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"} and written["label2id"]["LABEL_1"] == 1
        for dropped in ((), ("rope_parameters", "dtype"), old):
            found = parse_hf_config({key: value for key, value in written.items() if key not in dropped}, FILE)
            assert found.transformer == config and found.dtype == "bfloat16", dropped
        if model_type.startswith("gemma"):  # transformers 5 checks types
            assert type(written["query_pre_attn_scalar"]) is int
    with pytest.raises(InputError, match="field 'vocab_size' = 3: is set by the model itself"):
        hf_config_json(configs[0][1], "qwen2", architecture="X", dtype="bfloat16", extra={"vocab_size": 3})
    with pytest.raises(InputError, match="must equal context = 9"):
        hf_config_json(TransformerConfig(9, context=9, rope_scaling=RopeScaling("dynamic", 2.0, 4)), "llama",
                       architecture="X", dtype="float32")
