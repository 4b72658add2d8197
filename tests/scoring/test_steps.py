"""Full scoring: packing, padding, batches, order, and that the position learnt is the position read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.models import parameters, with_parameters
from jaxprm.objectives import binary_cross_entropy, pqm_ranking
from jaxprm.scoring import StepScorer, gather_steps, score_steps, step_outputs
from jaxprm.steps import StepEncoder, StepFormat
from jaxprm.testing import EncodedSolution, pack_solutions, random_solutions, tiny_config, tiny_reward_model, word_tokenizer
from jaxprm.testing.oracles import decoder_hidden
from jaxprm.training import OptimizerConfig, initial_state, make_train_step, step_loss

run_scores, run_outputs = jax.jit(score_steps), jax.jit(step_outputs)
TOKENS, STEPS = 64, 8


@pytest.fixture(scope="module")
def model():
    return tiny_reward_model(0)


@pytest.fixture(scope="module")
def solutions():
    return random_solutions(1, 12, steps=(1, 2))


def per_solution(solutions, values, per_row):
    """[B, S] of a packed batch -> one array per solution."""
    found = []
    for start in range(0, len(solutions), per_row):
        at = 0
        for solution in solutions[start : start + per_row]:
            count = len(solution.step_ends)
            found.append(np.asarray(values)[start // per_row, at : at + count])
            at += count
    return found


def assert_all_close(found, expected, **tolerance):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, **tolerance)


def test_gather_steps_worked_example():
    hidden = jnp.arange(12.0).reshape(1, 6, 2)
    np.testing.assert_array_equal(gather_steps(hidden, jnp.asarray([[3, 5]])), [[[6, 7], [10, 11]]])


@pytest.mark.parametrize("head", ["scalar", "binary", "ranking"])
def test_scores_equal_the_float64_oracle(head, solutions):
    model = tiny_reward_model(2, head)
    batch = pack_solutions(solutions[:3], 1, TOKENS, STEPS, rows=12)
    scores, outputs = run_scores(model, batch), run_outputs(model, batch)
    kernel, bias = (np.asarray(parameters(model)[name], np.float64) for name in ("head.kernel", "head.bias"))
    for row, solution in enumerate(solutions[:3]):
        hidden = decoder_hidden(model.config, parameters(model), solution.ids)
        expected = hidden[list(solution.step_ends)] @ kernel + bias
        count = len(expected)
        np.testing.assert_allclose(outputs[row, :count], expected, atol=1e-4)
        logit = expected[:, 1] - expected[:, 0] if head == "binary" else expected[:, 0]
        np.testing.assert_allclose(scores[row, :count], 1 / (1 + np.exp(-logit)), atol=1e-5)
    assert (np.asarray(scores)[~batch.step_mask] == 0).all() and outputs.shape[-1] == (2 if head == "binary" else 1)


def test_packed_equals_unpacked(model, solutions):
    alone = per_solution(solutions, run_scores(model, pack_solutions(solutions, 1, TOKENS, STEPS)), 1)
    packed = per_solution(solutions, run_scores(model, pack_solutions(solutions, 4, TOKENS, STEPS, rows=12)), 4)
    assert_all_close(packed, alone, atol=1e-6)
    assert np.std(np.concatenate(alone)) > 0.05


@pytest.mark.parametrize("objective", [binary_cross_entropy, pqm_ranking])
def test_packed_loss_and_gradient_equal_unpacked(objective, model, solutions):
    @jax.jit
    def loss_and_gradient(values, batch):
        mean = lambda values: step_loss(objective)(with_parameters(model, values), batch).mean()  # noqa: E731
        return jax.value_and_grad(mean)(values)

    one, other = (loss_and_gradient(parameters(model), pack_solutions(solutions, per_row, TOKENS, STEPS, rows=12).arrays())
                  for per_row in (1, 4))
    np.testing.assert_allclose(one[0], other[0], rtol=1e-6)
    for name, value in one[1].items():
        np.testing.assert_allclose(value, other[1][name], atol=1e-6, err_msg=name)


def test_padding_and_its_content_change_nothing(model, solutions):
    batch = pack_solutions(solutions, 1, TOKENS, STEPS)
    expected = np.asarray(run_scores(model, batch))
    noise = np.random.default_rng(0).integers(1, 20, batch.tokens.shape).astype(np.int32)
    padding = batch.segment_ids == 0
    dirty = dataclasses.replace(batch, tokens=np.where(padding, noise, batch.tokens),
                                positions=np.where(padding, noise, batch.positions),
                                step_ends=np.where(batch.step_mask, batch.step_ends, 5))
    np.testing.assert_array_equal(run_scores(model, dirty), expected)
    wider = run_scores(model, pack_solutions(solutions, 1, 40, 3))
    assert_all_close(per_solution(solutions, wider, 1), per_solution(solutions, expected, 1), atol=1e-6)


def test_batch_equals_single_in_any_order(model, solutions):
    batch = run_scores(model, pack_solutions(solutions, 1, TOKENS, STEPS))
    single = [run_scores(model, pack_solutions([solution], 1, TOKENS, STEPS)) for solution in solutions]
    expected = per_solution(solutions, batch, 1)
    assert_all_close([per_solution([s], v, 1)[0] for s, v in zip(solutions, single)], expected, atol=1e-6)
    order = np.random.default_rng(1).permutation(len(solutions))
    shuffled = run_scores(model, pack_solutions([solutions[i] for i in order], 1, TOKENS, STEPS))
    assert_all_close(per_solution([solutions[i] for i in order], shuffled, 1), [expected[i] for i in order], atol=1e-6)


def test_a_score_does_not_depend_on_later_steps(model, solutions):
    solution = next(s for s in solutions if len(s.step_ends) == 2)
    cut = dataclasses.replace(solution, ids=solution.ids[: solution.step_ends[0] + 1], step_ends=solution.step_ends[:1],
                              labels=solution.labels[:1])
    whole, part = (run_scores(model, pack_solutions([s], 1, TOKENS, STEPS))[0, 0] for s in (solution, cut))
    np.testing.assert_allclose(whole, part, atol=1e-6)


def test_gradient_reaches_hidden_states_exactly_at_labelled_step_ends(model, solutions):
    batch = pack_solutions(solutions, 4, TOKENS, STEPS)

    def loss(hidden):
        outputs = model.head(gather_steps(hidden, jnp.asarray(batch.step_ends)))
        return binary_cross_entropy(outputs, *map(jnp.asarray, (batch.labels, batch.label_mask))).mean()

    hidden = jnp.asarray(np.random.default_rng(2).standard_normal((*batch.tokens.shape, 16)), jnp.float32)
    touched = np.abs(jax.grad(loss)(hidden)).max(-1) > 0
    expected = np.zeros_like(touched)
    rows, steps = np.nonzero(batch.label_mask)
    expected[rows, batch.step_ends[rows, steps]] = True
    np.testing.assert_array_equal(touched, expected)


WORDS = word_tokenizer([f"w{i}" for i in range(8)])


@pytest.mark.parametrize("readout", ["at", "before"])
def test_the_position_learnt_is_the_position_read(readout):
    """Label = whether a step's last word is one of four. A scorer that read one token off would be at chance on the separator
    of readout "before", and on the word of readout "at"."""
    encoder = StepEncoder(StepFormat(readout=readout), WORDS)
    rng = np.random.default_rng(3)

    def sample(count):
        texts = [[" ".join(f"w{i}" for i in rng.integers(0, 8, rng.integers(1, 4))) for _ in range(rng.integers(1, 5))]
                 for _ in range(count)]
        return texts, [[float(int(step[-1]) < 4) for step in steps] for steps in texts]

    def batch_of(texts, labels, shift=0):
        encoded = [encoder.encode("w0", steps) for steps in texts]
        return pack_solutions([EncodedSolution(tuple(ids), tuple(end + shift for end in ends), tuple(values))
                               for (ids, ends), values in zip(encoded, labels)], 1, 24, 4)

    model = tiny_reward_model(4, config=tiny_config(vocab_size=WORDS.vocab_size, layers=1))
    optimizer = OptimizerConfig(learning_rate=0.02, final_rate=1.0).build(60)
    state, train_step = initial_state(model, optimizer), make_train_step(model, step_loss(binary_cross_entropy), optimizer)
    for _ in range(60):
        state, metrics = train_step(state, batch_of(*sample(32)).arrays())
    trained = with_parameters(model, state.parameters)
    texts, labels = sample(40)
    scorer = StepScorer(trained, encoder, batch_tokens=64)
    scores = scorer.score_ids([encoder.encode("w0", steps) for steps in texts])
    right = np.concatenate([(s > 0.5) == np.array(v, bool) for s, v in zip(scores, labels)])
    assert right.mean() > 0.97
    shift = 1 if readout == "before" else -1
    elsewhere = batch_of(texts, labels, shift)
    off = np.asarray(run_scores(trained, elsewhere))[elsewhere.step_mask]
    at = np.concatenate(scores)
    assert np.mean(np.abs(off - at) > 0.1) > 0.2  # another token has another score

