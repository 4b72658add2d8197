"""ArrayRecord: rows and encoded examples come back, at random and in order; damaged and foreign files are named."""

import json
import pickle

import numpy as np
import pytest

from jaxprm.data.arrayrecord import ExampleStore, write_examples, write_solutions
from jaxprm.data.example_table import Examples, Origin
from jaxprm.data.examples import step_example
from jaxprm.data.record_file import RecordFile, is_record_file, write_records
from jaxprm.data.rows import read_rows, rows_sha256
from jaxprm.data.solutions import SolutionFiles, load_solutions
from jaxprm.errors import InputError
from jaxprm.records import LabeledSolution, Problem, Solution, StepLabels
from jaxprm.records import write_solutions as write_json_lines

ITEMS = [LabeledSolution(
    f"s{i}", Solution(Problem(f"p{i}", f"Was ist {i} × 2?", "4", {"topic": "é"}), ("a", "b\nc"), "4", True),
    StepLabels((1.0, 0.25 if i % 2 else 0.0), 1, "human")) for i in range(40)]


def examples(count=30):
    generator = np.random.default_rng(0)
    found = []
    for index in range(count):
        ends = 1 + np.cumsum(generator.integers(1, 5, generator.integers(1, 5)))
        labels = [None, *[0.5] * (len(ends) - 1)]
        found.append(step_example(1000 * index + np.arange(ends[-1] + 1), ends, labels, 1 + index / 7))
    return found


def assert_same(one, other):
    assert list(one) == list(other)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])
        assert array.dtype == other[name].dtype


def test_records_in_order_and_at_random(tmp_path):
    records = [b"", b"a", b"x" * 100_000, bytes(range(256))] + [str(i).encode() for i in range(1000)]
    path = tmp_path / "r.arrayrecord"
    assert write_records(path, records) == 1004
    file = pickle.loads(pickle.dumps(RecordFile(path)))
    assert list(file) == records and len(file) == 1004
    assert [file[i] for i in (1003, 2, 0, 500)] == [records[i] for i in (1003, 2, 0, 500)]
    assert file.read([5, 3]) == [records[5], records[3]]
    with pytest.raises(IndexError):
        file[1004]
    assert list(tmp_path.iterdir()) == [path]


def test_names():
    assert all(map(is_record_file, ("a.arrayrecord", "d/x-train.array_record-00000-of-00002")))
    assert not is_record_file("a.jsonl") and not is_record_file("x.arrayrecords/a.jsonl")


def test_nothing_is_left_of_a_write_that_failed(tmp_path):
    def records():
        yield b"a"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_records(tmp_path / "r.arrayrecord", records())
    with pytest.raises(RuntimeError, match="no more"):
        write_examples(tmp_path / "store", (example for example in [*examples(2), *records()] or ()))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "whole.arrayrecord"
    write_solutions(path, ITEMS * 20)
    return path.read_bytes()


