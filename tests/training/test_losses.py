"""Batches of the data pipeline to losses: the worked examples against the oracle."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprm.data.examples import language_model_example, step_example
from jaxprm.data.pipeline import LanguageModelDataset, StepDataset
from jaxprm.errors import InputError
from jaxprm.models import HeadConfig, RewardModel, parameters, with_parameters
from jaxprm.objectives import binary_cross_entropy, pqm_ranking
from jaxprm.testing import random_solutions, tiny_config, tiny_language_model, tiny_reward_model
from jaxprm.testing.oracles import decoder_hidden, next_token_logits
from jaxprm.training import implicit_loss, language_model_loss, step_loss, token_loss

SOLUTIONS = random_solutions(3, 5)


@pytest.mark.parametrize("cap", [None, 2.0])
def test_language_model_loss_is_the_mean_over_completions(cap):
    examples = [language_model_example(s.ids[:2], s.ids[2:]) for s in SOLUTIONS]
    (batch,) = LanguageModelDataset(examples, row_tokens=64, batch_rows=2, seed=None, epochs=1)
    model = tiny_language_model(0, tiny_config(logit_softcap=cap))
    loss = jax.jit(language_model_loss)(model, batch)
    terms = []
    for solution in SOLUTIONS:
        logits = next_token_logits(model.config, parameters(model), solution.ids)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        terms += [-log_probs[t - 1, solution.ids[t]] for t in range(2, len(solution.ids))]
    assert loss.weight == len(terms)
    np.testing.assert_allclose(loss.mean(), np.mean(terms), rtol=1e-5)


def packed():
    (batch,) = StepDataset([step_example(s.ids, s.step_ends, s.labels, weight=1.0 + i) for i, s in enumerate(SOLUTIONS)],
                           row_tokens=64, row_steps=20, batch_rows=2, seed=None, epochs=1)
    return batch


def test_step_loss_is_the_weighted_mean_over_judged_steps():
    model = tiny_reward_model(1)
    loss = jax.jit(step_loss(binary_cross_entropy))(model, packed())
    values = parameters(model)
    terms, weights = [], []
    for index, solution in enumerate(SOLUTIONS):
        hidden = decoder_hidden(model.config, values, solution.ids)[list(solution.step_ends)]
        logits = hidden @ np.asarray(values["head.kernel"])[:, 0] + np.asarray(values["head.bias"])[0]
        for logit, label in zip(logits, solution.labels):
            if label is not None:
                terms.append(np.log1p(np.exp(-logit if label else logit)))
                weights.append(1.0 + index)
    np.testing.assert_allclose(loss.weight, np.sum(weights))
    np.testing.assert_allclose(loss.mean(), np.average(terms, weights=weights), rtol=1e-4)


def test_token_loss_adds_the_language_model_on_right_tokens():
    prompt = 2
    labelled = [(s, [float(t % 3 > 0) for t in range(prompt, len(s.ids))]) for s in SOLUTIONS]
    examples = [step_example(s.ids, range(prompt, len(s.ids)), labels) for s, labels in labelled]
    (batch,) = StepDataset(examples, row_tokens=64, row_steps=64, batch_rows=2, seed=None, epochs=1)
    model = tiny_reward_model(1)
    plain, joint = (jax.jit(loss)(model, batch) for loss in (step_loss(binary_cross_entropy),
                                                             token_loss(binary_cross_entropy, 0.5)))
    terms = []
    for solution, labels in labelled:
        logits = next_token_logits(model.config, parameters(model), solution.ids)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        terms += [-log_probs[t - 1, solution.ids[t]] for t, label in enumerate(labels, prompt) if label > 0.5]
    assert joint.weight == plain.weight == sum(len(labels) for _, labels in labelled)
    np.testing.assert_allclose(joint.total, plain.total + 0.5 * np.sum(terms), rtol=1e-5)
    np.testing.assert_allclose(joint.metric_means()["language_model"], np.mean(terms), rtol=1e-5)


def test_token_loss_needs_an_embedding_table_to_read_from():
    with pytest.raises(InputError, match="language_model.*must not be negative"):
        token_loss(binary_cross_entropy, -1.0)
    untied = RewardModel(dataclasses.replace(tiny_reward_model(1).config, tie_embeddings=False), HeadConfig(), rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match="tie_embeddings"):
        jax.jit(token_loss(binary_cross_entropy, 1.0))(untied, packed())


def test_hyperparameters_and_segments_reach_the_objective():
    """PQM ranks within a solution: packed rows need their segments, and zeta is its margin."""
    model = tiny_reward_model(1, "ranking")
    batch = packed()
    judged = {i for i, s in enumerate(SOLUTIONS) if any(label is not None for label in s.labels)}
    losses = {zeta: jax.jit(step_loss(pqm_ranking, zeta=zeta))(model, batch) for zeta in (0.0, 4.0)}
    np.testing.assert_allclose(losses[0.0].weight, sum(1.0 + i for i in judged))
    assert losses[4.0].mean() > losses[0.0].mean()


def steps_with(**columns):
    """The packed batch with more columns; a column is drawn from a function of the number of steps."""
    examples = []
    for index, s in enumerate(SOLUTIONS):
        more = {name: draw(index, len(s.step_ends)) for name, draw in columns.items()}
        examples.append(step_example(s.ids, s.step_ends, s.labels) | more)
    (batch,) = StepDataset(examples, row_tokens=64, row_steps=20, batch_rows=2, seed=None, epochs=1)
    return batch


def starts(index, count):
    ends = SOLUTIONS[index].step_ends
    return np.array([2, *(end + 1 for end in ends[:-1])], np.int32) if ends[0] >= 2 else np.array([1, *(
        end + 1 for end in ends[:-1])], np.int32)


def test_a_language_model_beside_any_step_objective():
    """The tokens of right steps, each step's separator included, from the same hidden states."""
    model, batch = tiny_reward_model(1), steps_with(step_starts=starts)
    plain, joint = (jax.jit(loss)(model, batch) for loss in (step_loss(binary_cross_entropy),
                                                             step_loss(binary_cross_entropy, language_model=0.5)))
    terms = []
    for index, s in enumerate(SOLUTIONS):
        logits = next_token_logits(model.config, parameters(model), s.ids)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for start, end, label in zip(starts(index, 0), s.step_ends, s.labels):
            if label == 1.0:
                terms += [-log_probs[t - 1, s.ids[t]] for t in range(start, end + 1)]
    assert len(terms) > 5 and joint.weight == plain.weight
    np.testing.assert_allclose(joint.total, plain.total + 0.5 * np.sum(terms), rtol=1e-5)
    with pytest.raises(InputError, match="field 'step_starts': is missing in the batch"):
        jax.jit(step_loss(binary_cross_entropy, language_model=0.5))(model, packed())
    with pytest.raises(InputError, match="field 'value_weight' = -1.0: must not be negative"):
        step_loss(binary_cross_entropy, value_weight=-1.0)


