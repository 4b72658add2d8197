"""``jaxprm report``: the page of a run from its files alone, finished or not; and evaluations while a model is trained."""

import contextlib
import dataclasses
import json
import os
import signal
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxprm.errors import InputError
from jaxprm.evaluation.results import to_json
from jaxprm.evaluation.steps import StepPredictions, evaluate_steps
from jaxprm.pipelines import report
from jaxprm.progress import SilentProgress
from jaxprm.run_directory import RunDirectory
from jaxprm.training import Checkpoints, read_metrics


class Stopped(Exception):
    pass


class StopsAfter(SilentProgress):
    """Raises when a stage has advanced so often; calls ``then`` first."""

    def __init__(self, count, then=lambda: None):
        self.left, self.then = count, then

    @contextlib.contextmanager
    def stage(self, name, total=None, unit="steps", completed=0):
        yield self

    def advance(self, n=1, *, tokens=0, **fields):
        self.left -= 1
        if not self.left:
            self.then()
            raise Stopped


def test_the_page_of_a_finished_run_is_built_again(toy, trained, tmp_path):
    copy = tmp_path / trained.name
    shutil.copytree(trained, copy)
    before = (copy / "report.html").read_text()
    (copy / "report.html").unlink()
    assert toy.call("report", copy) == 0
    assert (copy / "report.html").read_text() == before
    for text in ("step AUROC within position", "oops maybe", "binary_cross_entropy", "learning rate", "width 16"):
        assert text in before, text


def test_a_run_under_way_has_a_page(toy, labelled, tmp_path):
    """Also from another process, while the run goes on: nothing it needs is only in memory."""
    pages = []

    def build():
        assert toy.call("report", tmp_path / "run") == 0
        pages.append((tmp_path / "run" / "report.html").read_text())

    with pytest.raises(Stopped):
        toy.train(toy.config([labelled]), tmp_path / "run", StopsAfter(10, build))
    assert "This run has not ended; its last logged step is 8." in pages[0] and "Reliability" not in pages[0]
    assert "solutions of" in pages[0] and 'alt="loss"' in pages[0]
    toy.train(toy.config([labelled]), tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "has not ended" not in page and "Reliability" in page


def test_what_is_no_run_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"is not a run directory \(it has no config.json\); give the directory of --run"):
        report.run(tmp_path)
    (tmp_path / "config.json").write_text('{"sha256": "a"}')
    with pytest.raises(InputError, match="config.json: does not hold a config"):
        report.run(tmp_path)


def test_an_evaluation_survives_json():
    scores = [np.array([0.9, 0.2]), np.array([0.8]), np.array([0.3, 0.4, 0.1])]
    predictions = StepPredictions(scores, [[1, 0], [1], [1, None, 1]], [1, -1, None], ["a", "b", "c"], ["kind", None, None])
    for labels in (predictions, dataclasses.replace(predictions, labels=[[1, 1], [1], [1, None, 1]])):  # one class: NaN
        evaluated = evaluate_steps(labels, 0, resamples=20)
        text = json.dumps(to_json(evaluated))
        again = report.evaluation(json.loads(text))
        assert json.dumps(to_json(again)) == text and type(again.first_error[0]) is type(evaluated.first_error[0])
        np.testing.assert_array_equal(again.calibration.accuracy, evaluated.calibration.accuracy)


def test_evaluations_during_training_agree_with_the_last_one(toy, labelled, tmp_path):
    training = dataclasses.replace(toy.config([labelled]).training, evaluate_every=8, best_by="loss", best_is="lowest")
    directory = toy.train(toy.config([labelled], training=training), tmp_path / "run")
    lines = [line for line in read_metrics(directory.metrics) if "evaluation/loss" in line]
    assert [line["step"] for line in lines] == [8, 16, 24]
    best = min(lines, key=lambda line: line["evaluation/loss"])
    results = json.loads(directory.results.read_text())
    for name in ("step_auroc", "first_error_f1", "ece"):
        np.testing.assert_allclose(best[f"evaluation/{name}"], results[name]["mean"], rtol=1e-5, err_msg=name)
    assert 'alt="step auroc (held out)"' in directory.report.read_text()
    about = Checkpoints(directory.checkpoints, {}).about()
    assert json.loads(about["config_text"])["objective"] == "binary_cross_entropy"
    assert json.loads(about["step_format"])["separator"] == "<step>" and about["config"] == directory.config_sha256
    with pytest.raises(InputError, match="field 'evaluate_every' = 8: there is nothing to evaluate on; hold problems out"):
        toy.train(toy.config([labelled], training=training, held_out=0.0), tmp_path / "none")


def test_the_command_line_stops_and_diverges_with_codes_of_their_own(toy, labelled, tmp_path):
    """A real process: SIGTERM ends it with 75 and one line; a rate beyond reason with 3 and the batch."""
    environment = os.environ | {"JAXPRM_CACHE": str(tmp_path / "cache"), "JAX_NUM_CPU_DEVICES": "1"}

    def start(name, steps, *more):
        (tmp_path / f"{name}.gin").write_text(toy.gin(labelled, steps))
        command = [sys.executable, "-m", "jaxprm.cli.main", "train", tmp_path / f"{name}.gin", "--run", tmp_path / name,
                   "--profile", "1:1", *more]
        return subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True)

    process = start("stopped", 100_000)
    deadline = time.monotonic() + 120
    while len(read_metrics(tmp_path / "stopped" / "metrics.jsonl")) < 3 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == 75
    assert errors[-1].startswith("error: train the PRM: stopped by SIGTERM after step ") and errors[-1].endswith("from there")
    assert RunDirectory.existing(tmp_path / "stopped").state == "running" and "Traceback" not in "".join(errors)
    assert list((tmp_path / "stopped" / "profile").rglob("*.xplane.pb"))

    process = start("diverged", 40, "--gin.OptimizerConfig.learning_rate=1e30")
    errors = process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == 3 and "Traceback" not in "".join(errors)
    assert errors[-1].startswith("error: train the PRM: ") and "lower the learning rate" in errors[-1]
    (kept,) = (tmp_path / "diverged").glob("nonfinite_step_*.npz")
    assert str(kept) in errors[-1]