@pytest.mark.parametrize("damage", ["empty", "start", "half", "end", "text", "noise"])
def test_damaged_and_foreign_files(tmp_path, content, damage):
    path = tmp_path / "bad.arrayrecord"
    path.write_bytes({"empty": b"", "start": content[:100], "half": content[:len(content) // 2], "end": content[:-10],
                      "text": b'{"problem": "x"}\n' * 10_000,
                      "noise": np.random.default_rng(0).bytes(1 << 17)}[damage])
    with pytest.raises(InputError, match="bad.arrayrecord: is no complete ArrayRecord file .*write it again") as caught:
        load_solutions(SolutionFiles((str(path),)))
    assert "\n" not in str(caught.value)


def test_a_flipped_bit(tmp_path, content):
    damaged = bytearray(content)
    damaged[len(damaged) // 2] ^= 0xFF
    (tmp_path / "bad.arrayrecord").write_bytes(damaged)
    with pytest.raises(InputError, match="bad.arrayrecord: record 512 to 799 cannot be read"):
        load_solutions(SolutionFiles((str(tmp_path / "bad.arrayrecord"),)))


def test_solutions_are_read_as_json_lines_are(tmp_path):
    write_solutions(tmp_path / "a.arrayrecord", ITEMS)
    write_json_lines(tmp_path / "a.jsonl.gz", ITEMS)
    sources = [SolutionFiles((str(tmp_path / name),)) for name in ("a.arrayrecord", "a.jsonl.gz")]
    assert load_solutions(sources[0]) == load_solutions(sources[1]) == (ITEMS, load_solutions(sources[0])[1])
    assert list(read_rows(tmp_path / "a.arrayrecord"))[1][0] == 2
    assert rows_sha256(tmp_path / "a.arrayrecord") != rows_sha256(tmp_path / "a.jsonl.gz")


@pytest.mark.parametrize(("record", "message"), [
    (b"{", "x.arrayrecord:2: is not valid JSON"), (b"\xff\xfe\x01", "x.arrayrecord:2: is not valid JSON"),
    (b"[1]", "x.arrayrecord:2: a row must be a JSON object, not list"),
    (b'{"problem": "x", "steps": ["a"], "labels": [7]}', r"x.arrayrecord:2: field 'labels\[0\]' = 7"),
])
def test_bad_rows_are_located(tmp_path, record, message):
    good = json.dumps({"problem": "x", "steps": ["a"], "labels": [1]}).encode()
    write_records(tmp_path / "x.arrayrecord", [good, record])
    with pytest.raises(InputError, match=message):
        load_solutions(SolutionFiles((str(tmp_path / "x.arrayrecord"),)))


def test_stored_examples(tmp_path):
    known = examples()
    origins = [Origin(problem=i, first_error=-1, file=0, row=i + 1) for i in range(30)]
    store = write_examples(tmp_path / "store", zip(known, origins), files=["a.jsonl"], info={"tokenizer": "abc"}, shard=8)
    assert len(store) == 30 and store.info == {"tokenizer": "abc"} and store.files == ("a.jsonl",)
    assert len(list((tmp_path / "store").glob("*.arrayrecord"))) == 4
    store = pickle.loads(pickle.dumps(store))
    for index in (29, 0, 8, 7, 16, 23, 24):
        assert_same(store[index], known[index])
    for one, other in zip(store, known, strict=True):
        assert_same(one, other)
    np.testing.assert_array_equal(store.table, Examples(known, origins).table)
    with pytest.raises(InputError, match="store: exists; choose another folder"):
        write_examples(tmp_path / "store", known)


def test_examples_that_cannot_be_stored(tmp_path):
    with pytest.raises(InputError, match="store: there are no examples"):
        write_examples(tmp_path / "store", [])
    odd = examples(1)[0] | {"groups": np.zeros(3, np.int32)}
    with pytest.raises(InputError, match="field 'example 1' = .*: has other arrays than the first example .tokens int32, "):
        write_examples(tmp_path / "store", [examples(1)[0], odd])
    assert len(write_examples(tmp_path / "store", [odd])) == 1  # any arrays of one dimension can be stored
    assert_same(ExampleStore(tmp_path / "store")[0], odd)


def test_damaged_stores(tmp_path):
    folder = tmp_path / "store"
    write_examples(folder, examples(), shard=10)
    with pytest.raises(InputError, match="nowhere.index.json: is no folder of encoded examples"):
        ExampleStore(tmp_path / "nowhere")
    shard, index, table = folder / "examples-00001.arrayrecord", folder / "index.json", folder / "table.npy"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"examples-00001.arrayrecord: has \d+ bytes instead of \d+; delete the folder"):
        ExampleStore(folder)
    damaged = bytearray(content)
    damaged[100:2000] = bytes(1900)
    shard.write_bytes(damaged)
    store = ExampleStore(folder)
    assert len(store[3]["tokens"])  # the other files are fine
    with pytest.raises(InputError, match="examples-00001.arrayrecord: "):
        [store[i] for i in range(10, 20)]
    shard.write_bytes(content)
    rows = table.read_bytes()
    table.write_bytes(rows[:-8])
    with pytest.raises(InputError, match="table.npy: cannot be read"):
        ExampleStore(folder)
    table.write_bytes(rows)
    text = index.read_text()
    index.write_text(text.replace("jaxprm-examples-1", "jaxprm-examples-9"))
    with pytest.raises(InputError, match="index.json: field 'format' = 'jaxprm-examples-9': is not jaxprm-examples-1"):
        ExampleStore(folder)
    index.write_text(text[:-30])
    with pytest.raises(InputError, match="index.json: is no folder of encoded examples"):
        ExampleStore(folder)
