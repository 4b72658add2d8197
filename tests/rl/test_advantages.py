import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxprm.rl.advantages import (
    group_normalized,
    group_process_normalized,
    leave_one_out,
    step_leave_one_out,
    step_to_token,
)
from jaxprm.rl.credit import return_to_go


def test_group_normalized_by_hand():
    rewards = jnp.array([1.0, 0, 0, 1, 1, 0, 0, 0])
    third = 3**0.5 / 2
    expected = [third, -third, -third, third, 1.5, -0.5, -0.5, -0.5]
    np.testing.assert_allclose(group_normalized(rewards, 4), expected, rtol=1e-5)
    np.testing.assert_allclose(group_normalized(rewards, 4, ddof=0)[:4], [1, -1, -1, 1], rtol=1e-5)


def test_leave_one_out_by_hand():
    np.testing.assert_allclose(leave_one_out(jnp.array([1.0, 0, 0, 0, 2, 2]), 3), [1, -0.5, -0.5, -2, 1, 1], rtol=1e-6)


@pytest.mark.parametrize("advantage", [group_normalized, leave_one_out])
def test_groups_sum_to_zero_and_do_not_see_each_other(advantage):
    rewards = jnp.float32(np.random.default_rng(0).random(12))
    whole = advantage(rewards, 4)
    assert whole.dtype == jnp.float32
    np.testing.assert_allclose(whole.reshape(3, 4).sum(1), np.zeros(3), atol=1e-5)
    np.testing.assert_allclose(whole[4:8], advantage(rewards[4:8], 4), rtol=1e-6)


@pytest.mark.parametrize("advantage", [group_normalized, leave_one_out])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e6 / 3])
def test_equal_rewards_and_groups_of_one_give_exactly_zero(advantage, value):
    assert (advantage(jnp.full(7, value), 7) == 0).all()
    assert (advantage(jnp.full(3, value), 1) == 0).all()
    mask = jnp.ones((7, 3), bool)
    assert (group_process_normalized(jnp.full((7, 3), value), mask, 7) == 0).all()
    assert (step_leave_one_out(jnp.full((7, 3), value), mask, 1) == 0).all()


def test_process_supervision_golden_numbers():
    rewards, mask = jnp.array([[0.9, 0.2, 0], [0.5, 0.5, 0.8]]), jnp.array([[True, True, False], [True, True, True]])
    zero = [[-0.241747, -1.531064, 0], [0.241747, 0.564076, 0.886405]]
    one = [[-0.216225, -1.369425, 0], [0.216225, 0.504525, 0.792825]]
    np.testing.assert_allclose(group_process_normalized(rewards, mask, 2, ddof=0), zero, atol=2e-5)
    np.testing.assert_allclose(group_process_normalized(rewards, mask, 2), one, atol=2e-5)


def test_step_leave_one_out_by_hand():
    rewards = jnp.array([[0.4, 0.2, 0], [0.6, 0, 0], [-0.3, 0, 0.9]])
    mask = jnp.array([[1, 1, 0], [1, 0, 0], [1, 1, 1]], bool)
    per_step = [0.3, 0.6, 0.2]
    expected = [[0.4 - 0.4, 0.2 - 0.4, 0], [0.6 - 0.25, 0, 0], [-0.3 - 0.45, 0 - 0.45, 0.9 - 0.45]]
    np.testing.assert_allclose(jnp.sum(rewards, 1) / mask.sum(1), per_step, rtol=1e-6)
    np.testing.assert_allclose(step_leave_one_out(rewards, mask, 3), expected, atol=1e-6)


@pytest.mark.parametrize("advantage", [group_process_normalized, step_leave_one_out])
def test_padding_changes_nothing(advantage):
    rng = np.random.default_rng(1)
    rewards, mask = rng.uniform(-1, 1, (6, 4)).astype(np.float32), np.arange(4) < rng.integers(1, 5, (6, 1))
    clean = jax.jit(advantage, static_argnums=2)(jnp.asarray(rewards), jnp.asarray(mask), 3)
    dirty = np.pad(np.where(mask, rewards, np.nan), ((0, 3), (0, 2)), constant_values=np.nan)
    padded = jax.jit(advantage, static_argnums=2)(jnp.asarray(dirty), jnp.pad(jnp.asarray(mask), ((0, 3), (0, 2))), 3)
    np.testing.assert_allclose(padded[:6, :4], clean, rtol=1e-5, atol=1e-6)
    assert (padded[6:] == 0).all() and (padded[:, 4:] == 0).all() and (clean[~mask] == 0).all()


