"""``jaxprm bench NAME`` on scores from files: no model, no compilation."""

import json

import numpy as np
import pytest

from jaxprm.evaluation.benchmarks import BENCHMARKS
from jaxprm.metrics import processbench
from jaxprm.pipelines import bench

ROWS = 60


@pytest.fixture(scope="module")
def rows():
    """Solutions of 20 problems in two subsets; one without labels."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(ROWS):
        labels = [1 if right else -1 for right in rng.random(rng.integers(2, 5)) < 0.8]
        made.append({"id": f"r{index}", "problem": f"q{index // 3}", "steps": [f"<b>{n}</b>" for n in range(len(labels))],
                     "labels": labels, "meta": {"subset": "ab"[index % 2]}})
    return [*made, {"id": "none", "problem": "q", "steps": ["x"], "labels": None}]


@pytest.fixture(scope="module")
def files(rows, toy, tmp_path_factory):
    """The data, and scores of a good and of a poor system."""
    folder = tmp_path_factory.mktemp("bench")
    rng, paths = np.random.default_rng(1), {"data": toy.write(folder / "data.jsonl", rows)}
    for name, spread in (("good", 0.15), ("poor", 0.45)):
        scored = [{"id": row["id"], "scores": np.clip(rng.normal([0.5 + 0.3 * label for label in row["labels"]], spread), 0, 1)
                   .round(3).tolist()} for row in rows if row["labels"]]
        paths[name] = toy.write(folder / f"{name}.jsonl", scored)
    return paths


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(bench, "RESAMPLES", 60)


def test_numbers_tests_and_page(toy, files, rows, tmp_path, capsys):
    out, page, plot = (tmp_path / "out" / name for name in ("n.json", "p.html", "p.png"))
    assert toy.call("bench", "processbench", "--data", files["data"], "--scores", f"good={files['good']}", "--scores",
                    files["poor"], "--threshold", "split:a", "--json", out, "--html", page, "--plot", plot) == 0
    results = json.loads(out.read_text())
    found = results["sets"]["processbench"]
    systems = {"good": "good", str(files["poor"]): "poor"}
    assert list(found["systems"]) == list(systems)
    assert results["threshold"] == "chosen on a" and results["resamples"] == 60
    assert found["counts"] == {"rows": ROWS + 1, "unlabeled": 1, "empty_steps": 0, "overlong": 0}

    given = {name: {row["id"]: row["scores"] for row in map(json.loads, files[name].read_text().splitlines())}
             for name in systems.values()}
    kinds = {kind: [row for row in rows[:ROWS] if row["meta"]["subset"] == kind] for kind in "ab"}
    gold = {kind: [row["labels"].index(-1) if -1 in row["labels"] else -1 for row in part] for kind, part in kinds.items()}
    for system, name in systems.items():
        whole = processbench({kind: [given[name][row["id"]] for row in part] for kind, part in kinds.items()}, gold,
                             bench.parse_threshold("split:a"))
        value = found["systems"][system]
        assert value["headline"] == "mean F1" and value["numbers"]["mean F1"]["mean"] == pytest.approx(whole.mean_f1)
        assert value["settings"]["thresholds"] == pytest.approx(whole.thresholds)
    numbers = [found["systems"][system]["numbers"]["mean F1"] for system in systems]
    test = next(test for test in found["paired"] if test["number"] == "mean F1")
    assert (test["first"], test["second"], test["problems"]) == (*systems, 20)
    assert test["difference"]["mean"] == pytest.approx(numbers[0]["mean"] - numbers[1]["mean"])
    assert test["difference"]["low"] > 0 and test["p_value"] == pytest.approx(2 / 61)

    printed = capsys.readouterr().out
    assert "60 solutions of 20 problems (left out: 1 unlabelled, 0 too" in printed and "threshold: chosen on a" in printed
    assert "mean F1: differences, paired by problem" in printed
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 2 and "Mean F1" in text and "arXiv 2412.06559" in text
    assert str(files["poor"]) in text and "0.033" in text
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if BENCHMARKS[name].twin is not None])
def test_a_twin_needs_no_files(toy, tmp_path, name):
    items = BENCHMARKS[name].twin(3, 6)
    scores = toy.write(tmp_path / "s.jsonl", [
        {"id": item.id, "scores": [0.3 + 0.1 * (step % 5) for step in range(len(item.solution.steps))]} for item in items])
    out, page = tmp_path / "n.json", tmp_path / "p.html"
    assert toy.call("bench", name, "--twin", 6, "--seed", 3, "--scores", scores, "--json", out, "--html", page) == 0
    results = json.loads(out.read_text())
    value = results["sets"][name]["systems"][str(scores)]
    assert results["twin"] == {"problems": 6, "seed": 3} and value["headline"] == next(iter(value["numbers"]))
    assert "6 problems, seed 3" in page.read_text()
    assert toy.call("bench", name, "--twin", 6, "--seed", 4, "--scores", scores) in (0, 2)  # other items may have the same ids


def test_thresholds(toy, files, tmp_path):
    found = {}
    for threshold in ("0.4", "oracle"):
        out = tmp_path / "n.json"
        assert toy.call("bench", "processbench", "--data", files["data"], "--scores", files["good"], "--threshold", threshold,
                        "--json", out) == 0
        found[threshold] = json.loads(out.read_text())["sets"]["processbench"]["systems"][str(files["good"])]
    assert found["0.4"]["settings"] == {"threshold": "fixed at 0.4", "thresholds": {"a": 0.4, "b": 0.4}}
    assert found["oracle"]["numbers"]["mean F1"]["mean"] >= found["0.4"]["numbers"]["mean F1"]["mean"]


def test_each_file_is_a_set_of_steps(toy, files, rows, tmp_path):
    other = toy.write(tmp_path / "other.jsonl", [row | {"id": f"{row['id']}'"} for row in rows])
    scores = toy.write(tmp_path / "s.jsonl", [row | {"id": f"{row['id']}{mark}"} for mark in ("", "'") for row in map(
        json.loads, files["good"].read_text().splitlines())])
    out = tmp_path / "n.json"
    assert toy.call("bench", "steps", "--data", files["data"], "--data", other, "--scores", f"s={scores}", "--json", out) == 0
    sets = json.loads(out.read_text())["sets"]
    assert list(sets) == [str(files["data"]), str(other)]
    first, second = (part["systems"]["s"]["numbers"] for part in sets.values())
    assert first == second and list(first)[0] == "AUROC within position" and first["AUPRC of wrong steps"]["mean"] > 0.8


def test_scores_on_another_scale(toy, files, tmp_path, capfd):
    """0.5 says nothing about them, so that the threshold must be meant."""
    scores = toy.write(tmp_path / "s.jsonl", [row | {"scores": [4 * score - 2 for score in row["scores"]]} for row in map(
        json.loads, files["good"].read_text().splitlines())])
    arguments = ["bench", "processbench", "--data", files["data"], "--scores", f"wide={scores}"]
    assert toy.call(*arguments) == 2
    assert "wide: its scores are no probabilities, so that 0.5 is no threshold for them; give" in capfd.readouterr().err
    out = tmp_path / "n.json"
    assert toy.call(*arguments, "--threshold", "oracle", "--scores", f"same={files['good']}", "--json", out) == 0
    wide, same = json.loads(out.read_text())["sets"]["processbench"]["systems"].values()
    assert wide["numbers"] == same["numbers"]  # only their order matters


def test_list(toy, capsys):
    assert toy.call("bench", "--list") == 0
    printed = " ".join(capsys.readouterr().out.split())
    for benchmark in BENCHMARKS.values():
        assert f"{benchmark.name}: {benchmark.title}" in printed
    assert "arXiv 2412.06559" in printed and "PRMScore: mean of the F1" in printed


@pytest.mark.parametrize(("arguments", "message"), [
    (["processbench", "--data", "{data}"], "field 'model': nothing to evaluate; give --model, --scores or --baselines-from"),
    (["processbench", "--scores", "{good}"], "field 'data': give the files of the benchmark, or --twin N"),
    (["processbench", "--twin", "2", "--data", "{data}", "--scores", "{good}"], "'data': cannot be given beside --twin"),
    (["processbench", "--data", "{data}", "--scores", "{good}", "--scores", "{good}"], "is the name of two systems; give"),
    (["processbench", "--data", "{data}", "--scores", "{good}", "--threshold", "half"], "= 'half': must be a number, split"),
    (["processbench", "--data", "{data}", "--scores", "{good}", "--threshold", "nan"], "= 'nan': must be a number, split"),
    (["steps", "--data", "{data}", "--data", "{data}", "--scores", "{good}"], "data.jsonl': is given twice"),
    (["processbench", "--data", "{data}", "--scores", "{good}", "--threshold", "split:c"],
     "field 'threshold' = 'split:c': is not a subset of this benchmark; there are a, b"),
    (["steps", "--data", "{data}", "--scores", "{good}", "--threshold", "split:a"], "does not take this kind of threshold"),
    (["deltabench", "--data", "{data}", "--scores", "{good}", "--threshold", "0.3"], "it needs no threshold"),
    (["processbench", "--data", "{data}", "--scores", "{data}"], "data.jsonl:1: field 'scores' = None: must be a list"),
    (["processbench", "--data", "{data}", "--scores", "{good}", "--cache", "c", "--no-cache"], "cannot be given beside"),
    ([], "no benchmark; give the name of one; --list describes them"),
    (["nobench", "--data", "{data}", "--scores", "{good}"], "value 'nobench': no such benchmark; known: steps, processbench"),
])
def test_bad_input(toy, files, tmp_path, capfd, arguments, message):
    out = tmp_path / "n.json"
    assert toy.call("bench", *(part.format(**files) for part in arguments), "--json", out) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error and not out.exists()
