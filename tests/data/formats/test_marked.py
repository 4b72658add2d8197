"""Formats with all steps in one text: where the problem ends, tags inside steps, labels that do not fit."""

import json

import pytest

from jaxprm.data.formats import ProblemIndex
from jaxprm.errors import InputError

TEXT = "Add 3 and 4. Step 1: I write 3 + 4. ки\nStep 2: That is 8.ки"
LABEL = "Add 3 and 4. Step 1: I write 3 + 4. +\nStep 2: That is 8.-"


def test_math_shepherd(read):
    item, = read("math-shepherd", {"input": TEXT, "label": LABEL, "task": "GSM8K"})  # no blank before the last tag
    assert item.solution.problem.prompt == "Add 3 and 4." and item.solution.problem.meta == {"task": "GSM8K"}
    assert item.solution.steps == ("Step 1: I write 3 + 4.", "Step 2: That is 8.")
    assert item.labels.values == (1.0, 0.0) and item.labels.first_error == 1
    assert item.labels.made_by == "Monte-Carlo rollouts; format=math-shepherd, after_error=keep"


def test_math_shepherd_labels_behind_the_first_error(read):
    row = {"input": "Q? Step 1: a ки\nStep 2: b ки\nStep 3: c ки", "label": "Q? Step 1: a -\nStep 2: b +\nStep 3: c -"}
    values = {policy: read("math-shepherd", row, after_error=policy)[0].labels.values for policy in ("keep", "ignore", "bad")}
    assert values == {"keep": (0.0, 1.0, 0.0), "ignore": (0.0, None, None), "bad": (0.0, 0.0, 0.0)}


def test_a_tag_that_belongs_to_a_steps_text_is_not_a_step_end(read):
    row = {"input": "Q? Step 1: the letters ки here ки\nStep 2: b ки", "label": "Q? Step 1: the letters ки here +\nStep 2: b -"}
    item, = read("math-shepherd", row)
    assert item.solution.steps == ("Step 1: the letters ки here", "Step 2: b") and item.labels.values == (1.0, 0.0)


def test_signs_in_the_text_are_no_labels(read):
    item, = read("math-shepherd", {"input": "Q? Step 1: 3 + 4 - 1 = 6 ки", "label": "Q? Step 1: 3 + 4 - 1 = 6 +"})
    assert item.solution.steps == ("Step 1: 3 + 4 - 1 = 6",) and item.labels.values == (1.0,)


@pytest.mark.parametrize(("text", "label", "message"), [
    (TEXT, LABEL[:-1], "is not the input with every 'ки' replaced by [+] or -; the numbers of steps and labels differ"),
    (TEXT, LABEL + "+", "is not the input"), (TEXT, LABEL.replace("3 +", "4 +"), "is not the input"),
    ("Q? Step 1: a", "Q? Step 1: a", "field 'input' = .*: has no step tag 'ки'; another tag is given with --step-tag"),
    ("Q? Step 1: a ки\nrest", "Q? Step 1: a +\nrest", "has text behind the last step tag, a step without a label"),
    ("Q? First a ки", "Q? First a +", "has no 'Step 1:', so that the problem cannot be told from the first step; .*--problems"),
    ("Do Step 1: x. Step 1: a ки", "Do Step 1: x. Step 1: a +", "has more than one 'Step 1:'"),
    ("Step 1: a ки", "Step 1: a +", "has no problem")])
def test_broken_rows(read, text, label, message):
    with pytest.raises(InputError, match=message):
        read("math-shepherd", {"input": text, "label": label})


def test_known_problems_tell_where_the_first_step_begins(read):
    row = {"input": "Do Step 1: x. First a ки", "label": "Do Step 1: x. First a +"}
    item, = read("math-shepherd", row, problems=ProblemIndex(["Do Step 1: x."]))
    assert item.solution.problem.prompt == "Do Step 1: x." and item.solution.steps == ("First a",)
    with pytest.raises(InputError, match="does not begin with one of the known problems"):
        read("math-shepherd", row, problems=ProblemIndex(["Another"]))


