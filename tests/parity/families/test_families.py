"""Fresh random models of every published family, computed by PyTorch: here they have the same ids, logits and scores, and what
is exported from here has them in transformers."""

import jax
import numpy as np
import pytest

from jaxprm.hub.families import Settings
from jaxprm.hub.load import load_prm
from jaxprm.pipelines import export
from jaxprm.progress import SilentProgress
from jaxprm.records import Problem, Solution
from jaxprm.scoring import StepScorer, step_outputs
from jaxprm.scoring.implicit import ImplicitModel, implicit_scores
from jaxprm.steps.batch import pad_solutions

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

LOGITS, SCORES = 1e-4, 5e-5
LOG_RATIOS, IMPLICIT_SCORES = 1e-3, 1e-6  # sums over a hundred tokens, which the family multiplies by 0.001


@jax.jit
def outputs_and_scores(model, batch, starts):
    with jax.default_matmul_precision("highest"):
        if isinstance(model, ImplicitModel):
            scores = implicit_scores(model, batch, starts)
            return scores[..., None] / model.coefficient, scores
        outputs = step_outputs(model, batch)
        return outputs, model.head.score(outputs)


def load(expected):
    return load_prm(expected.directory, expected.family, expected.reference, settings=Settings(**expected.spec.settings))


def encode(loaded, expected):
    """The rows of every solution as our encoder makes them."""
    return [loaded.encoder.encode_rows(problem, steps, answer)
            for (problem, steps), answer in zip(expected.problems, expected.answers)]


def test_ids_positions_logits_and_scores(name, published):
    expected = published(name)
    loaded = load(expected)
    assert loaded.info["family"] == expected.family
    found = encode(loaded, expected)
    for ours, theirs, (_, steps) in zip(found, expected.rows, expected.problems):
        assert sum(len(row[1]) for row in ours) == len(steps)
        assert [tuple(row) for row in ours] == [tuple(row) for row in theirs]

    rows = [row for solution in found for row in solution]
    batch = pad_solutions([row[:2] for row in rows], max(len(row[0]) for row in rows), 3)
    starts = np.array([row[2] if len(row) > 2 else 0 for row in rows], np.int32)
    outputs, scores = (np.asarray(value)[batch.step_mask] for value in outputs_and_scores(loaded.model, batch, starts))
    logits, within = np.concatenate(expected.logits), (LOG_RATIOS, IMPLICIT_SCORES) if expected.reference else (LOGITS, SCORES)
    assert logits.std() > 0.05, "logits too small to tell anything"
    print(f"{name}: largest difference of logits {np.abs(outputs - logits).max():.1e} (spread {logits.std():.2f}), "
          f"of scores {np.abs(scores - np.concatenate(expected.scores)).max():.1e}")
    np.testing.assert_allclose(outputs, logits, rtol=0, atol=within[0])
    value = LOGITS if name == "pqm" else within[1]  # its scores are its logits
    np.testing.assert_allclose(scores, np.concatenate(expected.scores), rtol=0, atol=value)


def test_the_scorer_puts_scores_in_order(published):
    """`StepScorer` on one family with several rows per solution and one with a single row."""
    for name in ("universal-prm", "rlhflow"):
        expected = published(name)
        loaded = load(expected)
        solutions = [Solution(Problem(str(index), problem, answer), tuple(steps)) for index, ((problem, steps), answer) in
                     enumerate(zip(expected.problems, expected.answers))]
        for found, scores in zip(StepScorer(loaded.model, loaded.encoder).score(solutions), expected.scores, strict=True):
            np.testing.assert_allclose(found, scores, rtol=0, atol=SCORES)


def test_exports(name, published, transformers, tmp_path, monkeypatch):
    expected = published(name)
    out = export.run(tmp_path / "out", model=expected.directory, family=expected.family, reference=expected.reference,
                     settings=Settings(**expected.spec.settings), progress=SilentProgress())
    task = "CausalLM" if expected.reference else "TokenClassification"
    remote = expected.spec.head in ("mlp", "ensemble")
    model, info = getattr(transformers, f"AutoModelFor{task}").from_pretrained(
        out, attn_implementation="eager", output_loading_info=True, trust_remote_code=remote)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info

    def logits(model, ids):
        with torch.no_grad():
            return model.eval()(input_ids=torch.tensor([ids]), use_cache=False).logits[0].numpy()

    if expected.reference:
        original = transformers.AutoModelForCausalLM.from_pretrained(expected.directory, attn_implementation="eager")
        for (ids, *_), in expected.rows:
            np.testing.assert_array_equal(logits(model, ids), logits(original, ids))
        return
    found = np.concatenate([logits(model, ids)[ends] for rows in expected.rows for ids, ends in rows])
    wanted = np.concatenate(expected.logits)
    if wanted.shape[1] == 1:  # a single output is written as the log-odds of two labels
        found = found[:, 1:] - found[:, :1]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=LOGITS)
