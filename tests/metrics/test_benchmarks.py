"""ProcessBench, PRMBench, DeltaBench and MR-Score against the numbers of the reference evaluators."""

import json
import re

import numpy as np
import pytest

from jaxprm.metrics import (
    Confusion,
    MrRow,
    PrmbenchRow,
    ThresholdProtocol,
    deltabench,
    mr_score,
    prmbench,
    processbench,
    processbench_verdicts,
)
from jaxprm.metrics.deltabench import critique_sections, low_sections
from jaxprm.metrics.mr_score import matthews
from jaxprm.metrics.prmbench import DIMENSIONS, prmscore_interval
from jaxprm.metrics.processbench import critique_verdict, f1_interval, f1_of_sums, first_error_columns, voted_verdict

SCORES = {"gsm8k": [[0.9, 0.3], [0.9, 0.8], [0.2, 0.9]], "math": [[0.9, 0.6], [0.55, 0.9], [0.9, 0.9]]}
TRUE = {"gsm8k": [1, -1, 0], "math": [1, 0, -1]}


def cases_of(shared, kind):
    cases = json.loads((shared / "fixtures/golden/benchmarks.json").read_text())["cases"]
    cases = [case for case in cases if case["inputs"]["kind"] == kind]
    assert cases
    return cases


def test_processbench_says_where_its_threshold_comes_from():
    fixed = processbench(SCORES, TRUE)
    assert fixed.thresholds == {"gsm8k": 0.5, "math": 0.5} and str(fixed.protocol) == "fixed at 0.5"
    assert fixed.subsets["gsm8k"].f1 == 1 and fixed.subsets["math"].f1 == 0 and fixed.mean_f1 == 0.5
    chosen = processbench(SCORES, TRUE, ThresholdProtocol("split", split="math"))
    assert chosen.subsets["math"].f1 == 1 and chosen.thresholds["gsm8k"] == chosen.thresholds["math"] == pytest.approx(0.75)
    assert chosen.mean_f1_elsewhere == chosen.subsets["gsm8k"].f1 and str(chosen.protocol) == "chosen on math"
    oracle = processbench(SCORES, TRUE, ThresholdProtocol("oracle"))
    assert oracle.mean_f1 == 1 and oracle.thresholds["gsm8k"] != oracle.thresholds["math"]


def test_processbench_refuses_what_does_not_fit(without_type_checks):
    with pytest.raises(ValueError, match="'nearest'"):
        ThresholdProtocol("nearest")
    with pytest.raises(ValueError, match="alone names a split"):
        ThresholdProtocol("split")
    with pytest.raises(ValueError, match="'omnimath', but the subsets are gsm8k, math"):
        processbench(SCORES, TRUE, ThresholdProtocol("split", split="omnimath"))
    with pytest.raises(ValueError, match="must be the same"):
        processbench(SCORES, {"gsm8k": []})
    with pytest.raises(ValueError, match="math: 1 predictions for 2"):
        processbench_verdicts({"math": [1]}, {"math": [1, 2]})
    with pytest.raises(ValueError, match="first error cannot be step 2 of 2"):
        processbench({"math": [[0.5, 0.5]]}, {"math": [2]})


def test_processbench_interval_and_columns():
    predicted, true = [2] * 6 + [None] * 4 + [-1] * 9 + [0], [2] * 10 + [-1] * 10
    assert f1_of_sums(first_error_columns(predicted, true).sum(0)) == pytest.approx(0.72)
    interval = f1_interval(predicted, true, np.arange(20), 0)
    assert interval.mean == pytest.approx(0.72) and interval.low < 0.72 < interval.high
    assert np.isnan(f1_of_sums(np.array([1.0, 2, 0, 0])))  # no clean solution: not defined


def test_equals_processbench_from_the_critiques(shared):
    """The reference returns nan for 0/0; here both accuracies are reported, and the F1 of nothing found is 0."""
    for case in cases_of(shared, "processbench"):
        critiques, outputs = case["inputs"]["critiques"], case["outputs"]
        verdict = voted_verdict if case["inputs"]["voting"] else critique_verdict
        predicted = [verdict(critique) for critique in critiques]
        assert predicted == outputs["predictions"]
        result = processbench_verdicts({"x": predicted}, {"x": case["inputs"]["labels"]}).subsets["x"]
        ours = {"error_acc": result.accuracy_erroneous, "correct_acc": result.accuracy_clean, "f1": result.f1}
        for name, value in ours.items():
            assert 100 * value == pytest.approx(0 if outputs[name] == "NaN" else outputs[name], abs=1e-12)


