"""Formats with lists of steps: index bases, soft labels, short lists, words that contain each other."""

import pytest

from jaxprm.errors import InputError


def test_trl(read):
    item, = read("trl", {"prompt": "p", "completions": ["a", "b"], "labels": [True, False]})
    assert item.labels.values == (1.0, 0.0) and item.labels.first_error == 1
    # TRL's own code cuts 0.7 to 0; here it stays a soft label.
    item, = read("trl", {"prompt": "p", "completions": ["a", "b"], "labels": [0.7, 1]})
    assert item.labels.values == (0.7, 1.0) and item.labels.first_error == -1
    # UnPRM's rows: steps behind the first error are labelled false, whatever they say.
    unprm, = read("trl", {"prompt": "p", "answer": "4", "completions": ["a", "b", "c"], "label": [True, False, False]},
                  after_error="ignore")
    assert unprm.labels.values == (1.0, 0.0, None) and unprm.solution.problem.answer == "4"
    with pytest.raises(InputError, match="field 'labels': has 1 labels for 2 steps"):
        read("trl", {"prompt": "p", "completions": ["a", "b"], "labels": [1]})


def test_actprm(read):
    row = {"question": "p", "steps": ["a", "b", "c"]}
    item, = read("actprm", row | {"labels": [1, 0]})  # cut behind the first error
    assert item.labels.values == (1.0, 0.0, None) and item.labels.first_error == 1
    item, = read("actprm", row | {"qwq": [1, -100, 1]}, label_field="qwq")
    assert item.labels.values == (1.0, None, 1.0) and item.labels.first_error is None
    assert read("actprm", row | {"labels": 1})[0].labels.first_error == 1
    assert read("actprm", row | {"labels": 1}, index_base=1)[0].labels.first_error == 0
    assert read("actprm", row | {"labels": -1})[0].labels.values == (1.0, 1.0, 1.0)
    assert read("actprm", row | {"labels": [1, 0]}, after_error="bad")[0].labels.values == (1.0, 0.0, 0.0)
    with pytest.raises(InputError, match="has 4 labels for 3 steps"):
        read("actprm", row | {"labels": [1] * 4})
    with pytest.raises(InputError, match="'labels' = 3: is not the number of one of the 3 steps, which are counted from 0"):
        read("actprm", row | {"labels": 3})


def test_thinkprm(read):
    item, = read("thinkprm", {"question": "p", "steps_with_labels": [{"step": "a", "label": "+"}, {"step": "b", "label": 0}]})
    assert item.solution.steps == ("a", "b") and item.labels.values == (1.0, 0.0)


def test_text(read):
    item, = read("text", {"problem": "p", "solution": "a\n\nb\n", "answer": 3})
    assert item.solution.steps == ("a", "b") and item.labels is None and item.solution.problem.answer == "3"
    item, = read("text", {"prompt": "p", "response": "a|b"}, segmenter="marker:|")
    assert item.solution.steps == ("a|", "b")
    with pytest.raises(InputError, match="no such segmenter"):
        read("text", {"prompt": "p", "response": "a"}, segmenter="x")


BENCH = {"id": "gsm8k-0", "generator": "m", "problem": "p", "steps": ["a", "b", "c"], "final_answer_correct": False, "label": 1}


def test_processbench_counts_from_zero(read):
    item, = read("processbench", BENCH)
    assert item.id == "gsm8k-0" and item.labels.values == (1.0, 0.0, None) and item.labels.first_error == 1
    assert item.labels.made_by == "human; format=processbench, after_error=keep, index_base=0"
    assert item.solution.correct is False and item.solution.generator == "m"
    assert read("processbench", BENCH | {"label": -1})[0].labels.values == (1.0, 1.0, 1.0)
    assert read("processbench", BENCH, after_error="bad")[0].labels.values == (1.0, 0.0, 0.0)
    with pytest.raises(InputError, match="field 'label' = 3: is not the number of one of the 3 steps, .* is index_base right"):
        read("processbench", BENCH | {"label": 3})


