"""Fields of ``config.json``: which are read, which must have one value, which change nothing. Any other field is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxprm.hub.hf_rope import ROPE_KEYS

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")

_COMMON: dict[str, Any] = {"max_position_embeddings": None, "num_key_value_heads": None, "head_dim": None,
                           "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "layer_types": None}
_GATED = {"hidden_act": "silu"}
_QWEN = _COMMON | _GATED | {"max_position_embeddings": 32768, "num_key_value_heads": 32, "use_sliding_window": False,
                            "sliding_window": 4096, "max_window_layers": 28}
_GEMMA = _COMMON | {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
                    "num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True, "attention_bias": False,
                    "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256, "sliding_window": 4096}

# What each architecture reads, with the value that transformers uses where the file has none. Rotary positions: hf_rope.py.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "qwen2": _QWEN,
    "qwen3": _QWEN | {"head_dim": 128, "attention_bias": False},
    "llama": _COMMON | _GATED | {"max_position_embeddings": 2048, "attention_bias": False, "mlp_bias": False},
    "mistral": _COMMON | _GATED | {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    "gemma2": _GEMMA | {"vocab_size": 256_000, "max_position_embeddings": 8192, "attn_logit_softcapping": 50.0,
                        "final_logit_softcapping": 30.0},
    "gemma3_text": _GEMMA | {"vocab_size": 262_208, "max_position_embeddings": 131_072, "sliding_window_pattern": 6,
                             "final_logit_softcapping": None},
}
ROPE_THETA: Mapping[str, float] = {"gemma3_text": 1_000_000.0}  # 10000 for all others

# Fields that would change the maths, each with the only values that leave it as it is.
FIXED: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "attention_bias": (False, None),
    "attn_logit_softcapping": (None,),
    "compression_config": (None,),
    "cross_attention_hidden_size": (None,),
    "final_logit_softcapping": (None,),
    "is_encoder_decoder": (False, None),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1, None),
    "per_layer_config": (None, {}),
    "pruned_heads": (None, {}),
    "quantization_config": (None,),
    "rope_interleaved": (False, None),
    "sliding_window": (None,),
    "use_bidirectional_attention": (False, None),
    "use_mrope": (False, None),
    "use_sliding_window": (False, None),
}
# Qwen2's attention has biases whatever its config says.
FIXED_OF: Mapping[str, Mapping[str, tuple[Any, ...]]] = {"qwen2": {"attention_bias": (True,)}}

_TRAINING = ("attention_dropout", "classifier_dropout", "hidden_dropout", "initializer_range", "output_router_logits",
             "unsloth_fixed", "unsloth_version")
_LABELS = ("finetuning_task", "id2label", "label2id", "num_labels", "problem_type", "task_specific_params")
_TOKENS = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "tokenizer_class",
           "prefix")
_GENERATION = (
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id",
    "length_penalty", "max_length", "max_new_tokens", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "remove_invalid_values", "repetition_penalty", "return_dict_in_generate", "output_scores",
    "suppress_tokens", "temperature", "top_k", "top_p", "typical_p")
_LIBRARY = (
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_flash_attn_2_enabled", "_name_or_path",
    "architectures", "attn_implementation", "auto_map", "cache_implementation", "chunk_size_feed_forward", "dtype",
    "is_decoder", "jaxprm", "model_type", "name_or_path", "output_attentions", "output_hidden_states", "pretraining_tp",
    "return_dict", "tie_encoder_decoder", "tf_legacy_loss", "torch_dtype", "torchscript", "transformers_version",
    "use_bfloat16", "use_cache", "use_flash_attn")
# Read by the family that the field belongs to, not by the backbone.
_HEADS = ("bias", "learning_probability", "num_ensemble", "regularization_lambda", "rr_token", "rr_token_id", "score_dim",
          "score_dimension", "use_bias")
# Gemma's MLP reads hidden_activation; transformers writes the pattern it derived under an underscore, and never reads it.
_GEMMA_LEFTOVERS = ("hidden_act", "_sliding_window_pattern")
_MULTIMODAL = ("boi_token_id", "boi_token_index", "eoi_token_id", "eoi_token_index", "image_token_id", "image_token_index",
               "mm_tokens_per_image", "text_config", "vision_config")

HARMLESS = frozenset(_TRAINING + _LABELS + _TOKENS + _GENERATION + _LIBRARY + _HEADS)
# What an export keeps of the config that its model came with.
CARRIED = ("attention_dropout", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id", *_HEADS)


def check_fields(config: Mapping[str, Any], model_type: str, multimodal: bool = False) -> list[tuple[str, str]]:
    """(field, what is wrong with it) for every field that is unknown or has a value that is not supported.

    Args:
      config: a section of config.json.
      model_type: a key of `DEFAULTS`.
      multimodal: the section is the outer one of a model that reads images, too; its text model has a section of its own.
    """
    read = set(DEFAULTS[model_type]) | set(SIZES) | set(ROPE_KEYS)
    fixed = FIXED | FIXED_OF.get(model_type, {})
    harmless = HARMLESS | set(_GEMMA_LEFTOVERS if model_type.startswith("gemma") else ())
    if multimodal:
        harmless = harmless | set(_MULTIMODAL)
    problems = []
    for field, value in config.items():
        if field in read or field in harmless:
            continue
        if field not in fixed:
            problems.append((field, "is not known and might change the model's numbers"))
        elif not any(type(value) is type(allowed) and value == allowed or _same_number(value, allowed)
                     for allowed in fixed[field]):
            problems.append((field, "is not supported"))
    return problems


def _same_number(value: Any, allowed: Any) -> bool:
    numbers = all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in (value, allowed))
    return numbers and value == allowed
