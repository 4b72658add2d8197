"""Trees and prefixes with values, pairs, and trajectories of agents."""

import json

import pytest

from jaxprm.data.formats import ProblemIndex
from jaxprm.errors import InputError


def test_omegaprm_prefixes_become_solutions_with_the_values_of_their_prefixes(read):
    row = {"question": "q", "final_answer": "4", "reasoning_steps": [
        {"solution_prefix": "q", "mc_value": 0.5}, {"solution_prefix": "q\n\na\n\nb", "mc_value": 0.25},
        {"solution_prefix": "q\n\na\n\nb\n\nc", "mc_value": 0.0}, {"solution_prefix": "a\n\nx", "mc_value": 1.0}]}
    first, second = read("omegaprm", row)
    assert first.solution.steps == ("a", "b", "c") and first.labels.values == (None, 0.25, 0.0)
    assert first.labels.first_error == 2 and second.labels.values == (None, 1.0) and second.labels.first_error is None
    assert first.solution.problem.id == second.solution.problem.id and first.id != second.id
    with pytest.raises(InputError, match=r"field 'reasoning_steps\[0\].mc_value' = 2: must be in \[0, 1\]"):
        read("omegaprm", {"question": "q", "reasoning_steps": [{"solution_prefix": "a", "mc_value": 2}]})
    states = {"q": "q", "states": [{"state": "a", "mcs": 0.5, "rollout": "a b"}, {"state": "b", "mcs": 0, "rollout": "b"}]}
    assert [item.labels.values for item in read("omegaprm", states)] == [(0.5,), (0.0,)]  # before OpenR's own conversion
    with pytest.raises(InputError, match="field 'reasoning_steps': holds a tree, .*the format 'omegaprm-tree' reads it"):
        read("omegaprm", {"question": "q", "reasoning_steps": {"text": "q"}})
    with pytest.raises(InputError, match="has no prefix with a step"):
        read("omegaprm", {"question": "q", "reasoning_steps": [{"solution_prefix": "", "mc_value": 1}]})


def test_omegaprm_tree_gives_one_solution_per_leaf(read):
    tree = {"text": "q", "mc_value": 0.5, "children": [
        {"text": "a", "mc_value": 0.5, "children": [{"text": "b", "mc_value": 0.0, "children": []},
                                                    {"text": "c", "mc_value": 1}]},
        {"text": "d", "mc_value": None}]}
    items = read("omegaprm-tree", {"question": "q", "final_answer": "4", "reasoning_steps": tree})
    assert [item.solution.steps for item in items] == [("a", "b"), ("a", "c"), ("d",)]
    assert [item.labels.values for item in items] == [(0.5, 0.0), (0.5, 1.0), (None,)]
    assert [item.labels.first_error for item in items] == [1, -1, None]
    # A node of several paragraphs has one value, that of its last one.
    jump = {"text": "q", "mc_value": 0.5, "children": [{"text": "a\n\nb", "mc_value": 0.25, "children": [
        {"text": "c\n\nd\n\ne", "mc_value": 1.0, "children": []}]}]}
    item, = read("omegaprm-tree", {"question": "q", "reasoning_steps": jump})
    assert item.solution.steps == tuple("abcde") and item.labels.values == (None, 0.25, None, None, 1.0)
    deep = {"text": "leaf"}
    for index in range(300):
        deep = {"text": str(index), "mc_value": 1.0, "children": [deep]}
    assert len(read("omegaprm-tree", {"question": "q", "tree": deep})[0].solution.steps) == 301
    with pytest.raises(InputError, match="has no step"):
        read("omegaprm-tree", {"question": "q", "tree": {"text": "q", "children": []}})


def test_rest_mcts_values_belong_to_the_last_step(read):
    item, = read("rest-mcts", {"prompt_answer": "Problem: 1 + 1?\nSolution:\nStep 1: one\nStep 2: two\n", "label": 0.75})
    assert item.solution.problem.prompt == "1 + 1?" and item.labels.values == (None, 0.75)
    with pytest.raises(InputError, match="must read 'Problem: ... Solution: ...'"):
        read("rest-mcts", {"prompt_answer": "1 + 1?", "label": 0.75})
    with pytest.raises(InputError, match="has no steps"):
        read("rest-mcts", {"prompt_answer": "Problem: 1 + 1?\nSolution:\n", "label": 0.75})


def test_rstar_pairs_judge_the_last_step_only(read):
    pos, neg = (f"a<end_of_step>\n{last}<end_of_step>" for last in "bc")
    good, bad = read("rstar-math", {"prompt": "q", "pos": pos, "neg": neg, "pos_count": 1, "neg_count": 2})
    assert good.solution.steps == ("a", "b") and good.labels.values == (None, 1.0) and good.labels.first_error is None
    assert bad.labels.values == (None, 0.0) and bad.labels.first_error == 1
    assert bad.solution.problem.meta == {"pos_count": 1, "neg_count": 2, "pair": "1", "side": "neg"}
    raw = {"prefix": "q a<end_of_step>", "chosen_step": "b", "rejected_step": "c", "step_margin": 0.7}
    with pytest.raises(InputError, match="holds the problem and steps, with nothing between them; .*--problems"):
        read("rstar-math", raw)
    assert [item.solution.steps for item in read("rstar-math", raw, problems=ProblemIndex(["q"]))] == [("a", "b"), ("a", "c")]
    assert read("rstar-math", raw | {"question": "q"})[1].solution.steps == ("a", "c")
    assert read("rstar-math", raw | {"prefix": "q"})[0].solution.steps == ("b",)


