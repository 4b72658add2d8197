"""WebRewardBench and AgentProcessBench by hand."""

import math

import numpy as np
import pytest

from jaxprm.metrics import bootstrap_of_sums
from jaxprm.metrics.agent_process import agent_process, agent_process_of_sums, ternary, trace_columns
from jaxprm.metrics.webreward import MISSING, WebChoice, task_columns, web_reward, web_reward_of_sums


def test_ties_count_against_the_expert_and_tasks_need_every_step():
    choices = [WebChoice("a", 0.9, [0.1, 0.2, 0.3, 0.4]),  # rank 1
               WebChoice("a", 0.5, [0.5, 0.5, 0.7, 0.1]),  # one above, two tied: rank 4
               WebChoice("b", 0.6, [0.1]),                 # rank 1
               WebChoice("b", 0.8, [None, 0.1])]           # a missing score stands behind
    assert [choice.rank for choice in choices] == [1, 4, 1, 1]
    result = web_reward(choices)
    assert (result.mrr, result.step_accuracy, result.task_accuracy) == (3.25 / 4, 0.75, 0.5)
    assert WebChoice("c", None, [0.0, None]).rank == 3 and MISSING < 0
    assert math.isnan(web_reward([]).mrr)
    tasks, columns = task_columns(choices)
    assert tasks == ["a", "b"] and columns[:, 3].tolist() == [0, 1]
    mrr = bootstrap_of_sums(columns, lambda sums: web_reward_of_sums(sums)[..., 0], tasks, 0)
    assert (mrr.mean, mrr.low, mrr.high) == (0.8125, 0.625, 1.0)
    with pytest.raises(ValueError, match="task 'd' has no rejected"):
        WebChoice("d", 1.0, [])
    with pytest.raises(ValueError, match="not a number"):
        web_reward([WebChoice("d", float("nan"), [1.0])])


def test_three_kinds_of_steps():
    labels = [[1, 0, -1, None], [1, 1], [-1, 0]]
    predicted = [[1, 1, -1, -1], [1, 1], [1, -1]]
    result = agent_process(predicted, labels)
    assert result.step_accuracy == 4 / 7 and result.trace_accuracy == 1 / 3  # the unlabelled step does not count
    assert result.first_error_accuracy == 2 / 3  # found at 2; none; 1 instead of 0
    assert result.decided_accuracy == 4 / 5
    sums = trace_columns(predicted, labels).sum(axis=0)
    np.testing.assert_array_equal(agent_process_of_sums(np.stack([sums, sums])),
                                  [[4 / 7, 1 / 3, 2 / 3, 4 / 5]] * 2)
    assert np.isnan(agent_process([], []).step_accuracy)
    assert ternary([0.1, 0.5, 0.7], 0.5) == [-1, 1, 1] and ternary([0.1, 0.5, 0.7], 0.3, 0.6) == [-1, 0, 1]
    with pytest.raises(ValueError, match="wrong below 0.6 and right from 0.5"):
        ternary([0.5], 0.6, 0.5)
    with pytest.raises(ValueError, match="trace 0 has 1 predictions for 2 steps"):
        agent_process([[1]], [[1, 1]])
    with pytest.raises(ValueError, match="trace 0 has a label other"):
        agent_process([[2]], [[1]])
