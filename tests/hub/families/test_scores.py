"""Every row of every published family, end to end: outputs within 1e-4, scores within 5e-5 (fp32) of the original code."""

import jax
import numpy as np
import pytest

from jaxprm.hub.load import load_prm
from jaxprm.records import Problem, Solution
from jaxprm.scoring import StepScorer, step_outputs
from jaxprm.scoring import scorer as scorer_module

LONGEST = 448
"""Tokens that hold every row."""
SUMS = {"implicit": (1e-3, 1e-6)}
"""Tolerances (outputs, scores) of log-ratios, which are sums over a hundred tokens and carry a factor of 0.001."""


@jax.jit
def outputs_and_scores(model, batch):
    outputs = step_outputs(model, batch)
    return outputs, model.head.score(outputs)


def solutions(rows):
    return [Solution(Problem(str(index), row["problem"], row.get("reference")), tuple(row["steps"]))
            for index, row in enumerate(rows)]


def load(case, shared, **options):
    folder = case.folder(shared)
    reference = None if case.reference is None else folder / case.reference
    return load_prm(folder / case.model, case.family, reference, settings=case.settings, **options)


@pytest.fixture
def one_shape(monkeypatch):
    """One compilation per model instead of one per bucket."""
    monkeypatch.setattr(scorer_module, "bucket", lambda length, smallest=32: LONGEST if smallest == 32 else 16)
    monkeypatch.setattr(scorer_module, "bucket_rows", lambda count, most, divisor=1: most)
    seen = []

    def call(model, batch):
        outputs, scores = outputs_and_scores(model, batch)
        seen.append((np.asarray(outputs), np.asarray(batch.step_mask)))
        return scores

    monkeypatch.setattr(scorer_module, "_score_steps", call)
    return seen


def test_outputs_and_scores_are_those_of_the_original_code(case, shared, one_shape):
    loaded, rows = load(case, shared), case.rows(shared)
    assert loaded.info["family"] == case.family
    scores = StepScorer(loaded.model, loaded.encoder, batch_tokens=12 * LONGEST).score(solutions(rows))
    assert [len(values) for values in scores] == [len(row["steps"]) for row in rows]
    outputs_within, scores_within = SUMS.get(case.family, (1e-4, 1e-4 if case.family == "pqm" else 5e-5))
    if case.family == "implicit":
        outputs = [values[:, None] / loaded.model.coefficient for values in scores]
    else:
        found = np.concatenate([values[mask] for values, mask in one_shape])
        outputs = np.split(found, np.cumsum([len(row["steps"]) for row in rows])[:-1])
    for row, values, raw in zip(rows, scores, outputs):
        lines = row.get("line_of_step_end", slice(None))
        if case.family == "reasonflux":
            values, raw = values[-1:], raw[-1:]
        np.testing.assert_allclose(values, np.array(row["scores"])[lines], atol=scores_within, rtol=0, err_msg=row["id"])
        expected = np.array(row["logits"]).reshape(len(row["scores"]), -1)[lines]
        swapped = case.family in ("math-shepherd", "rlhflow", "openr", "er-prm", "openrlhf")  # published as (good, bad)
        np.testing.assert_allclose(raw, expected[:, ::-1] if swapped else expected, atol=outputs_within, rtol=0,
                                   err_msg=row["id"])


@pytest.mark.parametrize("name", ["rlhflow", "skywork", "universal_prm_assumed", "eurus_prm"])
def test_a_batch_gives_what_each_row_gives_alone(name, shared, cases):
    case = cases[name]
    loaded, rows = load(case, shared), case.rows(shared)
    rows = [row for row in rows if row["id"].split("_")[0][1:] in ("0", "2", "8")]
    assert len(rows) == 3
    scorer = StepScorer(loaded.model, loaded.encoder, batch_tokens=1024)
    together = scorer.score(solutions(rows))
    for one, values in zip(solutions(rows), together):
        np.testing.assert_allclose(scorer.score([one])[0], values, atol=1e-6)


def test_bfloat16_is_near(shared, cases, one_shape):
    case = cases["qwen_math_prm"]
    loaded, rows = load(case, shared, dtype="bfloat16"), case.rows(shared)
    assert loaded.model.config.dtype == "bfloat16" and loaded.model.backbone.embedding[...].dtype == "bfloat16"
    assert loaded.model.head.kernel[...].dtype == "float32"
    scores = np.concatenate(StepScorer(loaded.model, loaded.encoder, batch_tokens=12 * LONGEST).score(solutions(rows)))
    error = np.abs(scores - np.concatenate([row["scores"] for row in rows]))
    assert 1e-5 < error.max() < 0.03