def test_openrlhf_and_er_prm(read):
    row = {"input": "Q? Step 1: a<P> Step 2: b<P>", "value": ["+", "-"]}
    item, = read("openrlhf", row, step_tag="<P>")
    assert item.solution.steps == ("Step 1: a", "Step 2: b") and item.labels.values == (1.0, 0.0)
    soft, = read("openrlhf", {"input": "Q? Step 1: a ки b ки c ки", "value": [0.9, 0.25, 0.75]}, bad_at_most=0.3)
    assert soft.labels.values == (0.9, 0.25, 0.75) and soft.labels.first_error == 1  # soft labels stay numbers
    assert "bad_at_most=0.3" in soft.labels.made_by
    row = {"text": "Q? Step 1: a ки b ки c ки", "value": [0.9, 0.25, 0.75]}
    same, = read("er-prm", row, bad_at_most=0.3, after_error="ignore")
    assert same.labels.values == (0.9, 0.25, None)
    with pytest.raises(InputError, match="field 'value': has 2 labels for 1 step tags; a step that contains the tag itself"):
        read("openrlhf", {"input": "Q? Step 1: a ки", "value": ["+", "+"]})
    with pytest.raises(InputError, match=r"field 'value\[0\]' = 1.5: must be '\+', '-', or a number from 0 to 1"):
        read("er-prm", {"text": "Q? Step 1: a ки", "value": [1.5]})


def test_openr(read):
    tag = " \n\n\n\n\n"
    item, = read("openr", {"question": "Q?", "process": f"a\n\nstill a{tag}b{tag}", "label": ["+", "-"]})
    assert item.solution.steps == ("a\n\nstill a", "b") and item.labels.first_error == 1
    assert "OmegaPRM" in read("math-aps", {"question": "Q?", "process": f"a{tag}", "label": ["+"]})[0].labels.made_by
    with pytest.raises(InputError, match="field 'label': has 1 labels for 2 step tags"):
        read("openr", {"question": "Q?", "process": f"a{tag}b{tag}", "label": ["+"]})
    with pytest.raises(InputError, match="text behind the last step tag"):
        read("openr", {"question": "Q?", "process": f"a{tag}b", "label": ["+"]})


CHAT = [{"role": "user", "content": "Q? Step 1: a"}, {"role": "assistant", "content": "+"},
        {"role": "user", "content": "Step 2: b"}, {"role": "assistant", "content": "-"}]


def test_rlhflow(read):
    item, = read("rlhflow", {"conversations": CHAT})
    assert item.solution.problem.prompt == "Q?" and item.solution.steps == ("Step 1: a", "Step 2: b")
    assert item.labels.values == (1.0, 0.0)
    plain = json.loads(json.dumps(CHAT).replace("Step 1: ", ""))
    with pytest.raises(InputError, match=r"field 'conversations\[0\].content' = 'Q\? a': has no 'Step 1:'"):
        read("rlhflow", {"conversations": plain})
    assert read("rlhflow", {"conversations": plain}, problems=ProblemIndex(["Q?"]))[0].solution.steps[0] == "a"
    for turns, message in [(CHAT[:3], "has 3 turns; every step needs a judgement"), ([], "is empty"),
                           ([CHAT[0], CHAT[0]], "must be 'assistant' in turn 2"),
                           ([CHAT[0], {"role": "assistant", "content": "yes"}], "'yes': must be '[+]' or '-'")]:
        with pytest.raises(InputError, match=message):
            read("rlhflow", {"conversations": turns})


def test_true_in_fovers_error_labels_means_correct(read):
    item, = read("fover", {"problem": "p", "solution_steps": ["a", "b", "c"], "error_labels": [True, False, None], "id": "x"})
    assert item.labels.values == (1.0, 0.0, None) and item.labels.first_error == 1 and item.id == "x"
    with pytest.raises(InputError, match="has 1 labels for 2 steps"):
        read("fover", {"problem": "p", "solution_steps": ["a", "b"], "error_labels": [True]})
    with pytest.raises(InputError, match="must be true, false or null"):
        read("fover", {"problem": "p", "solution_steps": ["a"], "error_labels": ["correct"]})
