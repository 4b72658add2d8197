"""Kept scores: the right ones come back, a changed model or text meets none, and nothing breaks the file."""

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprm.errors import InputError
from jaxprm.models import HeadConfig, RewardModel, TransformerConfig
from jaxprm.models.parameters import parameters, with_parameters
from jaxprm.scoring.implicit import ImplicitModel
from jaxprm.scoring.score_cache import ScoreCache, model_fingerprint, score_key

CONFIG = TransformerConfig(64, width=8, layers=1, heads=2, kv_heads=1, head_dim=4, mlp_dim=16, context=32)


def test_a_fingerprint_is_of_everything_that_scores_depend_on():
    import dataclasses

    from jaxprm.models import LanguageModel

    model = RewardModel(CONFIG, HeadConfig(), rngs=nnx.Rngs(0))
    same = RewardModel(CONFIG, HeadConfig(), rngs=nnx.Rngs(0))
    assert model_fingerprint(model) == model_fingerprint(same) and len(model_fingerprint(model)) == 64
    values = parameters(model)
    name = next(iter(values))
    touched = with_parameters(model, values | {name: values[name].at[(0,) * values[name].ndim].add(1e-3)})
    theta = RewardModel(dataclasses.replace(CONFIG, rope_theta=5e5), HeadConfig(), rngs=nnx.Rngs(0))
    half = RewardModel(dataclasses.replace(CONFIG, dtype="bfloat16"), HeadConfig(), rngs=nnx.Rngs(0))
    policy = LanguageModel(CONFIG, rngs=nnx.Rngs(0))
    implicit = [ImplicitModel(policy, policy, coefficient) for coefficient in (0.05, 0.1)]
    different = [model_fingerprint(one) for one in (model, touched, theta, half, *implicit)]
    assert len(set(different)) == len(different)


def test_a_key_is_of_the_model_and_of_what_it_reads():
    rows = [([1, 2, 3], [1, 2])]
    key = score_key("m", rows)
    assert key == score_key("m", [([1, 2, 3], [np.int32(1), 2])]) and len(key) == 32
    others = [("n", rows), ("m", [([1, 2, 4], [1, 2])]), ("m", [([1, 2, 3], [0, 2])]), ("m", [([1, 2, 3], [1, 2], 1)]),
              ("m", [([1, 2], [1]), ([3], [2])])]
    assert len({key, *(score_key(*other) for other in others)}) == 6


def test_scores_come_back(tmp_path):
    cache = ScoreCache(tmp_path / "made")
    scores = {bytes([index]): np.arange(index, dtype=np.float32) / 3 for index in range(4)}
    cache.put(scores)
    cache.close()
    found = ScoreCache(tmp_path / "made").get([*scores, b"absent"])
    assert found.keys() == scores.keys()
    assert all(np.array_equal(found[key], value) and found[key].dtype == np.float32 for key, value in scores.items())
    assert ScoreCache(tmp_path / "made").get([np.float32(1).tobytes(), bytes(jnp.arange(2, dtype=jnp.uint8))]) == {}


def test_the_longest_unused_scores_make_room(tmp_path):
    cache = ScoreCache(tmp_path, max_bytes=20_000)
    for index in range(40):
        cache.put({bytes([index]): np.full(250, index, np.float32)})
        cache.get([bytes([0])])
    kept = cache.get([bytes([index]) for index in range(40)])
    assert bytes([0]) in kept and bytes([39]) in kept and bytes([1]) not in kept
    assert 8 <= len(kept) <= 20_000 // 1_100
    assert cache.path.stat().st_size < 100_000


def test_a_killed_writer_leaves_whole_batches(tmp_path):
    cache = ScoreCache(tmp_path)
    cache.put({b"k": np.ones(2, np.float32)})
    cache.close()
    killed = subprocess.run([sys.executable, "-c", f"""
import os, signal, sqlite3
file = sqlite3.connect({str(cache.path)!r})
file.execute("PRAGMA cache_size = 1")  # spill to the file before the transaction ends
for index in range(2000):
    key = b"k" if index == 0 else str(index).encode()
    file.execute("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", (key, bytes(99), 0.0))
os.kill(os.getpid(), signal.SIGKILL)
"""], env=os.environ | {"PYTHONPATH": ""}, check=False)
    assert killed.returncode == -9
    again = ScoreCache(tmp_path)
    assert again.get([b"k", b"1"]).keys() == {b"k"} and again.get([b"k"])[b"k"].tolist() == [1, 1]
    again.put({b"1": np.zeros(1, np.float32)})
    assert again.get([b"1"])[b"1"].tolist() == [0]


def test_a_damaged_file_is_one_line(tmp_path):
    (tmp_path / "scores.sqlite").write_text("not a database, and long enough to be read as one" * 20)
    with pytest.raises(InputError, match="scores.sqlite: cannot be used as a score cache .*; delete it, choose"):
        ScoreCache(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be used as a score cache"):
        ScoreCache(tmp_path / "file")
