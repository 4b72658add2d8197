"""Monte-Carlo labels of a scripted policy, whose chances of success are known."""

import jax
import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.generation import LocalPolicy
from jaxprm.labeling import MonteCarloLabeler
from jaxprm.records import Problem, Solution
from jaxprm.steps import StepEncoder, StepFormat
from jaxprm.testing.models import tiny_config, tiny_language_model
from jaxprm.testing.tokenizers import character_tokenizer

ENCODER = StepEncoder(StepFormat(), character_tokenizer("abcd"))
PROBLEM = Problem("p", "a", "b")


def policy(limit=6):
    config = tiny_config(vocab_size=ENCODER.tokenizer.vocab_size)
    return LocalPolicy(tiny_language_model(3, config), ENCODER, limit=limit, batch_rows=256)


def ends_in_b(problem, steps):
    return steps[-1].endswith("b")


def test_soft_label_is_the_chance_of_success():
    """Two independent estimates of the same chance agree within four standard errors."""
    solution = Solution(PROBLEM, ("a", "c"))
    labels = [MonteCarloLabeler(policy(), ends_in_b, 400)(jax.random.key(seed), [PROBLEM], [solution])[0].values
              for seed in (0, 1)]
    first, second = np.array(labels)
    error = np.sqrt(np.maximum(first * (1 - first), 0.01) / 400)
    assert (np.abs(first - second) < 4 * np.sqrt(2) * error).all()
    assert ((0 < first) & (first < 1)).all()


def test_hard_label_is_whether_any_rollout_succeeds():
    solutions = [Solution(PROBLEM, ("a", "c")), Solution(PROBLEM, ("d",))]
    soft, hard = (MonteCarloLabeler(policy(), ends_in_b, 8, kind)(jax.random.key(0), [PROBLEM] * 2, solutions)
                  for kind in ("soft", "hard"))
    for gentle, strict in zip(soft, hard):
        assert strict.values == tuple(float(value > 0) for value in gentle.values)
        assert strict.first_error == next((i for i, value in enumerate(strict.values) if value == 0), -1)
    assert "hard" in hard[0].made_by and "rollouts=8" in hard[0].made_by


def test_the_last_step_of_a_finished_solution_needs_no_rollouts():
    finished = Solution(PROBLEM, ("a", "ab"), answer="b")
    labels = MonteCarloLabeler(policy(), ends_in_b, 4)(jax.random.key(0), [PROBLEM], [finished])[0]
    assert len(labels.values) == 2 and labels.values[1] == 1.0
    assert labels.cost["rollouts"] == 4  # of the first step alone


def test_equal_prefixes_are_continued_and_charged_once():
    twins = [Solution(PROBLEM, ("a", "c")), Solution(PROBLEM, ("a", "d"))]
    first, second = MonteCarloLabeler(policy(), ends_in_b, 4)(jax.random.key(0), [PROBLEM] * 2, twins)
    assert first.values[0] == second.values[0]
    assert (first.cost["rollouts"], second.cost["rollouts"]) == (8, 4)
    assert first.cost["policy_tokens"] >= 8


def test_bad_settings(without_type_checks):
    with pytest.raises(InputError, match="field 'rollouts' = 0: must be at least 1"):
        MonteCarloLabeler(policy(), ends_in_b, 0)
    with pytest.raises(InputError, match="field 'kind' = 'fuzzy'"):
        MonteCarloLabeler(policy(), ends_in_b, 1, "fuzzy")