def prmbench_rows(case):
    """The reference's reading of its files: 1-based error steps; redundancy scores replace the others in two classes."""
    predictions = {prediction["idx"]: prediction for prediction in case["inputs"]["predictions"]}
    for item in case["inputs"]["items"]:
        kind, prediction = item["classification"], predictions.get(item["idx"])
        wrong, called = [step + 1 in item["error_steps"] for step in range(item["num_steps"])], None
        if prediction is not None:
            called = [score > case["inputs"]["validity_threshold"] for score in prediction["validity_scores"]]
            if "redundancy_scores" in prediction and kind in DIMENSIONS["simplicity"]:
                called = [not score > case["inputs"]["redundancy_threshold"] for score in prediction["redundancy_scores"]]
            wrong = wrong[: len(called)]  # the reference ignores surplus steps; here their number must be right
        yield PrmbenchRow(kind, wrong, called, problem=item["idx"].rsplit("_", 1)[1])


def test_equals_prmbench(shared):
    """Where precision and recall are 0 the F1 is 0 (the reference: -1), and a class without any step has no score and no
    part in the mean of its dimension (the reference averages its -1)."""
    for case in cases_of(shared, "prmbench"):
        result, outputs = prmbench(list(prmbench_rows(case))), case["outputs"]
        defect = "REFERENCE DEFECT" in case["note"]

        def same(ours, theirs, defect=defect):
            if theirs == -1:
                assert ours is None or (defect and ours == 0)
            else:
                assert ours == pytest.approx(theirs, abs=1e-12)

        assert result.answered == pytest.approx(outputs["validity_rate"], abs=1e-12)
        same(result.prmscore, outputs["prmscore_overall"])
        for kind, theirs in outputs["prmscore_by_class"].items():
            same(result.by_class[kind], theirs)
        for dimension, theirs in outputs["prmscore_by_group"].items():
            classes = [outputs["prmscore_by_class"].get(kind, 0) for kind in DIMENSIONS[dimension]]
            if -1 not in classes:
                same(result.by_dimension[dimension], theirs)
        groups = {"total": result.total, **result.classes}
        for name, ours in groups.items():
            theirs = outputs["total"] if name == "total" else {key: value[name] for key, value in outputs["by_class"].items()}
            counts = ours.counts
            for key, value in (("precision", counts.precision), ("recall", counts.recall), ("correct_step_acc", counts.recall),
                               ("wrong_step_acc", counts.negative.recall), ("total_step_acc", counts.accuracy),
                               ("negative_precision", counts.negative.precision), ("f1", ours.f1),
                               ("negative_recall", counts.negative.recall), ("negative_f1", ours.negative_f1),
                               ("first_error_acc", ours.first_error), ("similarity", ours.similarity)):
                same(value, theirs[key])


def test_prmbench_by_hand():
    rows = [PrmbenchRow("confidence", [False] * 75 + [True] * 25, [True] * 70 + [False] * 5 + [True] * 10 + [False] * 15)]
    result = prmbench(rows)
    assert result.total.f1 == pytest.approx(0.903226, abs=1e-6) and result.total.negative_f1 == pytest.approx(2 / 3)
    assert result.prmscore == pytest.approx(0.784946, abs=1e-6) == result.by_dimension["soundness"]
    assert prmscore_interval(rows * 2, 0).mean == pytest.approx(result.prmscore)
    with pytest.raises(ValueError, match="2 decisions for 3 steps"):
        PrmbenchRow("circular", [True] * 3, [True] * 2)
    with pytest.raises(ValueError, match="unknown class 'redundancy'"):
        PrmbenchRow("redundancy", [True], [True])


