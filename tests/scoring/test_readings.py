"""Implicit models of our own and heads that read in two directions: one score per step, equal to the oracle's."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from jaxprm.errors import InputError
from jaxprm.models import HeadConfig, LanguageModel, RewardModel, parameters
from jaxprm.records import Problem, Solution
from jaxprm.scoring import score_steps
from jaxprm.scoring.implicit import ImplicitModel, step_log_probs
from jaxprm.scoring.scorer import StepScorer
from jaxprm.steps import StepBatch, StepEncoder, StepFormat, train_sentencepiece
from jaxprm.testing import pack_solutions, random_solutions, tiny_config, tiny_language_model
from jaxprm.testing.models import random_model
from jaxprm.testing.oracles import decoder_hidden, next_token_logits

TEXT = ["What is 3 + 4 ? It is 7 because 3 + 4 = 7 .", "Then 7 * 2 = 14 and so on .", "So the answer is 14 ."]
SOLUTIONS = [Solution(Problem("p", "What is 3 + 4 ?"), ("It is 7 .", "7 * 2 = 14", "So 14 .")),
             Solution(Problem("q", "What is 14 * 2 ?"), ("so on",))]


@pytest.fixture(scope="module")
def encoder():
    return StepEncoder(StepFormat(separator="<step>"), train_sentencepiece(TEXT, 300, symbols=("<step>",)))


def config_for(encoder):
    return tiny_config(vocab_size=encoder.tokenizer.vocab_size)


def log_probs(model, ids):
    """Of each token given those before it; 0 for the first."""
    logits = next_token_logits(model.config, parameters(model), ids)
    table = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.array([0.0] + [table[place - 1, ids[place]] for place in range(1, len(ids))])


def test_sums_of_log_probabilities_per_step_do_not_depend_on_packing():
    solutions = random_solutions(1, 6)
    starts = [np.array([end + 1 for end in (0, *solution.step_ends[:-1])]) for solution in solutions]
    model = tiny_language_model(3)
    batch = pack_solutions(solutions, 3, 64, 16)
    columns, row, step, token = np.zeros(batch.step_ends.shape, np.int32), 0, 0, 0
    expected = np.zeros(batch.step_ends.shape)
    for index, (solution, begins) in enumerate(zip(solutions, starts)):
        if index % 3 == 0:
            row, step, token = index // 3, 0, 0
        values = log_probs(model, solution.ids)
        for begin, end in zip(begins, solution.step_ends):
            columns[row, step], expected[row, step] = token + begin, values[begin : end + 1].sum()
            step += 1
        token += len(solution.ids)
    found = jax.jit(step_log_probs)(model, dataclasses.replace(batch, step_starts=columns))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    with pytest.raises(InputError, match="field 'step_starts': is missing"):
        step_log_probs(model, batch)


def test_an_implicit_model_of_our_own_counts_from_the_first_step(encoder):
    models = [random_model(lambda: LanguageModel(config_for(encoder), rngs=nnx.Rngs(0)), seed) for seed in (1, 2)]
    scores = StepScorer(ImplicitModel(*models, coefficient=0.1), encoder).score(SOLUTIONS)
    for solution, found in zip(SOLUTIONS, scores):
        ids, ends = encoder.encode(solution.problem.prompt, solution.steps)
        ratios = log_probs(models[0], ids) - log_probs(models[1], ids)
        first = len(encoder.encode_prompt(solution.problem.prompt))
        np.testing.assert_allclose(found, [0.1 * ratios[first : end + 1].sum() for end in ends], atol=1e-4)


@pytest.mark.parametrize("direction", ["mean", "gate"])
def test_two_directions_read_the_solution_and_its_reverse(encoder, direction):
    head = HeadConfig("scalar", direction=direction)
    model = random_model(lambda: RewardModel(config_for(encoder), head, rngs=nnx.Rngs(0)), 5)
    values = {name: np.asarray(value, np.float64) for name, value in parameters(model).items()}
    scores = StepScorer(model, encoder, batch_tokens=256).score(SOLUTIONS)
    for solution, found in zip(SOLUTIONS, scores):
        hidden = []
        for steps in (solution.steps, solution.steps[::-1]):
            ids, ends = encoder.encode(solution.problem.prompt, steps)
            hidden.append(decoder_hidden(model.config, values, ids)[ends])
        forward, backward = hidden[0], hidden[1][::-1]
        gate = 0.5
        if direction == "gate":
            both = np.concatenate([forward, backward], axis=1)
            gate = 1 / (1 + np.exp(-(both @ values["head.gate_kernel"] + values["head.gate_bias"])[:, 0]))
        outputs = [(side @ values["head.kernel"] + values["head.bias"])[:, 0] for side in (forward, backward)]
        expected = 1 / (1 + np.exp(-(gate * outputs[0] + (1 - gate) * outputs[1])))
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_reading_is_as_long_as_its_longer_half(encoder):
    config = config_for(encoder)
    ids, _ = encoder.encode(SOLUTIONS[0].problem.prompt, SOLUTIONS[0].steps)
    model = random_model(lambda: RewardModel(dataclasses.replace(config, context=len(ids)),
                                             HeadConfig("scalar", direction="mean"), rngs=nnx.Rngs(0)), 5)
    assert len(StepScorer(model, encoder).score(SOLUTIONS[:1])[0]) == 3
    short = random_model(lambda: RewardModel(dataclasses.replace(config, context=len(ids) - 1),
                                             HeadConfig("scalar", direction="mean"), rngs=nnx.Rngs(0)), 5)
    with pytest.raises(InputError, match=f"needs {len(ids)} tokens, the model's context is {len(ids) - 1}"):
        StepScorer(short, encoder).score(SOLUTIONS[:1])


def test_a_forward_batch_is_refused_by_two_directions(encoder):
    model = random_model(lambda: RewardModel(tiny_config(), HeadConfig("scalar", direction="mean"), rngs=nnx.Rngs(0)), 5)
    batch: StepBatch = pack_solutions(random_solutions(0, 2), 1, 40, 6)
    with pytest.raises(InputError, match="reads whole solutions in both directions"):
        jax.jit(score_steps)(model, batch)
