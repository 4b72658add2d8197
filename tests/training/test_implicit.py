"""The cache of reference log-probabilities: right numbers, resumed where it was killed, refused where it does not belong."""

import jax
import numpy as np
import pytest

from jaxprm.data.examples import step_example
from jaxprm.errors import InputError
from jaxprm.models import make_mesh, parameters
from jaxprm.testing import random_solutions, tiny_config, tiny_language_model
from jaxprm.testing.oracles import next_token_logits
from jaxprm.training import implicit
from jaxprm.training.implicit import reference_log_probs, with_reference

MODEL = tiny_language_model(1)


def examples(count=11, seed=4):
    made = []
    for s in random_solutions(seed, count, prompt=(2, 5)):
        first = max(1, s.step_ends[0] - 1)
        starts = np.array([first, *(end + 1 for end in s.step_ends[:-1])], np.int32)
        made.append(step_example(s.ids, s.step_ends, s.labels) | {"step_starts": starts})
    return made


@pytest.fixture
def computed(monkeypatch):
    """How many examples each compiled call has read."""
    counts, compute = [], implicit._compute

    def counted(model, members, *rest):
        counts.append(len(members))
        return compute(model, members, *rest)

    monkeypatch.setattr(implicit, "_compute", counted)
    return counts


def test_sums_are_those_of_the_oracle(tmp_path):
    made = examples()
    progress = []
    found = reference_log_probs(MODEL, made, tmp_path / "cache", batch_tokens=128, on_batch=lambda *each: progress.append(each))
    assert np.sum(progress, axis=0).tolist() == [11, sum(len(example["tokens"]) for example in made)]
    for example, sums in zip(made, found):
        ids = example["tokens"].tolist()
        logits = next_token_logits(MODEL.config, parameters(MODEL), ids)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = [sum(log_probs[t - 1, ids[t]] for t in range(start, end + 1))
                    for start, end in zip(example["step_starts"], example["step_ends"])]
        np.testing.assert_allclose(sums, expected, atol=1e-4)
        assert sums.dtype == np.float32
    assert with_reference(made, found)[3]["reference"] is found[3]


def test_a_killed_computation_goes_on_with_the_next_file(tmp_path, computed):
    made = examples()
    whole = reference_log_probs(MODEL, made, tmp_path / "whole", part=4)
    assert computed == [4, 4, 3] and sorted(path.name for path in (tmp_path / "whole").iterdir()) == [
        "00000.npz", "00001.npz", "00002.npz"]

    def dies(count, tokens):
        if len(computed) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reference_log_probs(MODEL, made, tmp_path / "killed", part=4, on_batch=dies)
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["00000.npz"]
    again = reference_log_probs(MODEL, made, tmp_path / "killed", part=4)
    assert computed == [4, 4, 3, 4, 4, 4, 3]
    for one, other in zip(whole, again):
        np.testing.assert_array_equal(one, other)
    reference_log_probs(MODEL, made, tmp_path / "killed", part=4)
    assert len(computed) == 7  # everything was there


@pytest.mark.parametrize("damage", [lambda data: data[:50], lambda data: b"", lambda data: data[:-80] + bytes(80),
                                    lambda data: bytes([*data[:200], data[200] ^ 255, *data[201:]])],
                         ids=["cut", "empty", "end", "flipped"])
def test_a_damaged_file_is_one_clear_error(tmp_path, damage):
    made = examples(3)
    reference_log_probs(MODEL, made, tmp_path)
    file = tmp_path / "00000.npz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match="00000.npz: .*delete this file") as caught:
        reference_log_probs(MODEL, made, tmp_path)
    assert "\n" not in str(caught.value)


def test_numbers_that_do_not_fit_are_refused(tmp_path):
    made = examples(3)
    key = implicit.cache_key(MODEL, made)
    steps = sum(len(example["step_ends"]) for example in made)
    for sums in (np.zeros(steps + 1, np.float32), np.full(steps, np.nan, np.float32), np.zeros(steps)):
        np.savez(tmp_path / "00000.npz", key=np.array(key), sums=sums)
        with pytest.raises(InputError, match=f"field 'sums' = .*: does not hold {steps} finite numbers"):
            reference_log_probs(MODEL, made, tmp_path)


def test_a_foreign_cache_is_refused(tmp_path):
    made = examples(3)
    reference_log_probs(MODEL, made, tmp_path)
    changed = [dict(example) for example in made]
    changed[1]["tokens"] = changed[1]["tokens"][::-1].copy()
    for model, data in ((tiny_language_model(2), made), (MODEL, changed), (MODEL, made[::-1]), (MODEL, made[:2])):
        with pytest.raises(InputError, match="field 'key' = .*: belongs to another model or other data"):
            reference_log_probs(model, data, tmp_path)


def test_examples_that_cannot_be_read(tmp_path):
    (plain,) = [{name: value for name, value in example.items() if name != "step_starts"} for example in examples(1)]
    with pytest.raises(InputError, match=r"field 'examples\[0\].step_starts': is missing"):
        reference_log_probs(MODEL, [plain], tmp_path)
    short = tiny_language_model(1, tiny_config(context=4))
    with pytest.raises(InputError, match="the reference model's context is 4"):
        reference_log_probs(short, examples(5), tmp_path)
    with pytest.raises(InputError, match="field 'part' = 0"):
        reference_log_probs(MODEL, examples(1), tmp_path, part=0)


def test_a_mesh_gives_the_same_numbers(tmp_path):
    if len(jax.devices()) < 8:
        pytest.skip("needs 8 simulated devices")
    made = examples(5)
    model = tiny_language_model(1, tiny_config(heads=8, kv_heads=8, vocab_size=24))
    alone = reference_log_probs(model, made, tmp_path / "one")
    spread = reference_log_probs(model, made, tmp_path / "many", mesh=make_mesh(2, 2, 2))
    for one, other in zip(alone, spread):
        np.testing.assert_allclose(one, other, atol=1e-4)
