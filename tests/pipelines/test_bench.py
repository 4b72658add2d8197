"""``jaxprm bench steps``: numbers of models and baselines on the same rows."""

import json

import pytest

from jaxprm.data.solutions import split_by_problem
from jaxprm.evaluation import StepPredictions, evaluate_steps
from jaxprm.errors import InputError
from jaxprm.hub import load_reward_model, save_model
from jaxprm.hub.load import load_prm
from jaxprm.pipelines import bench
from jaxprm.pipelines.bench import run
from jaxprm.progress import SilentProgress
from jaxprm.records import read_solutions
from jaxprm.scoring.scorer import StepScorer


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """The intervals have tests of their own."""
    monkeypatch.setattr(bench, "RESAMPLES", 20)


@pytest.fixture
def data(toy, tmp_path):
    """Other problems than the model was trained on; one row without labels."""
    rows = [row | {"problem": row["problem"].replace("Add", "Take")} for row in toy.rows(12, seed=9)]
    return toy.write(tmp_path / "bench.jsonl", [*rows, {"problem": "Add .", "steps": ["so"], "labels": None}])


def test_numbers_of_a_model(toy, trained, data, tmp_path, capsys):
    out, plot = tmp_path / "out.json", tmp_path / "plots" / "out.png"
    assert toy.call("bench", "steps", "--model", trained, "--data", data, "--json", out, "--plot", plot) == 0
    results = json.loads(out.read_text())
    found = results["sets"][str(data)]
    assert found["counts"] == {"rows": 49, "unlabeled": 1, "empty_steps": 0, "overlong": 0}
    assert found["labels"]["solutions"] == 48 and results["neutral"] == "good"
    value = found["systems"][str(trained)]

    loaded = load_reward_model(trained)
    items = [item for item in read_solutions(data) if item.labels is not None]
    scores = StepScorer(loaded.model, loaded.encoder).score([item.solution for item in items])
    expected = evaluate_steps(StepPredictions.from_solutions(items, scores), 0, resamples=20)
    assert value["auroc"]["mean"] == pytest.approx(expected.auroc.mean, abs=1e-6)
    assert value["judged"] == 72 and value["auroc"]["mean"] > 0.95  # 6 distinct prefixes per problem
    fixed, chosen = value["first_error"]
    assert fixed["threshold"] == 0.5 and fixed["chosen_on"] == "fixed" and fixed["erroneous"] == 24
    assert chosen["threshold"] == loaded.info["threshold"]["value"]
    assert chosen["chosen_on"] == "held-out problems of the training files"
    printed = capsys.readouterr().out
    assert "48 solutions of 12 problems (left out: 1 unlabelled, 0 too" in printed
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_baselines_beside_it(trained, labelled, data):
    results = run("steps", [trained], [data], baselines_from=[labelled], progress=SilentProgress())
    systems = results["sets"][str(data)]["systems"]
    assert list(systems) == [str(trained), "position and length (causal)", "position and length", "TF-IDF"]
    assert systems["TF-IDF"].details.auroc.mean > 0.99  # "oops" says it all
    assert 0.3 < systems["position and length (causal)"].details.auroc_within_position.mean < 0.9
    for name in list(systems)[1:]:
        assert systems[name].details.first_error[1].chosen_on == "held-out problems of the files it was fitted on"
    # Fitted on the problems that the model was trained on, not on those it held out.
    train, _ = split_by_problem(read_solutions(labelled), 0.3)
    from jaxprm.evaluation import fit_tfidf
    assert fit_tfidf(train).examples == 6 * len(train) // 4


def test_rows_that_are_too_long(toy, trained, tmp_path, capsys):
    rows = toy.rows(6)
    rows[2]["steps"][-1] += " so" * 90
    data = toy.write(tmp_path / "long.jsonl", rows)
    assert toy.call("bench", "steps", "--model", trained, "--data", data) == 2
    assert "long.jsonl:3: field 'steps': has" in capsys.readouterr().err
    results = run("steps", [trained], [data], overlong="drop", progress=SilentProgress())
    found = results["sets"][str(data)]
    assert found["counts"]["overlong"] == 1 and found["systems"][str(trained)].details.solutions == 23


def test_policies(toy, trained, data, tmp_path):
    loaded = load_reward_model(trained)
    results = run("steps", [trained], [data], neutral="bad", progress=SilentProgress())
    good = run("steps", [trained], [data], progress=SilentProgress())
    right = [value["sets"][str(data)]["systems"][str(trained)].details.right for value in (good, results)]
    assert right == [pytest.approx(4 / 6), pytest.approx(3 / 6)]
    import dataclasses

    from jaxprm.steps import StepEncoder
    encoder = StepEncoder(dataclasses.replace(loaded.encoder.format, neutral="ignore"), loaded.encoder.tokenizer)
    other = save_model(tmp_path / "other", loaded.model, encoder, {})
    systems = run("steps", [trained, other], [data], neutral="good", progress=SilentProgress())["sets"][str(data)]
    assert len(systems["systems"][str(other)].details.first_error) == 1  # nothing is known about its threshold
    assert toy.call("bench", "steps", "--model", trained, "--model", other, "--data", data) == 2