def test_prmbench_counts_from_one_and_judges_behind_errors(read):
    row = {"original_question": "o", "modified_question": "m", "original_process": ["x"], "modified_process": ["a", "b", "c"],
           "modified_steps": [2], "error_steps": [2], "reason": "r", "idx": "i7", "classification": "circular"}
    item, = read("prmbench", row)
    assert item.labels.values == (1.0, 0.0, 1.0) and item.labels.first_error == 1 and item.id == "i7"
    assert item.solution.problem.prompt == "m" and item.solution.problem.meta["classification"] == "circular"
    assert read("prmbench", row, index_base=0)[0].labels.first_error == 2
    assert read("prmbench", row | {"error_steps": []})[0].labels.first_error == -1  # several right ways to solve it
    for number in (0, 4):
        with pytest.raises(InputError, match=rf"'error_steps\[0\]' = {number}: is not the number of one of .* from 1"):
            read("prmbench", row | {"error_steps": [number]})
    original, = read("prmbench-original", row)
    assert original.solution.steps == ("x",) and original.labels.first_error == -1 and original.solution.problem.id == "i7"


def test_socratic_prmbench(read):
    row = {"modified_question": "q", "modified_process": ["a", "b"], "error_steps": [1], "idx": "set#4", "classification": "x"}
    item, = read("socratic-prmbench", row)
    assert item.labels.values == (0.0, 1.0) and item.id == "set#4" and item.solution.problem.meta["classification"] == "x"
    # All of its solutions hold an error: where none is listed, it is not known where. (PRMBench: there is none.)
    assert read("socratic-prmbench", row | {"error_steps": []})[0].labels is None
    with pytest.raises(InputError, match=r"'error_steps\[0\]' = 3: is not the number of one of the 2 steps"):
        read("socratic-prmbench", row | {"error_steps": [3]})


def test_deltabench_has_two_lists_of_wrong_sections(read):
    row = {"id": "d", "question": "q", "answer": "1", "sections": [{"content": "a"}, {"section": "b"}, {"content": "c"}],
           "reason_unuseful_section_numbers": [3], "reason_error_section_numbers": [2, 3], "evaluation_label": 1}
    item, = read("deltabench", row)
    assert item.labels.values == (1.0, 0.0, 0.0) and item.labels.first_error == 1
    assert item.solution.problem.meta["unuseful_sections"] == [3]
    early = {name: value for name, value in row.items() if not name.startswith("reason")}
    early |= {"idea_error_section_numbers": [], "error_section_numbers": [1]}  # names of the first evaluation code
    assert read("deltabench", early)[0].labels.first_error == 0
    nowhere, = read("deltabench", row | {"reason_unuseful_section_numbers": [], "reason_error_section_numbers": []})
    assert nowhere.labels is None  # said to be wrong, but not where
    with pytest.raises(InputError, match="= 4: is not the number of one of the 3 steps"):
        read("deltabench", row | {"reason_error_section_numbers": [4]})
    # The table that is published has lists as texts, and the sections in one.
    table = {"id": "d", "question": "q", "sections_content": "section1: a\nsection 9\n\n\nsection2: b\n\nsection3:c",
             "reason_unuseful_section_numbers": "[]", "reason_error_section_numbers": "[3]"}
    item, = read("deltabench", table)
    assert item.solution.steps == ("a\nsection 9", "b", "c") and item.labels.values == (1.0, 1.0, 0.0)
    with pytest.raises(InputError, match="does not begin with 'section1:'"):
        read("deltabench", table | {"sections_content": "a"})
    with pytest.raises(InputError, match="must be a list of numbers"):
        read("deltabench", table | {"reason_error_section_numbers": "3"})


def test_parc_judges_every_step(read):
    def judged(number, wrong, *kinds):
        return {"step_number": number, "has_error": wrong, "errors": [{"error_type": kind} for kind in kinds]}

    row = {"question": "q", "steps": ["a", "b", "c"], "is_correct": False, "ground_truth_answer": "1", "model_answer": "2",
           "error_annotation": {"error_annotations": {"step_level": [
               judged(1, False), judged(2, True, "Mathematical_Error"), judged(3, True, "Accumulation_Error")]}}}
    item, = read("parc", row)
    assert item.labels.values == (1.0, 0.0, 0.0) and item.labels.first_error == 1 and item.solution.correct is False
    assert item.solution.problem.meta["error_types"] == [[], ["Mathematical_Error"], ["Accumulation_Error"]]
    levels = row["error_annotation"]["error_annotations"]
    with pytest.raises(InputError, match="is judged twice"):
        read("parc", row | {"error_annotation": {"step_level": levels["step_level"] + [judged(2, False)]}})
    with pytest.raises(InputError, match="= 0: is not the number"):
        read("parc", row | {"error_annotation": {"step_level": [judged(0, False)]}})