def test_equals_deltabench(shared):
    for case in cases_of(shared, "deltabench"):
        rows, outputs = case["inputs"]["rows"], case["outputs"]
        predicted, true = [critique_sections(row["critique"]) for row in rows], [row["gold"] for row in rows]
        tasks = [row["task"] for row in rows]
        for task, theirs in {None: outputs["overall"], **outputs["by_task"]}.items():
            chosen = [index for index, name in enumerate(tasks) if task in (None, name)]
            ours = deltabench([predicted[index] for index in chosen], [true[index] for index in chosen])
            for name, value in (("recall_macro", ours.recall_macro), ("precision_macro", ours.precision_macro),
                                ("f1_score_macro", ours.f1_macro), ("recall_micro", ours.recall_micro),
                                ("precision_micro", ours.precision_micro), ("f1_micro", ours.f1_micro)):
                assert value == pytest.approx(theirs[name], abs=1e-12)
    for case in cases_of(shared, "deltabench_row"):
        theirs = case["outputs"]
        row = deltabench([critique_sections(case["inputs"]["critique"])], [case["inputs"]["gold"]]).rows[0]
        assert (row.precision, row.recall, row.f1) == (theirs["precision"], theirs["recall"], theirs["f1_score"])
        assert (row.tp, row.fp, row.fn) == (theirs["tp_step"], theirs["fp_step"], theirs["fn_step"])


def test_deltabench_can_count_late_false_alarms():
    predicted, true = [[3, 9], [2]], [[3], [1, 2]]
    assert deltabench(predicted, true).precision_micro == 1
    counted = deltabench(predicted, true, late="count")
    assert counted.precision_micro == pytest.approx(2 / 3) and counted.rows[0].fp == 1
    assert counted.f1_interval([0, 1], 0).mean == pytest.approx(counted.f1_macro)
    with pytest.raises(ValueError, match="solution 1 has no wrong section"):
        deltabench([[1], [1]], [[1], []])
    with pytest.raises(ValueError, match="'drop' or 'count'"):
        deltabench([], [], late="keep")


def test_low_sections():
    assert low_sections([0.9, 0.9, 0.1, 0.9]) == [2] and low_sections([0.5] * 4) == [] and low_sections([]) == []


def mr_rows(case):
    """Verdicts as they are meant: the reference's substring tests read "Incorrect" as "correct"."""
    meaning = {"correct": True, "wrong": False, "incorrect": False, "the solution is incorrect": False}
    for correct, first, judgement, _, step, reason in case["inputs"]["rows"]:
        numbers = re.findall(r"\d+", step)
        yield MrRow(correct, first, meaning[judgement.lower()], int(numbers[0]) if len(numbers) == 1 else None,
                    reason == "Correct")


def test_equals_mr_score(shared):
    """The messy case is left to the next test: its reference numbers follow from the substring tests."""
    cases = [case for case in cases_of(shared, "mr_score") if "messy" not in case["note"]]
    assert len(cases) >= 3
    for case in cases:
        ours, theirs = mr_score(list(mr_rows(case))), case["outputs"]
        assert ours.score == pytest.approx(theirs["mr_ben_subject"], abs=1e-12)
        if "error" not in theirs["mr_gsm8k"]:  # it divides by zero where MCC is not defined; there it is 0
            assert ours.score == pytest.approx(theirs["mr_gsm8k"]["mr_score"], abs=1e-12)
            assert ours.mcc == pytest.approx(theirs["mr_gsm8k"]["mcc"], abs=1e-12)
            assert ours.step_accuracy == pytest.approx(theirs["mr_gsm8k"]["stats"]["t2-accuracy"], abs=1e-12)
            assert ours.reason_accuracy == pytest.approx(theirs["mr_gsm8k"]["stats"]["t3-accuracy-auto"], abs=1e-12)
    for case in cases_of(shared, "mcc"):
        counts = Confusion(*(case["inputs"][name] for name in ("tp", "fp", "tn", "fn")))
        assert matthews(counts) == pytest.approx(case["outputs"]["mr_ben"], abs=1e-12)


def test_incorrect_reasons_do_not_count_as_correct(shared):
    for case in cases_of(shared, "mr_score"):
        if "messy" in case["note"]:
            ours, theirs = mr_score(list(mr_rows(case))), case["outputs"]["mr_gsm8k"]
            assert ours.reason_accuracy < theirs["stats"]["t3-accuracy-auto"]
    rows = [MrRow(False, 3, False, 3, False), MrRow(False, 2, None, 2, True), MrRow(True, None, True, None)]
    result = mr_score(rows)
    assert result.step_accuracy == 0.5 and result.reason_accuracy == 0 and mr_score([]).score == 0
    with pytest.raises(ValueError, match="exactly if"):
        MrRow(True, 3, True, None)
