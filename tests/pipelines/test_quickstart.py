"""The quickstart end to end at the smallest size, and that a killed run ends with the numbers of an undisturbed one."""

import dataclasses
import json
import shutil

import pytest

from jaxprm.cli.config import resolve
from jaxprm.errors import InputError
from jaxprm.evaluation.results import validate_results
from jaxprm.models import TransformerConfig
from jaxprm.pipelines import quickstart, report
from jaxprm.pipelines.quickstart import PARTS, Quickstart
from jaxprm.progress import SilentProgress
from jaxprm.records import read_json_lines, read_solutions
from jaxprm.rl.loop import ReinforceConfig
from jaxprm.run_directory import RunDirectory
from jaxprm.search.strategies.beam import Beam
from jaxprm.tasks.arithmetic import ArithmeticTask
from jaxprm.training import OptimizerConfig, TrainConfig

TRAINING = TrainConfig(steps=40, optimizer=OptimizerConfig(learning_rate=1e-2), log_every=10, checkpoint_every=20)
TINY = Quickstart(
    task=ArithmeticTask(min_steps=2, max_steps=3),
    model=TransformerConfig(vocab_size=96, width=32, layers=1, heads=2, kv_heads=2, head_dim=16, mlp_dim=48, context=128),
    row_tokens=64, row_steps=64, batch_rows=16, corpus=600, policy=TRAINING, label_problems=12, label_samples=2,
    careless_solutions=24, reward_model=dataclasses.replace(TRAINING, steps=4), monte_carlo_solutions=4, rollouts=2,
    test_problems=6, samples=8, planted_problems=4, limit=32, beam=Beam(2, 4), search_steps=6, search_step_tokens=10,
    reinforce=ReinforceConfig(updates=2, problems=3, samples=4, max_steps=6, checkpoint_every=1), resamples=50)


class Killed(SilentProgress):
    """Interrupts the run when a stage of the given name opens."""

    def __init__(self, name):
        self.name = name

    def stage(self, name, total=None, unit="steps", completed=0):
        if name == self.name:
            raise KeyboardInterrupt
        return super().stage(name, total, unit, completed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = RunDirectory(tmp_path_factory.mktemp("quickstart") / "run", TINY)
    quickstart.run(TINY, directory, SilentProgress())
    return directory


def results(directory):
    found = json.loads(directory.results.read_text())
    return {key: value for key, value in found.items() if key not in ("seconds", "stages")}


def test_results_and_report(finished):
    found = validate_results(json.loads(finished.results.read_text()))
    assert found["seed"] == 0 and found["config_sha256"] == finished.config_sha256
    assert set(found["seconds"]) >= {"policy", "labels", "reward_model", "candidates", "beam", "reinforce_min_form"}
    assert found["pass_at_1"]["mean"] <= found["oracle_at_8"]["mean"]
    page = finished.report.read_text()
    assert "PRM best" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert finished.state == "finished"


def test_the_report_is_built_again_from_the_files(finished, tmp_path):
    copy = tmp_path / finished.path.name
    shutil.copytree(finished.path, copy)
    (copy / "report.html").unlink()
    report.run(copy)
    assert (copy / "report.html").read_text() == finished.report.read_text()
    assert (copy / "results.json").read_bytes() == finished.results.read_bytes()
    status = json.loads((copy / "status.json").read_text())
    (copy / "status.json").write_text(json.dumps(status | {"state": "running"}))
    page = report.run(copy).read_text()  # as far as it has come: the curves of every stage
    assert 'alt="train_policy: loss"' in page and "policy" in page


def test_the_stages_have_disjoint_problems(finished):
    problems = {name: {row["problem"] for _, row in read_json_lines(finished.path / name)}
                for name in ("labels.jsonl", "candidates.jsonl", "beam.jsonl")}
    assert problems["candidates.jsonl"] == problems["beam.jsonl"] and len(problems["beam.jsonl"]) == TINY.test_problems
    assert not problems["labels.jsonl"] & problems["candidates.jsonl"]
    edges = sorted((part.low, part.high) for part in PARTS.values())
    assert all(before[1] <= after[0] for before, after in zip(edges, edges[1:]))


def test_counts_add_up(finished):
    status = finished.finished("labels")
    assert status["solutions"] + status["left_out"] == TINY.label_problems * TINY.label_samples
    assert status["solutions"] == len(list(read_solutions(finished.path / "labels.jsonl")))
    rows = [row for _, row in read_json_lines(finished.path / "candidates.jsonl")]
    assert len(rows) == TINY.test_problems * TINY.samples
    for row in rows:
        assert row["scores"] is None or len(row["scores"]) == len(row["steps"])
        assert row["final_answer"] is None or row["finished"]
    for _, row in read_json_lines(finished.path / "beam.jsonl"):
        assert not row["correct"] or row["finished"]
        assert row["reward_tokens"] <= row["policy_tokens"] + len(row["problem"].split()) + 3


@pytest.mark.parametrize("stage", ["train the reward model", "reinforce (sum_form)"])
def test_a_killed_run_ends_with_the_same_numbers(finished, tmp_path, stage):
    with pytest.raises(KeyboardInterrupt):
        quickstart.run(TINY, RunDirectory(tmp_path / "run", TINY), Killed(stage))
    directory = RunDirectory(tmp_path / "run", TINY)
    assert directory.resumed and directory.state == "running" and not directory.results.exists()
    quickstart.run(TINY, directory, SilentProgress())
    assert results(directory) == results(finished)


def test_the_shipped_config_is_the_default():
    """The gin file spells out what matters; what it leaves out are the defaults of the dataclass."""
    shipped = resolve("quickstart").config
    assert isinstance(shipped, Quickstart) and shipped == Quickstart()
    assert shipped.beam.rows == shipped.samples  # equal budgets


@pytest.mark.parametrize("change, message", [
    (dict(samples=4), "field 'samples' = 4: must be at least 8"),
    (dict(objective="cross_entropy"), "field 'objective' = 'cross_entropy': needs a head with 2 or 3 outputs, scalar has 1"),
    (dict(test_part="policy"), "field 'test_part' = 'policy': must be test or development"),
    (dict(corpus=0), "field 'corpus' = 0: must be at least 1")])
def test_bad_settings(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(TINY, **change)