def test_incorrect_is_not_taken_for_correct(read):
    row = {"uuid": "u", "question": "q", "ground_truth_answer": "4", "model_output_steps": ["a", "b", "c"],
           "model_output_answer_correctness": "incorrect", "model_output_solution_correctness": "incorrect",
           "model_output_solution_first_error_step": "2", "question_type": "original"}
    item, = read("mr-gsm8k", row)
    assert item.labels.first_error == 1 and item.solution.correct is False and item.id == "u"
    right = row | {"model_output_solution_correctness": "Correct", "model_output_solution_first_error_step": "N/A"}
    assert read("mr-gsm8k", right)[0].labels.first_error == -1
    unlocated, = read("mr-gsm8k", row | {"model_output_solution_first_error_step": "N/A"})
    assert unlocated.labels is None and unlocated.solution.problem.meta["solution_correct"] is False
    for change, message in [({"model_output_solution_correctness": "partly"}, "must be 'correct' or 'incorrect'"),
                            ({"model_output_solution_correctness": "correct"}, "names an error in a solution"),
                            ({"model_output_solution_first_error_step": "0"}, "is not the number of one of the 3 steps")]:
        with pytest.raises(InputError, match=message):
            read("mr-gsm8k", row | change)


def test_mr_ben_names_the_line_of_code(read):
    row = {"Question_UUID": "u", "Question": "q", "Options": "A: 1", "Model_Solution_Steps": ["x = 1", "", "  y = 2", "x = 1"],
           "Model_Solution_Correctness": "incorrect", "Model_Solution_First_Error_Step": "y = 2 ", "Sampled_Model": "m"}
    item, = read("mr-ben", row)
    assert item.solution.steps == ("x = 1", "  y = 2", "x = 1") and item.labels.first_error == 1  # the empty line is dropped
    assert item.id == "u/m" and item.solution.problem.id == "u" and item.solution.problem.prompt == "q\nA: 1"
    assert read("mr-ben", row | {"Model_Solution_First_Error_Step": "x = 1"})[0].labels is None  # stands there twice
    assert read("mr-ben", row | {"Model_Solution_First_Error_Step": "3"})[0].labels.first_error == 1


def test_big_bench_mistake(read):
    row = {"input": "q", "steps": ["a", "b"], "answer": "(A)", "target": "(B)", "mistake_index": 0}
    item, = read("bigbench-mistake", row)
    assert item.labels.values == (0.0, None) and item.labels.first_error == 0 and item.solution.correct is False
    assert read("bigbench-mistake", row | {"mistake_index": None})[0].labels.first_error == -1
    with pytest.raises(InputError, match="field 'mistake_index': is missing; null stands for a solution without a mistake"):
        read("bigbench-mistake", {key: value for key, value in row.items() if key != "mistake_index"})


def test_step_verify(read):
    row = {"problem": "q", "student_incorrect_solution": ["a", "b", " 7"], "incorrect_index": 1, "error_category": "x",
           "reference_solution": "one\ntwo\n#### 8"}
    student, reference = read("stepverify", row)
    assert student.labels.values == (1.0, 0.0, None) and student.solution.correct is False
    assert reference.solution.steps == ("one", "two") and reference.solution.answer == "8"
    assert reference.labels.made_by.startswith("human reference solution; ") and reference.labels.first_error == -1
    assert student.solution.problem.id == reference.solution.problem.id and student.id != reference.id
    with pytest.raises(InputError, match="must be the number of a step"):
        read("stepverify", row | {"incorrect_index": "second"})


def test_own_rows_come_back_as_they_were_written(read):
    row = {"problem": "q", "steps": ["a", "", "b"], "labels": [1, None, 0], "meta": {"k": 1}}
    item, = read("jaxprm", row, neutral="bad")
    assert item.solution.steps == ("a", "b") and item.labels.values == (1.0, 0.0)
