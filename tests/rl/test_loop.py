"""The policy-gradient loop: what is sampled is what is differentiated, credit reaches the right tokens, resume is exact."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.generation import Samples, pad_prompts, solution_rows
from jaxprm.models import parameters
from jaxprm.records import Problem
from jaxprm.rl.advantages import group_normalized, group_process_normalized, step_leave_one_out
from jaxprm.rl.credit import min_form_rewards, return_to_go
from jaxprm.rl.loop import Reinforcer, ReinforceConfig, log_probs_of, reinforce, step_advantages, verified
from jaxprm.steps import StepEncoder, StepFormat
from jaxprm.testing.models import tiny_config, tiny_language_model, tiny_reward_model
from jaxprm.testing.tokenizers import character_tokenizer
from jaxprm.training.metrics_log import read_metrics
from jaxprm.training.optimizer import OptimizerConfig

ENCODER = StepEncoder(StepFormat(), character_tokenizer("abcdef "))
CONFIG = ReinforceConfig(updates=6, problems=3, samples=4, limit=8, max_steps=5, checkpoint_every=2,
                         optimizer=OptimizerConfig(learning_rate=2e-2, warmup=0.0, weight_decay=0.0))


def models(**changes):
    config = tiny_config(vocab_size=ENCODER.tokenizer.vocab_size, **changes)
    return tiny_language_model(0, config), tiny_reward_model(1, config=config)


def problems_of(index):
    return [Problem(f"{index}/{i}", "abc"[: i + 1]) for i in range(CONFIG.problems)]


def starts_with_a(problem, steps):
    return bool(steps) and steps[0].startswith("a")


def rollout(worker, policy, key=0):
    prompts, lengths = map(jnp.asarray, pad_prompts([ENCODER.encode_prompt(p.prompt) for p in problems_of(0)], multiple=8))
    return prompts, lengths, worker.rollout(policy, jax.random.key(key), prompts, lengths)


@pytest.mark.parametrize("temperature, cap", [(1.0, None), (0.7, None), (0.7, 1.5)])
def test_trainer_log_probs_are_those_of_the_sampler(temperature, cap):
    policy, _ = models(logit_softcap=cap)
    worker = Reinforcer(dataclasses.replace(CONFIG, temperature=temperature), ENCODER, CONFIG.optimizer.build(1))
    prompts, lengths, samples = rollout(worker, policy)
    rows = worker.rows(prompts, lengths, samples)
    np.testing.assert_allclose(log_probs_of(policy, rows, temperature), rows.log_probs, atol=2e-5)
    assert (np.asarray(rows.log_probs) != 0).sum() == np.asarray(samples.lengths).sum()


def test_step_advantages_of_each_credit():
    rewards = jnp.array([[0.9, -0.5, 0.0], [0.8, 0.7, 0.6], [0.1, 0.2, 0.0], [-1.0, 0.0, 0.0]], jnp.float32)
    mask = jnp.array([[1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]], bool)
    outcomes = jnp.array([0.0, 1.0, 1.0, 0.0], jnp.float32)
    config = dataclasses.replace(CONFIG, samples=2)
    outcome = step_advantages(dataclasses.replace(config, credit="outcome"), rewards, mask, outcomes)
    expected = np.asarray(group_normalized(outcomes, 2))
    np.testing.assert_allclose(outcome, np.where(mask, expected[:, None], 0))
    np.testing.assert_allclose(outcome[:, 0], [-0.70711, 0.70711, 0.70711, -0.70711], atol=1e-4)
    summed = step_advantages(dataclasses.replace(config, credit="sum_form"), rewards, mask, outcomes)
    np.testing.assert_array_equal(summed, group_process_normalized(rewards, mask, 2))
    least = step_advantages(dataclasses.replace(config, credit="min_form"), rewards, mask, outcomes)
    weighted = min_form_rewards(rewards, mask, temperature=0.1)
    np.testing.assert_array_equal(least, return_to_go(step_leave_one_out(weighted, mask, 2), mask))
    assert least.dtype == jnp.float32 and not np.asarray(least)[~np.asarray(mask)].any()


def test_an_unfinished_sample_has_failed():
    """Row 0 ends, row 1 is cut off at its limit: its outcome is 0 whatever the verifier says, and it is not complete."""
    ids = ENCODER.encode_step("a")
    tokens = jnp.array([[*ids, ENCODER.end_id], [*ids, ids[0]]], jnp.int32)
    samples = Samples(tokens, jnp.zeros(tokens.shape, jnp.float32), jnp.array([3, 3], jnp.int32), jnp.array([True, False]))
    assert verified([Problem("p", "a")], samples, ENCODER, lambda problem, steps: True, 2).tolist() == [1.0, 0.0]
    prompts, lengths = map(jnp.asarray, pad_prompts([ENCODER.encode_prompt("a")], multiple=8))
    rows = solution_rows(prompts, lengths, samples, separator_id=ENCODER.separator_id, end_id=ENCODER.end_id, steps=3)
    assert rows.complete.tolist() == [True, False]


def test_outcome_credit_teaches_what_the_verifier_rewards(tmp_path):
    policy, rewards = models()
    config = dataclasses.replace(CONFIG, credit="outcome", updates=40, samples=16, kl_coefficient=0.0, checkpoint_every=40)
    reinforce(policy, rewards, ENCODER, problems_of, starts_with_a, config, tmp_path, jax.random.key(0), run={})
    curve = [line["outcome"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert np.mean(curve[:3]) < 0.4 and np.mean(curve[-3:]) > 0.8


def test_kl_holds_the_policy_near_its_start(tmp_path):
    policy, rewards = models()
    moved = []
    for coefficient in (0.0, 20.0):
        config = dataclasses.replace(CONFIG, credit="outcome", updates=12, kl_coefficient=coefficient)
        directory = tmp_path / str(coefficient)
        reinforce(policy, rewards, ENCODER, problems_of, starts_with_a, config, directory, jax.random.key(0), run={})
        moved.append(read_metrics(directory / "metrics.jsonl")[-1]["kl"])
    assert 0 <= moved[1] < 0.5 * moved[0]


def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    policy, rewards = models()

    def killed(index):
        if index == 3:
            raise KeyboardInterrupt
        return problems_of(index)

    arguments = (starts_with_a, CONFIG)
    whole = reinforce(policy, rewards, ENCODER, problems_of, *arguments, tmp_path / "whole", jax.random.key(0), run={"a": 1})
    with pytest.raises(KeyboardInterrupt):
        reinforce(policy, rewards, ENCODER, killed, *arguments, tmp_path / "killed", jax.random.key(0), run={"a": 1})
    resumed = reinforce(policy, rewards, ENCODER, problems_of, *arguments, tmp_path / "killed", jax.random.key(0), run={"a": 1})
    for name, value in parameters(whole).items():
        np.testing.assert_array_equal(value, parameters(resumed)[name], err_msg=name)
    assert read_metrics(tmp_path / "whole" / "metrics.jsonl") == read_metrics(tmp_path / "killed" / "metrics.jsonl")