def test_reward_and_value_have_labels_of_their_own():
    rng = np.random.default_rng(0)
    batch = steps_with(values=lambda index, count: rng.random(count).astype(np.float32))
    model = tiny_reward_model(1, HeadConfig("two_head"))
    found = jax.jit(step_loss(binary_cross_entropy, value_weight=0.25))(model, batch)
    hidden = [tiny_reward_model(1, HeadConfig("scalar")) for _ in range(2)]
    parts = []
    for column, (labels, base) in enumerate(((batch["labels"], hidden[0]), (batch["values"], hidden[1]))):
        values = parameters(model)
        single = with_parameters(base, {name: value[..., [column]] if name.startswith("head.") else value
                                        for name, value in values.items()})
        parts.append(jax.jit(step_loss(binary_cross_entropy))(single, {**batch, "labels": labels}))
    np.testing.assert_allclose(found.total, parts[0].total + 0.25 * parts[1].total, rtol=1e-5)
    assert found.weight == parts[0].weight and {"accuracy", "value_accuracy"} <= found.metrics.keys()
    with pytest.raises(InputError, match="field 'values': is missing in the batch"):
        jax.jit(step_loss(binary_cross_entropy, value_weight=1.0))(model, packed())


def test_groups_reach_objectives_that_take_them():
    seen = []

    def compares(outputs, labels, mask, *, weights=None, segments=None, groups=None):
        seen.append(groups)
        return binary_cross_entropy(outputs, labels, mask, weights=weights, segments=segments)

    batch = steps_with(groups=lambda index, count: np.full(count, index % 2, np.int32))
    model = tiny_reward_model(1)
    for each in (batch, packed()):
        jax.jit(step_loss(compares))(model, each)
    assert seen[0].shape == batch["groups"].shape and seen[1] is None
    assert jnp.isfinite(jax.jit(step_loss(binary_cross_entropy))(model, batch).total)


