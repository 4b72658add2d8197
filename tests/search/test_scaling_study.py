"""What the study of test-time scaling does itself: an oracle that reads text, and labels of countdown solutions by token."""

import importlib
import sys

import numpy as np
import pytest

from jaxprm.generation.text import StepSample
from jaxprm.search.strategies import Beam
from jaxprm.search.text_search import search_texts
from jaxprm.steps import StepEncoder, StepFormat, train_sentencepiece
from jaxprm.tasks.arithmetic import ArithmeticTask
from jaxprm.testing.scripted_text import ScriptedTextPolicy


@pytest.fixture
def study(repository, monkeypatch):
    """Imports a module of the study."""
    monkeypatch.syspath_prepend(str(repository / "experiments" / "test_time_scaling"))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(repository / "experiments") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_the_oracle_leads_a_beam_to_the_solution(study):
    task = ArithmeticTask(min_steps=3, max_steps=3, modulus=7)
    problems = [task.sample((0, place)) for place in range(3)]

    def write(problem, steps, rng):
        """The right next step in one of three cases, else a wrong one."""
        reference = task.solve(problem)
        text = reference[len(steps)] if rng.random() < 1 / 3 else reference[len(steps)].replace("= ", "= 1")
        return StepSample(text, 5, "solution" if len(steps) + 1 == len(reference) else "step")

    reader = study("scorers").OracleReader(task, problems, 8)
    found = search_texts(ScriptedTextPolicy(write), reader, Beam(1, 8), max_steps=4, seed=0)
    for problem, one in zip(problems, found):
        values = {one.steps(node.id): node.value for node in one.nodes}
        assert values and all(value == float(task.judge(problem, steps).first_error < 0) for steps, value in values.items())
        assert one.steps(one.chosen)[:2] == task.solve(problem)[:2]


def test_labels_of_countdown_tokens(study):
    countdown = study("countdown")
    problem = countdown.TASK.sample((0, 0))
    reference = countdown.TASK.solve(problem)
    wrong = countdown.TASK.corrupt((1,), problem, reference, "off_by_one", 1)
    tokenizer = train_sentencepiece([problem.prompt, *reference, *wrong] * 20, 60, symbols=["\n"], byte_fallback=False)
    encoder = StepEncoder(StepFormat(), tokenizer)
    right = countdown._example(problem, reference, encoder)
    assert np.all(right["labels"] == 1) and len(right["labels"]) == sum(len(encoder.encode_step(step)) for step in reference)
    labels = countdown._example(problem, wrong, encoder)["labels"]
    first, second = (len(encoder.encode_step(step)) for step in wrong[:2])
    assert np.all(labels[:first] == 1) and 0 < labels[first : first + second].sum() < second  # up to the wrong result
    assert np.all(labels[first + second :] == 0)


def test_sizes_and_by_oracle(study):
    strategies = study("strategies")
    for size in strategies.SIZES:
        level = strategies.level_strategies(size, 12)
        assert {strategy.rows for strategy in level.values()} == {size}
        unread = [name for name, strategy in level.items() if not strategies.by_oracle(strategy)]
        assert unread == ["lookahead", "early rejection"]
    assert not any(strategies.by_oracle(strategy) for strategy in strategies.node_strategies(4).values())
