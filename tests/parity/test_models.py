"""Models that transformers built, saved and ran, against the same directories read, run and written by jaxprm (float32)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprm.hub.export import export_directory
from jaxprm.hub.hf_config import read_hf_config
from jaxprm.hub.hf_config_write import carried_fields, find_model_type
from jaxprm.hub.hf_weights import load_backbone, open_weights
from jaxprm.models import (HeadConfig, LanguageModel, RewardModel, TransformerConfig, forward, logits, parameters,
                           with_parameters)

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

# The table of conftest.py; a test module cannot import it.
NAMES = ("qwen2", "qwen2-tied-window", "qwen3", "qwen3-bias", "llama", "llama-linear", "llama-dynamic", "llama-llama3",
         "llama-yarn", "mistral", "mistral-full", "gemma2", "gemma3")
CLASSIFIERS = ("qwen2", "qwen3", "llama-llama3", "mistral", "gemma2")  # Gemma 3 has no token classification in transformers
LENGTHS = (40, 1, 23)
TOLERANCE = 1e-4


def rows(name: str):
    """[(ids, ...)] of `LENGTHS` random tokens."""
    rng = np.random.default_rng(sum(map(ord, name)))
    return [rng.integers(1, 61, length).tolist() for length in LENGTHS]


def batch(ids, side: str):
    """(tokens, mask, positions), int[B, T], padded on one side."""
    longest = max(map(len, ids))
    pad = [(0, longest - len(row)) if side == "right" else (longest - len(row), 0) for row in ids]
    tokens = np.stack([np.pad(row, width) for row, width in zip(ids, pad)]).astype(np.int32)
    mask = np.stack([np.pad(np.ones(len(row), np.int32), width) for row, width in zip(ids, pad)])
    return tokens, mask, np.maximum(np.cumsum(mask, 1) - 1, 0).astype(np.int32)


def torch_logits(model, tokens, mask, positions) -> np.ndarray:
    with torch.no_grad():
        as_torch = lambda values: torch.from_numpy(np.asarray(values, np.int64))  # noqa: E731
        return model(input_ids=as_torch(tokens), attention_mask=as_torch(mask), position_ids=as_torch(positions),
                     use_cache=False).logits.float().numpy()


@jax.jit
def our_logits(model, tokens, mask, positions):
    with jax.default_matmul_precision("highest"):
        hidden = forward(model.backbone, tokens, positions, mask)
        return logits(model, hidden) if isinstance(model, LanguageModel) else model.head(hidden)


def load(directory, head: bool = False):
    config = read_hf_config(directory)
    weights = open_weights(directory)
    values = load_backbone(weights, config.transformer, config.model_type, language_model=not head, dtype="float32",
                           claimed=("score.*",))
    if not head:
        return config, with_parameters(jax.eval_shape(lambda: LanguageModel(config.transformer, rngs=nnx.Rngs(0))), values)
    values["head.kernel"] = jnp.asarray(weights.read("score.weight").T)
    values["head.bias"] = jnp.asarray(weights.read("score.bias"))
    empty = jax.eval_shape(lambda: RewardModel(config.transformer, HeadConfig("binary"), rngs=nnx.Rngs(0)))
    return config, with_parameters(empty, values)


def check(name: str, theirs, ours, spread: float = 0.5) -> None:
    """Equal logits at every token, with padding on either side."""
    ids = rows(name)
    for side in ("right", "left"):
        tokens, mask, positions = batch(ids, side)
        if "dynamic" in name:  # its frequencies follow the longest row of a batch there, each row's own length here
            expected = np.zeros((*tokens.shape, theirs.config.vocab_size), np.float32)
            for row, kept in enumerate(mask.astype(bool)):
                expected[row, kept] = torch_logits(theirs, *(value[row, kept][None] for value in (tokens, mask, positions)))[0]
        else:
            expected = torch_logits(theirs, tokens, mask, positions)
        kept = mask.astype(bool)
        found = np.asarray(our_logits(ours, tokens, mask, positions))
        assert expected[kept].std() > spread, "logits too small to tell anything"
        difference = np.abs(found - expected)[kept].max()
        print(f"{name}, padded {side}: largest difference {difference:.2g}, spread {expected[kept].std():.2g}")
        np.testing.assert_allclose(found[kept], expected[kept], rtol=0, atol=TOLERANCE, err_msg=side)


@pytest.mark.parametrize("name", NAMES)
def test_language_models(name, build, tmp_path):
    theirs = build(name)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB" if name == "qwen2" else "1GB")
    assert (tmp_path / "model.safetensors.index.json").is_file() == (name == "qwen2")
    config, ours = load(tmp_path)
    assert config.architecture == type(theirs).__name__
    check(name, theirs, ours)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_token_classification(name, build, tmp_path):
    theirs = build(name, "TokenClassification", num_labels=2)
    theirs.save_pretrained(tmp_path)
    _, ours = load(tmp_path, head=True)
    check(name, theirs, ours, 0.3)


def reopened(transformers, task: str, directory):
    """The directory as transformers loads it; every tensor must find its place."""
    loader = getattr(transformers, f"AutoModelFor{task}")
    model, info = loader.from_pretrained(directory, attn_implementation="eager", output_loading_info=True,
                                         trust_remote_code=(directory / "modeling_jaxprm.py").is_file())
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_exported_language_models(name, build, transformers, tmp_path):
    theirs = build(name)
    theirs.save_pretrained(tmp_path / "theirs")
    config, ours = load(tmp_path / "theirs")
    export_directory(tmp_path / "ours", config.transformer, config.model_type, parameters(ours), tokenizer_files={},
                     extra=carried_fields(config.raw), shard_bytes=20_000 if name == "qwen3" else 10**9)
    again = reopened(transformers, "CausalLM", tmp_path / "ours")
    assert type(again) is type(theirs)
    ids, mask, positions = batch(rows(name), "right")
    np.testing.assert_array_equal(torch_logits(again, ids, mask, positions), torch_logits(theirs, ids, mask, positions))
    assert read_hf_config(tmp_path / "ours").transformer == config.transformer


HEADS = [("llama", HeadConfig("scalar")), ("qwen2", HeadConfig("validity")),
         *((name, HeadConfig("binary")) for name in CLASSIFIERS),
         *((name, HeadConfig("mlp", hidden=24)) for name in ("qwen2", "qwen3", "gemma2")),
         *((name, HeadConfig("ensemble", hidden=12, members=3)) for name in ("qwen2", "mistral", "llama-llama3"))]


@pytest.mark.parametrize("name, head", HEADS, ids=[f"{name}-{head.kind}" for name, head in HEADS])
def test_exported_classifiers(name, head, build, transformers, tmp_path):
    """A head of our own on a backbone of theirs; a single output w becomes the rows [0; w], others come with their code."""
    build(name).save_pretrained(tmp_path / "theirs")
    config, language_model = load(tmp_path / "theirs")
    values = {key: value for key, value in parameters(language_model).items() if key.startswith("backbone.")}
    rng = np.random.default_rng(0)
    empty = jax.eval_shape(lambda: RewardModel(config.transformer, head, rngs=nnx.Rngs(0)))
    for key, value in parameters(empty).items():
        if key.startswith("head."):
            values[key] = jnp.asarray(rng.normal(size=value.shape) * (0.2 if head.kind not in ("mlp", "ensemble") else 0.4),
                                      jnp.float32)
    ours = with_parameters(empty, values)
    export_directory(tmp_path / "ours", config.transformer, config.model_type, parameters(ours), head, tokenizer_files={})
    again = reopened(transformers, "TokenClassification", tmp_path / "ours")
    ids, mask, positions = batch(rows(name), "left")
    kept = mask.astype(bool)
    expected, found = torch_logits(again, ids, mask, positions)[kept], np.asarray(our_logits(ours, ids, mask, positions))[kept]
    if head.kind == "scalar":
        expected = expected[:, 1:] - expected[:, :1]
    assert expected.std() > 0.3
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    shares = np.exp(expected - np.logaddexp.reduce(expected, -1, keepdims=True))
    single = 1 / (1 + np.exp(-expected))
    score = {"binary": lambda: shares[:, 1], "mlp": lambda: shares[:, 1], "validity": lambda: shares[:, 1:].sum(-1),
             "scalar": lambda: single[:, 0], "ensemble": lambda: single.mean(-1)}[head.kind]()
    np.testing.assert_allclose(ours.head.score(jnp.asarray(found)), score, rtol=0, atol=5e-5)


@pytest.mark.parametrize("changes", [{}, {"attention_bias": True}, {"qk_norm": True, "head_dim": 10},
                                     {"windows": (4, 4), "tie_embeddings": True}],
                         ids=["plain", "bias", "qk-norm", "window"])
def test_models_born_here(changes, transformers, tmp_path):
    transformer = TransformerConfig(vocab_size=61, width=32, layers=2, heads=4, kv_heads=2, mlp_dim=48, context=64,
                                    **{"head_dim": 8, **changes})
    empty = jax.eval_shape(lambda: LanguageModel(transformer, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(1)
    ours = with_parameters(empty, {name: jnp.asarray(rng.normal(size=value.shape) * 0.3 + ("scale" in name), jnp.float32)
                                   for name, value in parameters(empty).items()})
    export_directory(tmp_path, transformer, find_model_type(transformer), parameters(ours), tokenizer_files={})
    check("born-" + "-".join(changes), reopened(transformers, "CausalLM", tmp_path), ours)


def test_a_difference_would_show(build, tmp_path):
    """The same check fails for a model whose window is one token longer."""
    theirs = build("mistral")
    theirs.save_pretrained(tmp_path)
    config, _ = load(tmp_path)
    transformer = dataclasses.replace(config.transformer, windows=(7, 7, 7))
    ours = with_parameters(jax.eval_shape(lambda: LanguageModel(transformer, rngs=nnx.Rngs(0))),
                           load_backbone(open_weights(tmp_path), transformer, "mistral", language_model=True))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check("mistral", theirs, ours)
