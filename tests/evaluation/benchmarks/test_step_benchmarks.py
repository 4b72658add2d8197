"""ProcessBench, PRMBench, DeltaBench, MR-Score, risk and coverage, and steps: files to items, scores to numbers."""

import dataclasses
import json

import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.evaluation.benchmarks import BENCHMARKS, EvaluateOptions, Item, ReadPolicies
from jaxprm.metrics import (
    MrRow,
    ThresholdProtocol,
    auroc,
    average_precision,
    average_precision_statistic,
    deltabench,
    mr_score,
    paired_statistics,
    prmbench,
    processbench,
    risk_coverage,
    statistic_of_rows,
    statistic_of_sums,
)
from jaxprm.metrics.deltabench import low_sections
from jaxprm.metrics.first_error import first_below
from jaxprm.metrics.prmbench import PrmbenchRow, best_prmscore_threshold
from jaxprm.records import Problem, Solution, StepLabels

QUICK = EvaluateOptions(resamples=40)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(name, *files, **policies):
    return BENCHMARKS[name].read(files, ReadPolicies(**policies))


def item(index, labels, kind=None, first_error="compute", **meta):
    """A solution of problem ``index // 2`` with these labels."""
    if first_error == "compute":
        first_error = labels.index(0.0) if 0.0 in labels else -1
    solution = Solution(Problem(str(index), f"p{index // 2}", meta=meta), tuple(f"s{step}" for step in range(len(labels))))
    return Item(f"i{index}", f"p{index // 2}", solution, StepLabels(tuple(labels), first_error), kind, meta)


@pytest.fixture(scope="module")
def items():
    rng = np.random.default_rng(0)
    return [item(index, [float(value) for value in rng.random(rng.integers(2, 7)) < 0.75], "ab"[index % 2])
            for index in range(80)]


@pytest.fixture(scope="module")
def scores(items):
    rng = np.random.default_rng(1)
    return [np.round(np.clip(rng.normal(0.4 + 0.3 * np.array(row.labels.values), 0.25), 0, 1), 2) for row in items]


@pytest.mark.parametrize("protocol", [ThresholdProtocol(), ThresholdProtocol("split", split="a"), ThresholdProtocol("oracle")])
def test_processbench(items, scores, protocol):
    found = BENCHMARKS["processbench"].evaluate(items, scores, dataclasses.replace(QUICK, threshold=protocol))
    rows = {kind: [index for index, row in enumerate(items) if row.kind == kind] for kind in "ab"}
    gold = {kind: [items[index].labels.first_error for index in rows[kind]] for kind in rows}
    whole = processbench({kind: [scores[index] for index in rows[kind]] for kind in rows}, gold, protocol)
    assert found.headline == "mean F1" and found.numbers["mean F1"].mean == pytest.approx(whole.mean_f1, abs=1e-12)
    assert found.settings == {"threshold": str(protocol), "thresholds": whole.thresholds}
    for kind, subset in whole.subsets.items():
        row = found.tables["subsets"][kind]
        assert (row["F1"].mean, row["errors found"].mean, row["clean passed"].mean) == pytest.approx(
            (subset.f1, subset.accuracy_erroneous, subset.accuracy_clean), abs=1e-12)
        assert (row["with error"], row["clean"], row["threshold"]) == (subset.erroneous, subset.clean, whole.thresholds[kind])
    if protocol.kind == "split":
        assert found.numbers["mean F1 elsewhere"].mean == pytest.approx(whole.subsets["b"].f1, abs=1e-12)
    curve = found.lines["Mean F1"]
    assert curve.y[50] == pytest.approx(processbench({k: [scores[i] for i in rows[k]] for k in rows}, gold).mean_f1, abs=1e-12)


def test_processbench_without_a_clean_solution_is_not_defined(items, scores):
    wrong = [index for index, row in enumerate(items) if row.labels.first_error >= 0]
    found = BENCHMARKS["processbench"].evaluate([items[i] for i in wrong], [scores[i] for i in wrong], QUICK)
    assert np.isnan(found.numbers["mean F1"].mean) and found.lines == {}


