"""Every kind of step head against NumPy, and two heads of published models."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprm.errors import InputError
from jaxprm.models import (HeadConfig, LanguageModel, PolicyRewardModel, RewardModel, StepHead, forward, logits, parameters,
                           with_parameters)
from jaxprm.testing import tiny_config, tiny_reward_model
from jaxprm.testing.models import random_model

HEADS = [HeadConfig("scalar"), HeadConfig("binary"), HeadConfig("ranking"), HeadConfig("value"), HeadConfig("difference"),
         HeadConfig("validity"), HeadConfig("mlp", hidden=7), HeadConfig("ensemble", hidden=5, members=3),
         HeadConfig("quantile", levels=(0.2, 0.5, 0.6, 0.9)), HeadConfig("two_head", beta=0.25), HeadConfig("ternary"),
         HeadConfig("buffer"), HeadConfig("lm_rows", rows=(7, 3))]
by_kind = pytest.mark.parametrize("config", HEADS, ids=lambda config: config.kind)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


SCORES = {"scalar": lambda y: 1 / (1 + np.exp(-y[..., 0])), "binary": lambda y: softmax(y)[..., 1],
          "ranking": lambda y: 1 / (1 + np.exp(-y[..., 0])), "value": lambda y: y[..., 0],
          "difference": lambda y: softmax(y)[..., 1] - softmax(y)[..., 0],
          "validity": lambda y: softmax(y)[..., 1] + softmax(y)[..., 2], "mlp": lambda y: softmax(y)[..., 1],
          "ensemble": lambda y: (1 / (1 + np.exp(-y))).mean(-1),
          "quantile": lambda y: sigmoid(np.sort(y, -1)[..., 1]),  # 0.5 is the second of its levels
          "two_head": lambda y: (0.25 * sigmoid(y[..., 0]) + sigmoid(y[..., 1])) / 1.25,
          "ternary": lambda y: softmax(y)[..., 2] + softmax(y)[..., 1] / 2,
          "buffer": lambda y: softmax(y)[..., 1] / (softmax(y)[..., 0] + softmax(y)[..., 1]),
          "lm_rows": lambda y: softmax(y)[..., 1]}


def oracle(config, values, x):
    p = {name.removeprefix("head."): np.asarray(value, np.float64) for name, value in values.items()}
    if config.kind == "lm_rows":
        return x @ p["backbone.embedding"][list(config.rows)].T
    if config.kind == "ensemble":
        outputs = []
        for member in range(config.members):
            y = x
            for layer in ("first", "second"):
                y = np.maximum(y @ p[f"{layer}_kernel"][member] + p[f"{layer}_bias"][member], 0)
            outputs.append(y @ p["last_kernel"][member] + p["last_bias"][member])
        return np.concatenate(outputs, -1)
    if config.kind == "mlp":
        x = np.maximum(x @ p["hidden_kernel"] + p["hidden_bias"], 0)
    return x @ p["kernel"] + p["bias"]


@by_kind
def test_outputs_and_scores_equal_the_oracle(config):
    model = tiny_reward_model(1, config)
    head = model.head
    x = np.random.default_rng(0).standard_normal((2, 4, 16)).astype(np.float32)
    outputs = model.outputs(jnp.asarray(x))
    assert outputs.shape == (2, 4, config.outputs) and outputs.dtype == jnp.float32
    expected = oracle(config, parameters(model), x)
    np.testing.assert_allclose(outputs, expected, atol=2e-5)
    np.testing.assert_allclose(head.score(outputs), SCORES[config.kind](expected), atol=1e-5)
    assert np.ptp(head.score(outputs)) > 0.05
    if config.kind == "validity":
        np.testing.assert_allclose(head.redundancy(outputs), softmax(expected)[..., 1], atol=1e-5)
    else:
        with pytest.raises(InputError, match="field 'kind' = .*: gives no redundancy"):
            head.redundancy(outputs)
    if config.kind == "quantile":
        np.testing.assert_allclose(head.quantiles(outputs), sigmoid(np.sort(expected, -1)), atol=1e-5)
    else:
        with pytest.raises(InputError, match="field 'kind' = .*: gives no quantiles; a quantile head does"):
            head.quantiles(outputs)


@by_kind
def test_extreme_outputs_stay_numbers(config):
    head = tiny_reward_model(1, config).head
    outputs = jnp.asarray([[3e4] + [-3e4] * (config.outputs - 1), [-3e4] * (config.outputs - 1) + [3e4]])
    scores, gradient = jax.jit(jax.value_and_grad(lambda y: head.score(y).sum()))(outputs)
    assert jnp.isfinite(scores) and jnp.isfinite(gradient).all()


@pytest.mark.parametrize("config", [head for head in HEADS if head.kind != "lm_rows"], ids=lambda config: config.kind)
def test_a_new_head_is_undecided_and_learns(config):
    """Scores begin at an even 0.5 (0 where the scale is centred there, 2/3 for two good labels of three). Rows of the language
    model have no parameters of their own: they begin with its opinion."""
    head = jax.jit(lambda: RewardModel(tiny_config(), config, rngs=nnx.Rngs(0)).head)()
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 16)), jnp.float32)
    start = {"value": 0.0, "difference": 0.0, "validity": 2 / 3}.get(config.kind, 0.5)
    scores, gradient = jax.jit(jax.vmap(jax.value_and_grad(lambda head, x: head.score(head(x))), (None, 0)))(head, x)
    np.testing.assert_allclose(scores, start, atol=1e-6)
    last = parameters(gradient)["last_kernel" if config.kind == "ensemble" else "kernel"]
    assert np.abs(last).max() > 1e-3
    assert not any(value.any() for value in parameters(StepHead(16, config)).values())


def test_bfloat16_parameters_are_read_in_float32():
    head = tiny_reward_model(1, HeadConfig("mlp", hidden=7)).head
    half = {name: value.astype(jnp.bfloat16) for name, value in parameters(head).items()}
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 16)), jnp.bfloat16)
    found = with_parameters(head, half)(x)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, oracle(head.config, half, np.asarray(x, np.float64)), atol=1e-5)


@pytest.mark.parametrize("values, message", [
    (dict(kind="vote"), "field 'kind' = 'vote': must be one of scalar, binary"),
    (dict(kind="mlp"), "field 'hidden' = 0: must be at least 1"),
    (dict(kind="ensemble", hidden=4), "field 'members' = 0: must be at least 1"),
    (dict(kind="binary", hidden=4), "field 'hidden' = 4: must be 0"),
    (dict(kind="mlp", hidden=4, members=2), "field 'members' = 2: must be 0"),
    (dict(kind="quantile", levels=(0.5, 0.1)), r"field 'levels' = \(0.5, 0.1\): must increase inside \(0, 1\) and hold 0.5"),
    (dict(kind="quantile", levels=(0.1, 0.9)), "must increase"), (dict(kind="quantile", levels=(0.5, 1.0)), "must increase"),
    (dict(kind="scalar", levels=(0.5,)), r"field 'levels' = \(0.5,\): must be left out: a head of kind scalar has none"),
    (dict(kind="binary", beta=1.0), "field 'beta' = 1.0: must be left out"), (dict(kind="two_head", beta=-1.0), "not negative"),
    (dict(kind="lm_rows", rows=(3, 3)), r"field 'rows' = \(3, 3\): must be two token ids"),
    (dict(kind="binary", rows=(3, 4)), "must be left out"), (dict(direction="backward"), "must be one of forward, mean, gate")])
def test_bad_configs_are_refused(values, message, without_type_checks):
    with pytest.raises(InputError, match=message):
        HeadConfig(**values)


def test_defaults_of_heads_are_written_out():
    assert HeadConfig("quantile").levels == (0.1, 0.5, 0.9) and HeadConfig("quantile").outputs == 3
    assert HeadConfig("two_head").beta == 1.0 and HeadConfig("lm_rows").outputs == 2


def test_rows_of_the_language_model_must_exist():
    with pytest.raises(InputError, match=r"field 'rows' = \(3, 20\): must be two of the 20 token ids"):
        RewardModel(tiny_config(), HeadConfig("lm_rows", rows=(3, 20)), rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match="without an output matrix has no such rows; use PolicyRewardModel"):
        RewardModel(tiny_config(tie_embeddings=False), HeadConfig("lm_rows", rows=(3, 4)), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("direction", ["mean", "gate"])
def test_two_directions_are_joined_step_by_step(direction):
    model = tiny_reward_model(2, HeadConfig("binary", direction=direction))
    x = np.random.default_rng(0).standard_normal((1, 5, 16)).astype(np.float32)
    partners = np.array([[4, 3, 2, 1, 0]])
    values = {name: np.asarray(value, np.float64) for name, value in parameters(model.head).items()}
    single = x @ values["kernel"] + values["bias"]
    gate = 0.5
    if direction == "gate":
        gate = sigmoid(np.concatenate([x, x[:, ::-1]], -1) @ values["gate_kernel"] + values["gate_bias"])
        assert np.ptp(gate) > 0.1
    found = model.outputs(jnp.asarray(x), jnp.asarray(partners))
    np.testing.assert_allclose(found, gate * single + (1 - gate) * single[:, ::-1], atol=1e-5)
    with pytest.raises(InputError, match="field 'direction' = .*: reads whole solutions in both directions"):
        model.outputs(jnp.asarray(x))


def test_a_new_gate_is_the_mean():
    new = RewardModel(tiny_config(), HeadConfig("binary", direction="gate"), rngs=nnx.Rngs(0))
    x = jnp.ones((3, 16))
    np.testing.assert_array_equal(new.head.gate(x, -x), np.full((3, 1), 0.5))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head", [HeadConfig("scalar"), HeadConfig("lm_rows", rows=(7, 3))], ids=lambda head: head.kind)
def test_a_policy_that_is_its_own_reward_model(tied, head):
    """One decoder: the same hidden states give the language model's logits and the step's outputs."""
    config = tiny_config(tie_embeddings=tied, logit_softcap=3.0)
    model = random_model(lambda: PolicyRewardModel(config, head, rngs=nnx.Rngs(0)), 4)
    names = parameters(model).keys()
    assert ("unembedding" in names) is not tied
    policy = model.policy()
    assert isinstance(policy, LanguageModel) and policy.backbone.embedding is model.backbone.embedding
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 16)), jnp.float32)
    predicted = np.asarray(logits(policy, x))
    np.testing.assert_allclose(predicted, 3 * np.tanh(x @ np.asarray(model.output_matrix()) / 3), atol=1e-5)
    if head.kind == "lm_rows":  # its outputs are two of these logits
        np.testing.assert_allclose(model.outputs(x), predicted[..., [7, 3]], atol=1e-5)
        gradient = parameters(jax.grad(lambda model: model.outputs(x).sum())(model))
        touched = gradient["backbone.embedding"].any(1) if tied else gradient["unembedding"].any(0)
        assert np.flatnonzero(touched).tolist() == [3, 7]


def _mlp(tensors):
    return HeadConfig("mlp", hidden=tensors["score.0.weight"].shape[0]), {
        "head.hidden_kernel": tensors["score.0.weight"].T, "head.hidden_bias": tensors["score.0.bias"],
        "head.kernel": tensors["score.2.weight"].T, "head.bias": tensors["score.2.bias"]}


def _ensemble(tensors):
    members, _, hidden = tensors["score.model.nn1.weight"].shape
    layers = {"first": "nn1", "second": "nn2", "last": "nn_out"}
    return HeadConfig("ensemble", hidden, members), {
        f"head.{ours}_{part}": tensors[f"score.model.{theirs}.{name}"]
        for ours, theirs in layers.items() for part, name in (("kernel", "weight"), ("bias", "bias"))}


@pytest.mark.parametrize("name, read_head", [("qwen_math_prm", _mlp), ("actprm", _ensemble)])
def test_heads_of_published_models(shared, published, name, read_head):
    directory = shared / "fixtures/hf/prm" / name
    if not directory.is_dir():
        pytest.skip("no such fixture")
    expected = json.loads((directory / "expected.json").read_text())
    tensors = published.tensors(directory)
    head, values = read_head(tensors)
    config = published.config(directory)
    model = jax.eval_shape(lambda: RewardModel(config, head, rngs=nnx.Rngs(0)))
    values |= published.convert(tensors, {name: value.shape for name, value in parameters(model).items()})
    model = with_parameters(model, {name: jnp.asarray(value) for name, value in values.items()})

    rows = expected["rows"]
    size = max(len(row["input_ids"]) for row in rows)
    tokens, segments = np.zeros((2, len(rows), size), np.int32)
    for index, row in enumerate(rows):
        tokens[index, : len(row["input_ids"])], segments[index, : len(row["input_ids"])] = row["input_ids"], 1
    positions = np.broadcast_to(np.arange(size, dtype=np.int32), tokens.shape)
    hidden = jax.jit(forward)(model.backbone, jnp.asarray(tokens), jnp.asarray(positions), jnp.asarray(segments))
    assert sum(len(row["positions"]) for row in rows) > 20
    for index, row in enumerate(rows):
        outputs = model.head(hidden[index, np.asarray(row["positions"])])
        np.testing.assert_allclose(outputs, row["logits"], atol=1e-4)
        np.testing.assert_allclose(model.head.score(outputs), row["scores"], atol=5e-5)
