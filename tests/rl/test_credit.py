import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.rl.credit import min_form, min_form_rewards, outcome, return_to_go, strict_min_form, sum_form

GOLDEN = [0.9, 0.8, -0.3, 0.6]


def rows(*values):
    """Ragged rows as padded arrays; what is outside the mask is not a number."""
    width = max(map(len, values)) + 1
    rewards = np.full((len(values), width), np.nan, np.float32)
    for row, value in zip(rewards, values):
        row[: len(value)] = value
    return jnp.asarray(rewards), jnp.asarray(~np.isnan(rewards))


@pytest.mark.parametrize("gamma, expected", [(1.0, [2.0, 1.1, 0.3, 0.6]), (0.5, [1.3, 0.8, 0.0, 0.6])])
def test_sum_form_by_hand(gamma, expected):
    rewards, mask = rows(GOLDEN, [], [0.5])
    returns = sum_form(rewards, mask, gamma=gamma)
    np.testing.assert_allclose(returns, [expected + [0], [0] * 5, [0.5, 0, 0, 0, 0]], atol=1e-6)
    np.testing.assert_array_equal(returns, return_to_go(rewards, mask, gamma=gamma))


def test_steps_outside_the_mask_are_skipped_not_discounted():
    rewards, mask = jnp.array([[1.0, 7.0, 2.0]]), jnp.array([[True, False, True]])
    np.testing.assert_allclose(sum_form(rewards, mask, gamma=0.5), [[2.0, 0.0, 2.0]])
    np.testing.assert_allclose(strict_min_form(jnp.array([[3.0, -7.0, 2.0]]), mask), [[2.0, 0.0, 2.0]])


def test_min_form_golden_numbers():
    rewards, mask = rows(GOLDEN)
    for temperature, weights, total in [(0.1, [6.1e-6, 1.67e-5, 0.999854, 1.234e-4], -0.299863),
                                        (1.0, [0.147598, 0.163121, 0.490044, 0.199237], 0.235865)]:
        weighted = min_form_rewards(rewards, mask, temperature=temperature)
        np.testing.assert_allclose(weighted[0, :4] / rewards[0, :4], weights, rtol=1e-2, atol=1e-6)
        np.testing.assert_allclose(weighted.sum(), total, atol=1e-5)
        np.testing.assert_allclose(min_form(rewards, mask, temperature=temperature)[0, 0], total, atol=1e-5)


def test_min_form_is_the_return_to_go_of_its_weighted_rewards():
    rewards, mask = rows(GOLDEN, [0.2, 0.1])
    expected = return_to_go(min_form_rewards(rewards, mask, temperature=0.3), mask, gamma=0.9)
    np.testing.assert_array_equal(min_form(rewards, mask, temperature=0.3, gamma=0.9), expected)


def test_min_form_tends_to_the_min_and_to_the_mean():
    rewards, mask = rows(GOLDEN)
    np.testing.assert_allclose(min_form_rewards(rewards, mask, temperature=0.005).sum(), -0.3, atol=1e-6)
    np.testing.assert_allclose(min_form_rewards(rewards, mask, temperature=1e4).sum(), np.mean(GOLDEN), atol=1e-4)


def test_more_good_steps_raise_the_sum_but_not_the_min():
    short, long = rows([0.9, -0.3], [0.9] * 9 + [-0.3])
    assert sum_form(short, long)[1, 0] > sum_form(short, long)[0, 0] + 6
    np.testing.assert_allclose(*min_form(short, long)[:, 0], atol=1e-3)
    np.testing.assert_allclose(strict_min_form(short, long)[:, 0], -0.3)


def test_strict_min_form_golden_numbers():
    rewards, mask = rows(GOLDEN, [0.9, 0.8], [])
    expected = [[-0.3, -0.3, -0.3, 0.6, 0], [0.8, 0.8, 0, 0, 0], [0] * 5]
    np.testing.assert_allclose(strict_min_form(rewards, mask), expected, rtol=1e-6)


@pytest.mark.parametrize("gamma, expected", [(1.0, [[1, 1, 1, 0], [-1, 0, 0, 0], [0, 0, 0, 0]]),
                                             (0.5, [[0.25, 0.5, 1, 0], [-1, 0, 0, 0], [0, 0, 0, 0]])])
def test_outcome_stands_at_the_last_step(gamma, expected):
    _, mask = rows([0.0] * 3, [0.0], [])
    np.testing.assert_allclose(outcome(jnp.array([1.0, -1.0, 1.0]), mask, gamma=gamma), expected)


@pytest.mark.parametrize("credit", [sum_form, min_form, strict_min_form])
def test_padding_changes_nothing_and_jit_agrees(credit):
    rng = np.random.default_rng(0)
    rewards, mask = jnp.float32(rng.uniform(-1, 1, (4, 5))), jnp.asarray(np.arange(5) < rng.integers(1, 6, (4, 1)))
    returns = credit(rewards, mask)
    more = ((0, 2), (0, 3))
    padded = jax.jit(credit)(jnp.pad(rewards, more, constant_values=jnp.nan), jnp.pad(mask, more))
    assert returns.dtype == jnp.float32
    np.testing.assert_allclose(padded[:4, :5], returns, rtol=1e-6, atol=1e-7)
    assert (padded[4:] == 0).all() and (padded[:, 5:] == 0).all()


def test_extreme_rewards_stay_finite():
    rewards, mask = rows([1e4, -1e4, 0.0])
    np.testing.assert_allclose(min_form(rewards, mask), [[-1e4, -1e4, 0, 0]], atol=1e-3)


def test_bad_input_raises():
    rewards, mask = rows(GOLDEN)
    with pytest.raises(TypeError, match="bfloat16"):
        sum_form(rewards.astype(jnp.bfloat16), mask)
    with pytest.raises(ValueError, match="temperature"):
        min_form(rewards, mask, temperature=0.0)


def test_equals_pure(shared):
    cases = json.loads((shared / "fixtures/golden/pure.json").read_text())["cases"]
    cases = [case for case in cases if case["inputs"]["kind"] == "min_form"]
    assert len(cases) >= 6
    for case in cases:
        outputs, mask = case["outputs"], jnp.array(case["inputs"]["step_mask"])
        rewards = jnp.array(outputs["raw_reward"], jnp.float32)
        weighted = min_form_rewards(rewards, mask, temperature=case["inputs"]["temperature"])
        np.testing.assert_allclose(weighted, outputs["weighted"], atol=1e-5)
        np.testing.assert_allclose(weighted.sum(1), outputs["outcome"], atol=1e-5)


def test_equals_pure_strict_min_where_its_zero_columns_take_no_part(shared):
    """The reference runs over all token columns; with negative step rewards alone its zeros never are the minimum."""
    cases = json.loads((shared / "fixtures/golden/pure.json").read_text())["cases"]
    cases = [case for case in cases if case["id"] == "pure_037"]
    for case in cases:
        rewards = np.array(case["inputs"]["token_level_rewards"])
        response = np.array(case["inputs"]["response_mask"], bool)
        tokens = np.minimum.accumulate(rewards[:, ::-1], axis=1)[:, ::-1] * response
        steps = rewards != 0
        ours = strict_min_form(jnp.float32(rewards), jnp.asarray(steps))
        np.testing.assert_allclose(np.asarray(ours)[steps], tokens[steps], rtol=1e-6)