def test_processbench_reads_its_own_files(tmp_path):
    row = {"problem": "q", "steps": ["a", "b"], "label": 1, "final_answer_correct": False, "generator": "g"}
    gsm8k = tmp_path / "gsm8k.json"
    gsm8k.write_text(json.dumps([row | {"id": "gsm8k-0"}, row | {"id": "math-3", "label": -1}]))
    ours = write(tmp_path / "mine.jsonl", [{"id": "x", "problem": "q  ", "steps": ["a"], "labels": [1], "first_error": None},
                                           {"id": "y", "problem": "q", "steps": ["a"], "labels": [-1]}])
    found = read("processbench", gsm8k, ours)
    assert [(row.id, row.kind, row.skip, row.row) for row in found] == [
        ("gsm8k-0", "gsm8k", None, 1), ("math-3", "math", None, 2), ("x", "mine", "unlabeled", 1), ("y", "mine", None, 2)]
    assert {row.group for row in found} == {"q"} and found[0].labels.first_error == 1
    with pytest.raises(InputError, match="gsm8k.json:1: field 'label' = 2: is not the number of one of the 2 steps"):
        gsm8k.write_text(json.dumps([row | {"label": 2}]))
        read("processbench", gsm8k)
    with pytest.raises(InputError, match="empty.jsonl: has no rows"):
        read("processbench", write(tmp_path / "empty.jsonl", []))


def prmbench_row(kind, index, wrong, steps=3):
    texts = [f"{index}.{step}" for step in range(steps)]
    return {"original_question": "before", "modified_question": "after", "question": "before", "original_process": texts,
            "modified_process": [text + "!" for text in texts], "error_steps": wrong, "modified_steps": wrong, "reason": "r",
            "idx": f"{kind}_{index}", "classification": kind}


def test_prmbench_reads_its_own_file(tmp_path):
    rows = [prmbench_row("redundency", 7, [2]), prmbench_row("circular", 7, [3]), prmbench_row("circular", 8, [1])]
    del rows[2]["original_process"]  # only the originals of "redundency" are read
    found = read("prmbench", write(tmp_path / "p.jsonl", rows))
    assert [(row.id, row.kind, row.meta["original"]) for row in found] == [
        ("redundency_7", "redundency", "/7"), ("redundency_7/original", "correct", "/7"), ("circular_7", "circular", "/7"),
        ("circular_8", "circular", "/8")]
    assert {row.group for row in found} == {"before"} and found[2].labels.values == (1.0, 1.0, 0.0)
    # Of circular 7 one step of three is called right, of its twin two of three; circular 8 has no twin.
    scores = [np.ones(3), np.array([0.9, 0.9, 0.1]), np.array([0.9, 0.1, 0.1]), np.array([0.1, 0.9, 0.9])]
    numbers = BENCHMARKS["prmbench"].evaluate(found, scores, QUICK)
    assert numbers.tables["classes"]["circular"]["similarity"] == pytest.approx(1 / 3)
    assert numbers.tables["classes"]["correct"]["accuracy"] == pytest.approx(2 / 3)


def test_prmbench_says_what_is_wrong_with_a_row(tmp_path):
    row = {"problem": "q", "steps": ["a", "b"], "labels": [1, -1], "meta": {"error_type": "circular"}}
    for change, message in (
            ({"labels": [1, None]}, "field 'labels': must judge every step"),
            ({"meta": {"error_type": "redundancy"}}, "'meta.error_type' = 'redundancy': is not a class of PRMBench"),
            ({"meta": {}}, "field 'meta.error_type': is missing in a solution with wrong steps")):
        with pytest.raises(InputError, match=f"p.jsonl:2: .*{message}"):
            read("prmbench", write(tmp_path / "p.jsonl", [row, row | change]))


