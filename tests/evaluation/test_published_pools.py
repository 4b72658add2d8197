"""Best-of-32 on two public pools with published step scores equals the numbers of others."""

import gzip
import importlib.util
import json
import sys

import jax
import numpy as np
import pytest

from jaxprm.cli.main import main
from jaxprm.errors import InputError
from jaxprm.evaluation.benchmarks import ReadPolicies
from jaxprm.evaluation.benchmarks.best_of_n import BEST_OF_N
from jaxprm.evaluation.benchmarks.pools import Pool

SUMMARY = {  # problems, pass@1, majority, oracle, problems with right and wrong candidates
    "strict_bon_math500_dev": (238, 0.8817, 0.9118, 0.9790, 75),
    "strict_bon_gsm8k": (351, 0.8420, 0.8433, 0.9601, 97),
}
BEST = {  # last, min, mean, prod
    ("strict_bon_math500_dev", "qwen_prm"): (0.9412, 0.9412, 0.9412, 0.9454),
    ("strict_bon_gsm8k", "qwen_prm"): (0.8974, 0.8803, 0.8860, 0.8889),
    ("strict_bon_gsm8k", "skywork_prm"): (0.9174, 0.8661, 0.8832, 0.8718),
    ("strict_bon_gsm8k", "skywork_prm_1_5b"): (0.8661, 0.8462, 0.8746, 0.8519),
    ("strict_bon_gsm8k", "math_shepherd"): (0.8376, 0.8462, 0.8405, 0.8490),
    ("strict_bon_gsm8k", "rlhflow_prm"): (0.8319, 0.8405, 0.8490, 0.8462),
    ("strict_bon_gsm8k", "internlm2_7b_reward"): (0.8832, 0.8376, 0.8405, 0.8405),
    ("strict_bon_gsm8k", "internlm2_1_8b_reward"): (0.8405, 0.8234, 0.8547, 0.8405),
}


@pytest.fixture(scope="module")
def script(repository):
    """Imports a script of the study."""
    def load(name):
        spec = importlib.util.spec_from_file_location(f"best_of_n_{name}", repository / f"experiments/best_of_n/{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    yield load
    for name in [name for name in sys.modules if name.startswith("best_of_n_")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def pools(script):
    return script("pools")


@pytest.mark.parametrize("name", SUMMARY)
def test_the_published_table(pools, shared, name):
    pool = pools.read_pool(shared / "data/dev_eval", name)
    ours = pools.table(pool)
    assert (ours["problems"], ours["mixed"]) == (SUMMARY[name][0], SUMMARY[name][4])
    np.testing.assert_allclose([ours["pass@1"], ours["majority"], ours["oracle"]], SUMMARY[name][1:4], atol=5.1e-5)
    for (where, model), expected in BEST.items():
        if where == name:
            got = [ours["best"][model][how] for how in ("last", "min", "mean", "prod")]
            np.testing.assert_allclose(got, expected, atol=5.1e-5, err_msg=model)


def published(shared, name):
    """The pool's file, and model -> id -> step scores."""
    with gzip.open(shared / f"data/dev_eval/{name}.prm_scores.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = {row["id"]: row["prm_step_scores"] for row in map(json.loads, lines)}
    models = next(iter(rows.values()))
    return shared / f"data/dev_eval/{name}.jsonl.gz", {model: {id: row[model] for id, row in rows.items()} for model in models}


@pytest.mark.parametrize("name", SUMMARY)
def test_the_benchmark_says_the_same(shared, name):
    file, scores = published(shared, name)
    items = BEST_OF_N.read([file], ReadPolicies())
    assert {(name, model) for model in scores} == {key for key in BEST if key[0] == name}
    for model, rows in scores.items():
        pool = Pool.of(items, [np.array(rows[item.id]) for item in items])
        assert len(pool.problems) == SUMMARY[name][0] and pool.answered and pool.probable
        got = [pool.pass_at_1, pool.solved(pool.aggregate("min"), "majority"), pool.correct.any(axis=1)]
        got += [pool.solved(pool.aggregate(how), "best") for how in ("last", "min", "mean", "prod")]
        np.testing.assert_allclose([values.mean() for values in got], SUMMARY[name][1:4] + BEST[name, model], atol=5.1e-5,
                                   err_msg=model)


def test_the_command_line_says_the_same(script, shared, tmp_path, capsys, monkeypatch):
    """`jaxprm bench best_of_n --scores`: the numbers in its JSON file, with intervals over problems."""
    monkeypatch.setenv("JAXPRM_CACHE", str(tmp_path / "cache"))
    name, data, out = "strict_bon_math500_dev", shared / "data/dev_eval", tmp_path / "out.json"
    script("scores").main([str(data / f"{name}.prm_scores.jsonl.gz"), str(tmp_path)])
    given = f"qwen={tmp_path / 'qwen_prm.jsonl'}"
    with pytest.raises(SystemExit) as ended:
        main(["bench", "best_of_n", "--data", str(data / f"{name}.jsonl.gz"), "--scores", given, "--json", str(out),
              "--resamples", "200"])
    jax.config.update("jax_compilation_cache_dir", None)
    assert ended.value.code == 0 and "best, min" in capsys.readouterr().out
    found = json.loads(out.read_text())["sets"]["best_of_n"]["systems"]["qwen"]
    names = ("pass@1", "majority", "oracle", "best, last", "best, min", "best, mean", "best, prod")
    numbers = [found["numbers"][number] for number in names]
    np.testing.assert_allclose([number["mean"] for number in numbers], SUMMARY[name][1:4] + BEST[name, "qwen_prm"], atol=5.1e-5)
    assert all(0.02 < number["high"] - number["low"] < 0.1 for number in numbers)
    assert found["settings"]["problems_with_right_and_wrong_candidates"] == SUMMARY[name][4]


def test_a_missing_pool_is_named(pools, tmp_path):
    with pytest.raises(InputError, match="strict_bon_gsm8k.jsonl.gz: does not exist; name the folder"):
        pools.read_pool(tmp_path, "strict_bon_gsm8k")