def test_hrm(read):
    item, = read("hrm", {"question": "q", "previous_steps": ["a"], "current_step": "b and c", "label": 0.0})
    assert item.solution.steps == ("a", "b and c") and item.labels.values == (None, 0.0) and item.labels.first_error == 1
    item, = read("hrm", {"question": "q", "previous steps": "a\nb", "current step": "c", "label": 1})
    assert item.solution.steps == ("a", "b", "c") and item.labels.values == (None, None, 1.0)


def test_agent_prm(read):
    item, = read("agentprm", {"state": "You see a door.", "reason_action": "open it", "qestimate": 0.6})
    assert item.solution.problem.prompt == "You see a door." and item.labels.values == (0.6,)
    with pytest.raises(InputError, match=r"field 'qestimate' = -0.2: must be in \[0, 1\]; map returns in"):
        read("agentprm", {"state": "s", "reason_action": "a", "qestimate": -0.2})


def message(role, content=None, **more):
    return {"role": role, "content": content, **more}


CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
RUN = {"total_index": 7, "query_index": 1, "final_label": -1, "step_labels": {"2": 1, "4": -1, "6": 0}, "messages": [
    message("system", "rules"), message("user", "do it"), message("assistant", None, tool_calls=[CALL]),
    message("tool", "seen"),
    message("assistant", [{"type": "text", "text": "now this"}]), message("user", "hm"), message("assistant", "done")]}


def test_agent_process_bench_labels_belong_to_messages_of_the_assistant(read):
    item, = read("agentprocessbench", RUN)
    assert item.id == "7" and item.solution.problem.prompt == "rules\n\ndo it" and item.solution.correct is False
    assert item.solution.steps == ('{"name": "look", "arguments": "{}"}\n[tool] seen', "now this\n[user] hm", "done")
    assert item.labels.values == (1.0, 0.0, None) and item.labels.first_error == 1
    assert read("agentprocessbench", RUN, neutral="bad")[0].labels.values == (1.0, 0.0, 0.0)
    with pytest.raises(InputError, match=r"field 'step_labels\[3\]': is not the number of a message of the assistant"):
        read("agentprocessbench", RUN | {"step_labels": {"3": 1}})
    with pytest.raises(InputError, match="is not the number of a message"):
        read("agentprocessbench", RUN, index_base=1)
    with pytest.raises(InputError, match="has no message of the assistant"):
        read("agentprocessbench", RUN | {"messages": RUN["messages"][:2]})


def react(thought):
    return {"thought": {"text": thought}, "action": {"text": "search"}, "action_input": {"text": "x"},
            "observation": {"text": "found"}}


def test_tool_comp_pairs(read):
    history = json.dumps([{"action plan": {"text": "look first"}}, react("begin")])
    row = {"prompt": "q", "history": history, "preferred": react("good"), "dispreferred": react("bad")}
    good, bad = read("toolcomp", row)
    assert good.solution.steps[0] == "Action Plan: look first" and good.labels.values == (None, None, 1.0)
    assert bad.solution.steps[2] == "Thought: bad\nAction: search\nAction Input: x\nObservation: found"
    assert bad.labels.first_error == 2 and bad.labels.made_by.startswith("human, by pairs; ")
    plan = {"action plan": {"text": "a plan"}}
    assert len(read("toolcomp", {"prompt": "q", "history": "[]", "preferred": plan, "dispreferred": plan})) == 2
    with pytest.raises(InputError, match="field 'history' = 'oops': is not JSON"):
        read("toolcomp", row | {"history": "oops"})
    with pytest.raises(InputError, match="has neither a thought nor an action plan"):
        read("toolcomp", row | {"preferred": {"text": "x"}})


def test_who_and_when(read):
    row = {"question": "q", "ground_truth": "4", "mistake_agent": "Expert", "mistake_step": "1", "mistake_reason": "r",
           "history": [message("user", "go", name="Planner"), message("assistant", "5", name="Expert"), message("Human", "ok")]}
    item, = read("who-and-when", row)
    assert item.solution.steps == ("Planner: go", "Expert: 5", "Human: ok") and item.labels.first_error == 1
    assert item.labels.values == (None, 0.0, None) and "mistake_speaker" not in item.solution.problem.meta
    # Counted from 1, the blamed agent is not the speaker: the row says so.
    other, = read("who-and-when", row, index_base=1)
    assert other.labels.first_error == 0 and other.solution.problem.meta["mistake_speaker"] == "Planner"
    with pytest.raises(InputError, match="field 'mistake_step' = '3': is not|= 3: is not the number"):
        read("who-and-when", row | {"mistake_step": "3"})