def test_prmbench_equals_the_metric(items, scores):
    kinds = ("circular", "confidence", "deception", "correct")
    rows = [dataclasses.replace(row, kind=kinds[index % 4], meta={"original": row.group}) for index, row in enumerate(items)]
    # A class without a wrong step, and unedited solutions without one.
    rows = [dataclasses.replace(row, labels=StepLabels((1.0,) * len(row.solution.steps), -1)) if row.kind == "correct" else row
            for row in rows]
    for threshold in (0.5, 0.3):
        options = dataclasses.replace(QUICK, threshold=ThresholdProtocol("fixed", threshold))
        found = BENCHMARKS["prmbench"].evaluate(rows, scores, options)
        whole = prmbench([PrmbenchRow(row.kind, [value == 0 for value in row.labels.values], (given > threshold).tolist(),
                                      row.group) for row, given in zip(rows, scores)])
        assert found.numbers["PRMScore"].mean == pytest.approx(whole.prmscore, abs=1e-12)
        assert found.numbers["similarity"] == whole.total.similarity
        for name, value in whole.by_dimension.items():
            assert found.numbers[f"  {name}"].mean == pytest.approx(value, abs=1e-12)
        for name, value in whole.by_class.items():
            assert found.tables["classes"][name]["PRMScore"].mean == pytest.approx(value, abs=1e-12)
    # The best threshold: no other one is better.
    planted = [index for index, row in enumerate(rows) if row.kind != "correct"]
    wrong = [[value == 0 for value in rows[index].labels.values] for index in planted]
    best = best_prmscore_threshold([scores[index] for index in planted], wrong)
    options = dataclasses.replace(QUICK, threshold=ThresholdProtocol("oracle"))
    oracle = BENCHMARKS["prmbench"].evaluate(rows, scores, options)
    assert oracle.settings["thresholds"] == {"all": best}
    for threshold in np.linspace(-0.01, 1.01, 103):
        options = dataclasses.replace(QUICK, threshold=ThresholdProtocol("fixed", threshold), resamples=1)
        other = BENCHMARKS["prmbench"].evaluate(rows, scores, options).numbers["PRMScore"].mean
        assert not other > oracle.numbers["PRMScore"].mean + 1e-12


def test_prmbench_equals_the_reference(shared):
    """Its items and validity scores, where no second kind of score decides."""
    cases = [case for case in json.loads((shared / "fixtures/golden/benchmarks.json").read_text())["cases"]
             if case["inputs"]["kind"] == "prmbench" and not any("redundancy_scores" in row for row in
                                                                  case["inputs"]["predictions"])]
    compared = 0
    for case in cases:
        inputs, outputs = case["inputs"], case["outputs"]
        given = {row["idx"]: row["validity_scores"] for row in inputs["predictions"]}
        rows = [(row, given[row["idx"]]) for row in inputs["items"] if len(given.get(row["idx"], ())) == row["num_steps"]]
        if len(rows) < len(inputs["items"]) or outputs["prmscore_overall"] == -1:
            continue
        made = [item(index, [float(step + 1 not in row["error_steps"]) for step in range(row["num_steps"])],
                     row["classification"], original=row["idx"].rsplit("_", 1)[1]) for index, (row, _) in enumerate(rows)]
        options = dataclasses.replace(QUICK, threshold=ThresholdProtocol("fixed", inputs["validity_threshold"]))
        found = BENCHMARKS["prmbench"].evaluate(made, [np.array(values) for _, values in rows], options)
        assert found.numbers["PRMScore"].mean == pytest.approx(outputs["prmscore_overall"], abs=1e-12)
        for name, theirs in (("first error found", "first_error_acc"), ("similarity", "similarity")):
            value = outputs["total"][theirs]  # -1 = not defined
            assert found.numbers[name] == (None if value == -1 else pytest.approx(value, abs=1e-12))
        compared += 1
    assert compared


