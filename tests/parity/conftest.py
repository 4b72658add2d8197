"""What the parity tests share: tiny random models of every architecture, built by transformers itself.

These tests run PyTorch, transformers and jaxprm in one process (`make parity`); without the first two they are skipped.
"""

import atexit
import os
import shutil
import tempfile
import warnings

import pytest

# Before transformers is imported. It copies the code that an export carries before running it: to a folder of this session.
os.environ |= {"TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": tempfile.mkdtemp()}
atexit.register(shutil.rmtree, os.environ["HF_MODULES_CACHE"], ignore_errors=True)

ROPE = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 32},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
}
SIZES = dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64)
# name -> (classes start with, more of the config); both versions of transformers read the older spelling of rope.
ARCHITECTURES = {
    "qwen2": ("Qwen2", dict(rope_theta=1e6, rms_norm_eps=1e-5)),
    "qwen2-tied-window": ("Qwen2", dict(tie_word_embeddings=True, use_sliding_window=True, sliding_window=5,
                                        max_window_layers=1)),
    "qwen3": ("Qwen3", dict(head_dim=16, tie_word_embeddings=True)),
    "qwen3-bias": ("Qwen3", dict(head_dim=10, attention_bias=True, rope_theta=1e6)),
    "llama": ("Llama", dict(head_dim=12, attention_bias=True, mlp_bias=True)),
    "llama-linear": ("Llama", dict(rope_scaling=ROPE["linear"])),
    "llama-dynamic": ("Llama", dict(rope_scaling=ROPE["dynamic"], max_position_embeddings=16)),
    "llama-llama3": ("Llama", dict(rope_theta=5e4, rope_scaling=ROPE["llama3"], tie_word_embeddings=True)),
    "llama-yarn": ("Llama", dict(rope_scaling=ROPE["yarn"])),
    "mistral": ("Mistral", dict(sliding_window=6, head_dim=16)),
    "mistral-full": ("Mistral", dict(sliding_window=None)),
    "gemma2": ("Gemma2", dict(head_dim=16, sliding_window=5, query_pre_attn_scalar=24, attn_logit_softcapping=5.0,
                              final_logit_softcapping=6.0)),
    "gemma3": ("Gemma3Text", dict(head_dim=8, sliding_window=5, query_pre_attn_scalar=24, num_hidden_layers=7,
                                  rope_theta=1e6, rope_local_base_freq=1e4, rope_scaling=ROPE["linear"])),
}


@pytest.fixture(scope="session")
def transformers():
    """transformers (beside torch), quiet and on one thread."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch")
        module = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    module.logging.set_verbosity_error()
    return module


@pytest.fixture(scope="session")
def build(transformers):
    """(architecture, task) -> a model of transformers with weights large enough that every part of it shows in the logits."""
    import torch

    def build(name: str, task: str = "CausalLM", **more):
        family, changes = ARCHITECTURES[name]
        config = getattr(transformers, f"{family}Config")(**{**SIZES, "pad_token_id": 0, **changes, **more},
                                                           attn_implementation="eager")
        prefix = {"Gemma3Text": "Gemma3" if task == "CausalLM" else family}.get(family, family)
        model = getattr(transformers, f"{prefix}For{task}")(config).eval()
        generator = torch.Generator().manual_seed(sum(map(ord, name + task)))
        with torch.no_grad():
            for key, value in model.named_parameters():
                draw = torch.randn(value.shape, generator=generator)
                if value.ndim == 2 and "embed" not in key:
                    value.copy_(draw * value.shape[1] ** -0.5)
                elif "norm" in key:  # Gemma stores what is added to 1
                    value.copy_(0.2 * draw + (0.0 if "gemma" in name else 1.0))
                else:
                    value.copy_(0.5 * draw)
        return model

    return build