def test_sharded_rows_of_an_explicit_mesh_equal_unsharded():
    rng = np.random.default_rng(2)
    rewards, mask = jnp.float32(rng.uniform(-1, 1, (16, 3))), jnp.asarray(np.arange(3) < rng.integers(1, 4, (16, 1)))
    tokens = jnp.asarray(rng.integers(-1, 3, (16, 5)))

    @jax.jit
    def everything(rewards, mask, tokens):
        outcomes = jnp.max(rewards, axis=1)
        steps = step_leave_one_out(rewards, mask, 2)
        return (group_normalized(outcomes, 2), leave_one_out(outcomes, 2), step_to_token(steps, tokens),
                group_process_normalized(rewards, mask, 2), return_to_go(steps, mask))

    alone = everything(rewards, mask, tokens)
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        spread = everything(*jax.device_put((rewards, mask, tokens), rows))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), spread, alone)


def test_step_to_token():
    advantages = jnp.array([[0.5, -1.0], [2.0, 3.0]])
    tokens = step_to_token(advantages, jnp.array([[-1, 0, 0, 1, -1], [0, 1, 1, 1, -1]]))
    np.testing.assert_array_equal(tokens, [[0, 0.5, 0.5, -1, 0], [2, 3, 3, 3, 0]])


def test_bad_input_raises():
    with pytest.raises(ValueError, match="groups of 2"):
        group_normalized(jnp.zeros(3), 2)
    with pytest.raises(TypeError, match="float16"):
        leave_one_out(jnp.zeros(4, jnp.float16), 2)
    with pytest.raises(TypeError, match="bfloat16"):
        step_to_token(jnp.zeros((1, 2), jnp.bfloat16), jnp.zeros((1, 2), jnp.int32))


def test_equals_verl_for_complete_groups(shared):
    """verl's group of one keeps its raw score; ours is 0, so only groups of equal size above one are compared."""
    cases = json.loads((shared / "fixtures/golden/verl_core_algos.json").read_text())["cases"]
    checked = 0
    for case in cases:
        inputs = case["inputs"]
        if inputs["kind"] != "outcome_advantage":
            continue
        index, mask = np.array(inputs["index"]), np.array(inputs["response_mask"])
        order = np.argsort(index, kind="stable")
        sizes = set(np.unique(index, return_counts=True)[1].tolist())
        if len(sizes) != 1 or sizes == {1}:
            continue
        size = sizes.pop()
        scores = jnp.float32(np.array(inputs["token_level_rewards"]).sum(1)[order])
        for name, ours in [("grpo", group_normalized(scores, size)), ("rloo", leave_one_out(scores, size))]:
            expected = np.array(case["outputs"][name])[order]
            np.testing.assert_allclose(ours[:, None] * mask[order], expected, rtol=1e-4, atol=1e-5)
        checked += 1
    assert checked >= 2


def test_equals_the_step_baseline_of_pure(shared):
    """The reference adds a leave-one-out verifiable reward at the last token; without it its step ends hold our
    values."""
    cases = json.loads((shared / "fixtures/golden/pure.json").read_text())["cases"]
    checked = 0
    for case in cases:
        inputs = case["inputs"]
        if inputs["kind"] != "main_branch" or inputs["reward_baseline"] != "step":
            continue
        size = inputs["n_samples_per_prompt"]
        for experience, baselined in zip(inputs["experiences"], case["outputs"]["baselined_reward"]):
            ends = jnp.array(experience["step_end_mask"])
            ours = step_leave_one_out(jnp.array(experience["process_reward"], jnp.float32), ends, size)
            expected = np.array(baselined)
            if "VR" in inputs["reward_mode"]:
                valid = np.array(experience["action_mask"], bool)
                last = valid.shape[1] - 1 - valid[:, ::-1].argmax(1)
                solved = np.array(experience["solved"]) - 1
                extra = inputs["verifiable_reward_coef"] * np.asarray(leave_one_out(jnp.float32(solved), size))
                expected[np.arange(len(last)), last] -= extra
            np.testing.assert_allclose(ours, expected, atol=1e-5)
            if inputs["kl_coef"] == 0 and "VR" not in inputs["reward_mode"]:
                returns = np.asarray(return_to_go(ours, ends))
                tokens = np.array(experience["action_mask"], bool) & ~np.asarray(ends)
                for row, advantages in enumerate(case["outputs"]["advantages"][0]):
                    first = np.flatnonzero(tokens[row])[0]
                    np.testing.assert_allclose(advantages[first], returns[row][np.asarray(ends)[row]][0], atol=1e-5)
            checked += 1
    assert checked >= 3