def test_deltabench(items, scores, tmp_path):
    wrong = [index for index, row in enumerate(items) if row.labels.first_error >= 0]
    chains, given = [items[index] for index in wrong], [10 * scores[index] - 5 for index in wrong]  # any scale
    found = BENCHMARKS["deltabench"].evaluate(chains, given, QUICK)
    true = [[step for step, value in enumerate(row.labels.values) if value == 0] for row in chains]
    whole = deltabench([low_sections(row) for row in given], true)
    for name, value in (("macro F1", whole.f1_macro), ("macro precision", whole.precision_macro),
                        ("macro recall", whole.recall_macro)):
        assert found.numbers[name].mean == pytest.approx(value, abs=1e-12)
    assert found.numbers["micro F1"] == whole.f1_micro
    of_a = [row.f1 for row, chain in zip(whole.rows, chains) if chain.kind == "a"]
    assert found.tables["domains"]["a"]["macro F1"].mean == pytest.approx(np.mean(of_a), abs=1e-12)
    row = {"question": "q", "sections": [{"content": "a"}, {"content": "b"}], "error_section_numbers": [2],
           "idea_error_section_numbers": [], "id": "1", "task_l1": "math"}
    read_back = read("deltabench", write(tmp_path / "d.jsonl", [row, row | {"error_section_numbers": []}]))
    assert [(row.kind, row.skip, row.labels.first_error) for row in read_back] == [
        ("math", None, 1), ("math", "without a wrong section", -1)]


def test_mr_score(items, scores, tmp_path):
    unlocated = dataclasses.replace(items[0], labels=None, meta={"solution_correct_human": "False"})
    rows, given = [*items, unlocated], [*scores, np.ones(len(items[0].solution.steps))]
    found = BENCHMARKS["mr_score"].evaluate(rows, given, QUICK)
    gold = [row.labels.first_error for row in items] + [99]
    calls = [first_below(row, 0.5) for row in given]
    whole = mr_score([MrRow(true == -1, None if true == -1 else true, call == -1, None if call == -1 else call)
                      for true, call in zip(gold, calls)])
    assert [number.mean for number in found.numbers.values()] == pytest.approx(
        [whole.score, whole.mcc, whole.step_accuracy], abs=1e-12)
    assert 0 < whole.score < 0.5 and found.settings["wrong at an unknown step"] == 1
    assert found.tables["subjects"]["a"]["right"] + found.tables["subjects"]["a"]["wrong"] == 41
    options = dataclasses.replace(QUICK, threshold=ThresholdProtocol("split", split="b"))
    chosen = BENCHMARKS["mr_score"].evaluate(rows, given, options).settings["thresholds"]
    oracle = dataclasses.replace(QUICK, threshold=ThresholdProtocol("oracle"))
    assert chosen["a"] == chosen["b"] == BENCHMARKS["mr_score"].evaluate(rows, given, oracle).settings["thresholds"]["b"]

    gsm8k = {"uuid": "u", "question": "q", "model_output_steps": ["a", "b"], "model_output_solution_correctness": "wrong",
             "model_output_solution_first_error_step": "2", "ground_truth_answer": "1",
             "model_output_answer_correctness": "wrong"}
    ben = {"Question_UUID": "v", "Question": "q", "Options": "A", "Model_Solution_Steps": ["a", "b"], "Sampled_Model": "m",
           "Model_Solution_Correctness": "incorrect", "Model_Solution_First_Error_Step": "gone", "Subject": "code"}
    read_back = read("mr_score", write(tmp_path / "g.jsonl", [gsm8k]), write(tmp_path / "b.jsonl", [ben]))
    assert [(row.kind, row.skip, row.labels and row.labels.first_error) for row in read_back] == [
        (None, None, 1), ("code", None, None)]
    BENCHMARKS["mr_score"].evaluate(read_back, [np.ones(2)] * 2, QUICK)