def test_the_distance_to_an_anchor():
    model = tiny_reward_model(1)
    head = {name: value for name, value in parameters(model).items() if name.startswith("head.")}

    def held(outputs, labels, mask, *, weights=None, segments=None, distance=0.0):
        loss = binary_cross_entropy(outputs, labels, mask, weights=weights, segments=segments)
        return dataclasses.replace(loss, total=loss.total + distance)

    plain = jax.jit(step_loss(binary_cross_entropy))(model, packed())
    near = jax.jit(step_loss(held, anchor=head))(model, packed())
    far = jax.jit(step_loss(held, anchor={name: value + 0.5 for name, value in head.items()}))(model, packed())
    np.testing.assert_allclose(near.total, plain.total, rtol=1e-6)
    np.testing.assert_allclose(far.total - plain.total, 0.25 * sum(value.size for value in head.values()), rtol=1e-4)


def test_less_of_the_gradient_reaches_the_backbone():
    """Loss and gradient of the head stay; that of the backbone shrinks, but for the language model's own."""
    model, batch = tiny_reward_model(1), steps_with(step_starts=starts)

    @functools.partial(jax.jit, static_argnums=(2, 3))
    def gradient(model, batch, factor, words):
        loss = step_loss(binary_cross_entropy, backbone_gradient=factor, language_model=words)
        value, found = jax.value_and_grad(lambda model: loss(model, batch).total)(model)
        return value, parameters(found)

    (value, whole), (same, less) = gradient(model, batch, 1.0, 0.0), gradient(model, batch, 0.25, 0.0)
    assert value == same
    for name, found in whole.items():
        np.testing.assert_allclose(less[name], found * (1 if name.startswith("head.") else 0.25), rtol=1e-5, atol=1e-6)
    _, words = gradient(model, batch, 0.0, 0.5)
    _, both = gradient(model, batch, 1.0, 0.5)
    for name, found in both.items():
        alone = 0 if name.startswith("head.") else whole[name]
        np.testing.assert_allclose(words[name], found - alone, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="field 'backbone_gradient' = 2.0: must be in"):
        step_loss(binary_cross_entropy, backbone_gradient=2.0)


def test_implicit_outputs_are_log_ratios_of_steps():
    batch = steps_with(step_starts=starts, reference=lambda index, count: np.full(count, -3.0 - index, np.float32))
    seen = {}

    def keep(outputs, labels, mask, *, weights=None, segments=None):
        seen["outputs"] = outputs[..., 0]
        return binary_cross_entropy(outputs, labels, mask, weights=weights, segments=segments)

    model = tiny_language_model(2)

    def outputs(model, batch):
        implicit_loss(keep)(model, batch)
        return seen["outputs"]

    found = np.asarray(jax.jit(outputs)(model, batch))[batch["step_mask"]]
    expected = []
    rows = {tuple(s.ids): index for index, s in enumerate(SOLUTIONS)}
    for row in range(2):
        for segment in range(1, batch["segment_ids"][row].max() + 1):
            index = rows[tuple(batch["tokens"][row][batch["segment_ids"][row] == segment].tolist())]
            s = SOLUTIONS[index]
            logits = next_token_logits(model.config, parameters(model), s.ids)
            log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            expected += [sum(log_probs[t - 1, s.ids[t]] for t in range(start, end + 1)) + 3 + index
                         for start, end in zip(starts(index, 0), s.step_ends)]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    mean = lambda model, batch: implicit_loss(binary_cross_entropy)(model, batch).mean()
    gradient = parameters(jax.jit(jax.grad(mean))(model, batch))
    assert all(np.isfinite(value).all() and np.abs(value).max() > 0 for value in gradient.values())
    with pytest.raises(InputError, match="field 'reference': is missing in the batch"):
        jax.jit(implicit_loss(binary_cross_entropy))(model, steps_with(step_starts=starts))
