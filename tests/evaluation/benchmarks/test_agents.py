"""WebRewardBench and AgentProcessBench from their files."""

import json

import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.evaluation.benchmarks import EvaluateOptions, ReadPolicies
from jaxprm.evaluation.benchmarks.agentprocessbench import AGENTPROCESSBENCH
from jaxprm.evaluation.benchmarks.webrewardbench import WEBREWARDBENCH

OPTIONS = EvaluateOptions(resamples=50)


def written(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [path]


def web_row(task, step, rejected=2, **changes):
    say = lambda text: {"thought": f"I {text}.", "action": f"{text}()"}
    return {"task_id": task, "step_id": step, "intent": "Buy bread", "start_url": "shop", "current_url": f"shop/{step}",
            "text_observation": "a list", "thought_history": ["I open.", "I look."], "action_history": ["open()", "look()"],
            "chosen": [say("click")], "rejected": [say(f"wait{number}") for number in range(rejected)],
            "source_name": "webarena" if task == 1 else "mind2web_test_task", **changes}


def test_candidates_of_web_steps(tmp_path):
    read = lambda *rows: WEBREWARDBENCH.read(written(tmp_path, rows), ReadPolicies())
    items = read(web_row(1, 0), web_row(1, 1), web_row("b", 2, rejected=1))
    assert [item.id for item in items][:4] == ["1/0/chosen", "1/0/rejected1", "1/0/rejected2", "1/1/chosen"]
    assert items[0].solution.steps == ("Thought: I click.\nAction: click()",)
    assert items[-1].solution.steps == ("Thought: I open.\nAction: open()", "Thought: I look.\nAction: look()",
                                        "Thought: I wait0.\nAction: wait0()")
    assert items[0].solution.problem.prompt == "Buy bread\n\nshop/0\n\na list" and (items[-1].group, items[-1].row) == ("b", 3)
    last = [0.9, 0.5, 0.5, 0.4, 0.4, 0.1, 0.3, 0.2]  # ranks 1, 2 (a tie), 1
    scores = [np.array([0.0] * (len(item.solution.steps) - 1) + [value]) for item, value in zip(items, last)]
    result = WEBREWARDBENCH.evaluate(items, scores, OPTIONS)
    assert [number.mean for number in result.numbers.values()] == pytest.approx([2.5 / 3, 2 / 3, 1 / 2])
    assert result.tables["by source"]["webarena"]["task accuracy"].mean == 0 and result.headline == "MRR"
    assert result.settings["left_out_steps"] == 0
    short = WEBREWARDBENCH.evaluate(items[:7], scores[:7], OPTIONS)  # the only rejected action of task b was left out
    assert short.settings["left_out_steps"] == 1 and short.settings["tasks"] == 1
    for change, message in (({"rejected": []}, "rows.jsonl:1: field 'rejected': needs at least one action"),
                            ({"step_id": 3}, "field 'action_history': has 2 entries before step 3"),
                            ({"chosen": [{"thought": "x"}]}, r"field 'chosen\[0\].action': is missing"),
                            ({"task_id": None}, "field 'task_id': is missing")):
        with pytest.raises(InputError, match=message):
            read(web_row(1, 0) | change)


def test_three_kinds_of_ratings_survive_every_policy(tmp_path):
    message = lambda role, text: {"role": role, "content": text}
    native = {"messages": [message("user", "Find it"), message("assistant", "look"), message("tool", "nothing"),
                           message("assistant", "look again"), message("assistant", "give up")],
              "step_labels": {"1": 1, "3": 0, "4": -1}, "query_index": 7, "total_index": 1, "data_source": "gaia_dev"}
    unrated = native | {"step_labels": {}, "total_index": 2}
    for neutral in ("good", "bad", "ignore"):
        items = AGENTPROCESSBENCH.read(written(tmp_path, [native, unrated]), ReadPolicies(neutral=neutral))
        assert [item.skip for item in items] == [None, "unlabeled"]
        assert items[0].meta["ratings"] == [1, 0, -1] and items[0].kind == "gaia_dev"
        assert items[0].solution.steps[0] == "look\n[tool] nothing"
    own = {"id": "x", "problem": "Find it", "steps": ["a", "b", "c"], "labels": [0, None, 1]}
    items = AGENTPROCESSBENCH.read(written(tmp_path, [own]), ReadPolicies())
    assert items[0].meta["ratings"] == [0, None, 1]


def test_neutral_steps_are_missed_by_a_model_of_two_kinds(tmp_path):
    rows = [{"id": str(number), "problem": f"p{number}", "steps": ["a", "b", "c"], "labels": labels}
            for number, labels in enumerate([[1, 0, -1], [1, 1, 1]])]
    items = AGENTPROCESSBENCH.read(written(tmp_path, rows), ReadPolicies())
    scores = [np.array([0.9, 0.6, 0.2]), np.array([0.9, 0.8, 0.4])]
    numbers = AGENTPROCESSBENCH.evaluate(items, scores, OPTIONS).numbers
    assert [numbers[name].mean for name in numbers] == pytest.approx([4 / 6, 0, 1 / 2, 4 / 5, 1.0])
    assert list(numbers)[0] == "step accuracy"