def test_selective(items, scores):
    found = BENCHMARKS["selective"].evaluate(items, scores, QUICK)
    lowest = np.array([row.min() for row in scores])
    right = (lowest >= 0.5) == np.array([row.labels.first_error == -1 for row in items])
    curve = risk_coverage(np.abs(lowest - 0.5), right)
    assert found.numbers["area under risk and coverage"].mean == pytest.approx(curve.area, abs=1e-12)
    assert found.numbers["accuracy at 100% coverage"].mean == pytest.approx(right.mean(), abs=1e-12)
    oracle = BENCHMARKS["selective"].evaluate(items, scores, dataclasses.replace(QUICK, threshold=ThresholdProtocol("oracle")))
    for kind, row in oracle.tables["subsets"].items():
        here = [index for index, one in enumerate(items) if one.kind == kind]
        clean = np.array([items[index].labels.first_error == -1 for index in here])
        best = max(np.mean((lowest[here] >= threshold) == clean) for threshold in np.linspace(-0.01, 1.02, 104))
        assert row["accuracy"] == pytest.approx(best, abs=1e-12)
    # A threshold at the end of the scale leaves no room on one side.
    for end in (0.0, 1.0):
        BENCHMARKS["selective"].evaluate(items, scores, dataclasses.replace(QUICK, threshold=ThresholdProtocol("fixed", end)))


def test_steps(items, scores):
    options = dataclasses.replace(QUICK, chosen=("elsewhere", 0.3))
    found = BENCHMARKS["steps"].evaluate(items, scores, options)
    for name, statistic in found.compared.items():  # a number and its paired test are of one statistic
        assert found.numbers[name] == pytest.approx(options.interval(statistic)) or name == "AUPRC of wrong steps"
    assert found.numbers["first-error F1 at chosen threshold"] == found.details.first_error[1].f1
    assert found.settings["thresholds"] == {"fixed": 0.5, "elsewhere": 0.3}
    # Rows of one problem share prefixes, each of which counts once.
    assert found.details.judged < sum(map(len, scores))
    roc = found.lines["ROC"]
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(found.numbers["AUROC"].mean, abs=2e-3)
    oracle = BENCHMARKS["steps"].evaluate(items, scores, dataclasses.replace(QUICK, threshold=ThresholdProtocol("oracle")))
    assert oracle.details.first_error[1].chosen_on == "the evaluated set itself (oracle)"
    assert oracle.details.first_error[1].f1.mean >= oracle.details.first_error[0].f1.mean


def test_statistics_of_groups():
    """Vectorised statistics equal those of drawn rows, and a paired test is that of the differences."""
    rng = np.random.default_rng(4)
    groups, labels = rng.integers(0, 20, 150), rng.random(150) < 0.3
    first, second = rng.integers(0, 8, 150) + labels, rng.integers(0, 8, 150) + 6 * labels
    fast = average_precision_statistic(first, labels, groups)
    slow = statistic_of_rows(lambda rows: average_precision(first[rows], labels[rows]), groups)
    assert fast.value == pytest.approx(average_precision(first, labels), abs=1e-12)
    assert fast.samples(3, 50) == pytest.approx(slow.samples(3, 50), abs=1e-12)
    assert fast.samples(3, 50) is fast.samples(3, 50)  # kept for paired tests
    other = average_precision_statistic(second, labels, groups)
    test = paired_statistics(other, fast, 3, resamples=200)
    assert test.difference.mean == pytest.approx(other.value - fast.value, abs=1e-12)
    assert test.difference.low > 0 and test.p_value == pytest.approx(2 / 201)
    with pytest.raises(ValueError, match="not of the same groups"):
        paired_statistics(fast, statistic_of_sums(np.ones(2), lambda sums: sums[..., 0], [0, 1]), 0)
    undefined = average_precision_statistic(np.zeros(0), np.zeros(0, bool), [])
    assert np.isnan(undefined.value) and np.isnan(undefined.interval(0).mean)
    nothing = statistic_of_rows(lambda rows: auroc(first[rows], np.ones(len(rows), bool)), groups)
    assert np.isnan(nothing.interval(0, resamples=5).mean)
