"""Tables of names: every parameter of every architecture once, both directions, whole and in parts."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from jaxprm.errors import InputError
from jaxprm.hub.hf_names import TABLES, tensor_table, unembedding_name
from jaxprm.models import LanguageModel, TransformerConfig, parameters

SMALL = TransformerConfig(40, width=16, layers=3, heads=4, kv_heads=2, head_dim=6, mlp_dim=24, tie_embeddings=False)
GEMMA = dict(post_norms=True, norm_plus_one=True, embed_scale=True, activation="gelu_tanh")
CONFIGS = {"qwen2": dict(attention_bias=True), "qwen3": dict(attention_bias=True, output_bias=True, qk_norm=True),
           "llama": dict(attention_bias=True, output_bias=True, mlp_bias=True), "mistral": {}, "gemma2": GEMMA,
           "gemma3_text": dict(GEMMA, qk_norm=True)}


@pytest.mark.parametrize("model_type", TABLES)
def test_tables_are_bijective_and_complete(model_type):
    for config in (dataclasses.replace(SMALL, **CONFIGS[model_type]),
                   dataclasses.replace(SMALL, **{**CONFIGS[model_type], "attention_bias": False, "output_bias": False,
                                                 "mlp_bias": False}, tie_embeddings=True)):
        table = tensor_table(config, model_type, language_model=True)
        model = parameters(jax.eval_shape(lambda config=config: LanguageModel(config, rngs=nnx.Rngs(0))))
        assert {entry.parameter for entry in table.values()} == set(model)
        places = [(entry.parameter, entry.layer) for entry in table.values()]
        assert len(set(places)) == len(places)
        for name, value in model.items():
            entries = [entry for entry in table.values() if entry.parameter == name]
            layers = [entry.layer for entry in entries]
            assert layers == ([0, 1, 2] if name.startswith("backbone.blocks.") else [None])
            assert (3,) * (layers != [None]) + entries[0].layout.shape == value.shape, name


def test_a_tensor_there_and_back():
    """q_proj by hand: row n * H + h of the file is head n, element h."""
    layout = tensor_table(SMALL, "llama")["model.layers.0.self_attn.q_proj.weight"].layout
    assert layout.file_shape == (24, 16) and layout.shape == (16, 4, 6)
    tensor = np.arange(24 * 16).reshape(24, 16)
    ours = layout.from_file(tensor)
    assert ours[5, 2, 3] == tensor[2 * 6 + 3, 5]
    output = tensor_table(SMALL, "llama")["model.layers.0.self_attn.o_proj.weight"].layout
    assert output.from_file(tensor.reshape(16, 24))[2, 3, 5] == tensor.reshape(16, 24)[5, 2 * 6 + 3]
    for entry in tensor_table(dataclasses.replace(SMALL, **CONFIGS["qwen2"]), "qwen2", language_model=True).values():
        tensor = np.random.default_rng(0).normal(size=entry.layout.file_shape)
        np.testing.assert_array_equal(entry.layout.to_file(entry.layout.from_file(tensor)), tensor)


def test_parts():
    """Any box of a parameter, read from the slices of the file that it needs."""
    random = np.random.default_rng(1)
    for entry in tensor_table(dataclasses.replace(SMALL, **CONFIGS["llama"]), "llama", language_model=True).values():
        layout = entry.layout
        tensor = random.normal(size=layout.file_shape)
        for _ in range(10):
            bounds = [np.sort(random.choice(size + 1, 2, replace=False)) for size in layout.shape]
            index = tuple(slice(int(low), int(high)) for low, high in bounds)
            slices, sizes, rest = layout.part(index)
            piece = tensor[slices]
            np.testing.assert_array_equal(layout.from_file(piece, sizes)[rest], layout.from_file(tensor)[index])
            # Of merged axes only the inner one is read whole.
            inner = {"N": "H", "K": "H"}
            needed = 1
            for axis, part in zip(layout.axes.split(), index):
                whole = axis == "H" and any(letter in inner for letter in layout.axes)
                needed *= dict(layout.sizes)[axis] if whole else part.stop - part.start
            assert piece.size == needed


def test_names_of_output_matrices():
    assert [unembedding_name(prefix) for prefix in ("model.", "pretrained_model.model.", "language_model.model.",
                                                    "model.language_model.", "")] == \
        ["lm_head.weight", "pretrained_model.lm_head.weight", "language_model.lm_head.weight", "lm_head.weight",
         "lm_head.weight"]


@pytest.mark.parametrize(("model_type", "changes", "message"), [
    ("mistral", {"qk_norm": True}, "field 'qk_norm' = True: mistral has no such tensors"),
    ("qwen2", {"output_bias": True}, "field 'output_bias' = True: qwen2 has no such tensors"),
    ("llama", {"post_norms": True}, "field 'post_norms' = True: does not fit llama"),
    ("bert", {}, "field 'model_type' = 'bert': must be one of qwen2, qwen3")])
def test_parts_that_an_architecture_lacks(model_type, changes, message):
    with pytest.raises(InputError) as caught:
        tensor_table(dataclasses.replace(SMALL, **changes), model_type)
    assert message in str(caught.value)