@pytest.mark.parametrize(("arguments", "message"), [
    (["rewards", "--model", "{model}", "--data", "{data}"], "value 'rewards': no such benchmark; known: steps"),
    (["steps", "--model", "{model}", "--data", "absent.jsonl"], "absent.jsonl: no such file"),
    (["steps", "--model", "absent", "--data", "{data}"], "absent: no such directory"),
    (["steps", "--model", "{model}", "--data", "{data}", "--overlong", "truncate"], "Invalid value for '--overlong'"),
    (["steps", "--model", "{model}", "--data", "{data}", "--neutral", "fine"], "Invalid value for '--neutral'"),
    (["steps", "--model", "{model}", "--data", "{data}", "--after-error", "x"], "Invalid value for '--after-error'"),
    (["steps", "--model", "{model}", "--data", "{bad}"], "bad.jsonl:1: field 'labels': has 1 labels for 2 steps"),
    (["steps", "--model", "{model}", "--data", "{unlabelled}"], "no usable solutions (1 rows, 1 of them without"),
    (["steps", "--model", "{model}", "--data", "{data}", "--baselines-from", "absent"], "absent: no such file"),
])
def test_bad_input(toy, trained, data, tmp_path, capfd, arguments, message):
    bad = toy.write(tmp_path / "bad.jsonl", [{"problem": "x", "steps": ["a", "b"], "labels": [1]}])
    unlabelled = toy.write(tmp_path / "unlabelled.jsonl", [{"problem": "x", "steps": ["a", "b"]}])
    out = tmp_path / "out.json"
    filled = [part.format(model=trained, data=data, bad=bad, unlabelled=unlabelled) for part in arguments]
    assert toy.call("bench", *filled, "--json", out) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error and not out.exists()


def test_a_published_model(shared, data):
    prms = shared / "fixtures" / "hf" / "prm"
    results = run("steps", [prms / "trl_llama"], [data], progress=SilentProgress())
    found = results["sets"][str(data)]["systems"][str(prms / "trl_llama")]
    loaded = load_prm(prms / "trl_llama")
    items = [item for item in read_solutions(data) if item.labels is not None]
    scores = StepScorer(loaded.model, loaded.encoder).score([item.solution for item in items])
    expected = evaluate_steps(StepPredictions.from_solutions(items, scores), 0, resamples=20)
    assert found.details.auroc.mean == pytest.approx(expected.auroc.mean, abs=1e-6) and results["neutral"] == "good"
    with pytest.raises(InputError, match="pqm: its scores are no probabilities"):
        run("steps", [prms / "pqm"], [data], progress=SilentProgress())


def test_kept_scores_cost_no_forward_pass(toy, trained, data, tmp_path, monkeypatch):
    """Neither for another benchmark on the same solutions, nor for those that a killed process has scored."""
    scored = []
    score_rows = StepScorer.score_rows

    def counted(self, encoded, on_batch):
        if len(scored) + len(encoded) > limit:
            raise KeyboardInterrupt
        scored.extend(encoded)
        return score_rows(self, encoded, on_batch)

    monkeypatch.setattr(StepScorer, "score_rows", counted)
    monkeypatch.setattr(bench, "_CHUNK", 400)
    arguments = ["--model", trained, "--data", data, "--cache", tmp_path / "kept"]
    limit = 40
    assert toy.call("bench", "steps", *arguments) == 130 and 0 < len(scored) <= 40
    limit = 48
    found = {}
    for name in ("steps", "processbench", "selective"):
        assert toy.call("bench", name, *arguments, "--json", tmp_path / "out.json") == 0
        found[name] = json.loads((tmp_path / "out.json").read_text())
    assert len(scored) == 48 and (tmp_path / "kept" / "scores.sqlite").is_file()

    limit = 96
    assert toy.call("bench", "steps", *arguments[:4], "--no-cache", "--json", tmp_path / "out.json") == 0
    assert len(scored) == 96
    fresh = json.loads((tmp_path / "out.json").read_text())["sets"][str(data)]["systems"][str(trained)]
    kept = found["steps"]["sets"][str(data)]["systems"][str(trained)]
    assert kept["numbers"]["AUROC"]["mean"] == pytest.approx(fresh["numbers"]["AUROC"]["mean"], abs=1e-6)
    # Joined to one step, the same texts are other rows to the model, but for those of one step.
    rows = [row | {"steps": [" ".join(row["steps"])], "labels": row["labels"][-1:], "first_error": None}
            for row in map(json.loads, data.read_text().splitlines()) if row["labels"]]
    limit = 144
    arguments[3] = toy.write(tmp_path / "joined.jsonl", rows)
    assert toy.call("bench", "steps", *arguments) == 0 and len(scored) == 96 + 36


def test_models_and_scores_side_by_side(toy, trained, data, tmp_path):
    """The rows that do not fit the model count for nobody."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[2]["steps"][-1] += " so" * 90
    rows = [row | {"id": str(number)} for number, row in enumerate(rows)]
    long = toy.write(tmp_path / "long.jsonl", rows)
    scores = toy.write(tmp_path / "s.jsonl", [{"id": row["id"], "scores": [0.5 for _ in row["steps"]]} for row in rows])
    results = run("processbench", [trained], [long], scores=[f"same={scores}"], overlong="drop", progress=SilentProgress())
    found = results["sets"]["processbench"]
    assert found["counts"]["overlong"] == 1 and found["labels"].solutions == 35
    test = found["paired"][0]
    assert (test["first"], test["second"], test["number"]) == (str(trained), "same", "mean F1")
    assert test["difference"].mean == pytest.approx(found["systems"][str(trained)].numbers["mean F1"].mean)  # minus 0
