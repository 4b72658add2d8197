"""The data tools: bounded state, all or nothing, raw rows passed on, conversions that a killed run goes on with."""

import dataclasses
import gzip
import json
import sys

import numpy as np
import pytest

from jaxprm.data.arrayrecord import write_solutions
from jaxprm.data.formats import FORMATS, ReadSettings, WriteSettings, find_writer
from jaxprm.data.tools import Errors, Source, convert, dedup, mix, overlap, split, statistics, validate
from jaxprm.data.tools.minhash import MinHash, ngram_hashes
from jaxprm.data.tools.source import HashSet
from jaxprm.data.tools.stats import Lengths
from jaxprm.errors import InputError

WORDS = "add the number of red and blue boxes then take away what was sold on the second day to see how many are left".split()


def row(index, problem=None, labels=(1, -1), **more):
    return {"id": str(index), "problem": problem or f"Problem {index}?", "steps": [f"step {index} a", "b"][:len(labels)],
            "labels": list(labels), "extra": index} | more


@pytest.fixture
def write(tmp_path):
    def call(name, rows):
        path = tmp_path / name
        with (gzip.open if name.endswith(".gz") else open)(path, "wt") as out:
            out.writelines((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in rows)
        return path

    return call


def source(*paths, name="jaxprm", **settings):
    return Source(paths, FORMATS[name], ReadSettings(**settings))


def rows_of(path):
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as lines:
        return [json.loads(line) for line in lines]


def test_source_refuses_early(tmp_path, write):
    path = write("a.jsonl", [row(1)])
    with pytest.raises(InputError, match="gone.jsonl: no such file"):
        source(path, tmp_path / "gone.jsonl")
    with pytest.raises(InputError, match="has no effect on the format 'jaxprm'"):
        source(path, index_base=1)
    with pytest.raises(InputError, match="needs at least one file"):
        source()


def test_hash_set_is_a_set():
    random = np.random.default_rng(0)
    numbers, small, plain = random.integers(0, 60, 500).tolist(), HashSet(buffer=7), set()
    for number in [*numbers, 2**64 - 1, 2**64 - 1]:
        assert small.add(number) == (number not in plain)
        plain.add(number)
    assert len(small) == len(plain)


def test_convert(write, tmp_path):
    path = write("bench.jsonl", [{"id": "x", "problem": "p", "steps": ["a", "b", "c"], "label": 1}])
    out = tmp_path / "new" / "out.jsonl.gz"
    counts = convert(source(path, name="processbench", after_error="bad"), out)
    assert (counts.rows, counts.solutions, counts.left_out, counts.files) == (1, 1, 0, 1)
    written, = rows_of(out)
    assert written["labels"] == [1, -1, -1] and written["first_error"] == 1
    assert written["made_by"] == "human; format=processbench, after_error=bad, index_base=0"
    with pytest.raises(InputError, match="is also read"):
        convert(source(path, name="processbench"), path)


def test_convert_is_all_or_nothing_or_counts(write, tmp_path):
    path = write("rows.jsonl", [row(1), "{oops", row(2, labels=(1, None)), row(3)])
    out = tmp_path / "out.jsonl"
    with pytest.raises(InputError, match="rows.jsonl:2: is not valid JSON"):
        convert(source(path), out, writer=find_writer("trl"))
    assert not out.exists()
    errors = Errors(strict=False)
    counts = convert(source(path), out, writer=find_writer("trl"), errors=errors)
    assert (counts.rows, counts.solutions, counts.left_out) == (3, 2, 2) and len(rows_of(out)) == 2
    assert errors.messages[1].startswith(f"{path}:3: field 'labels[1]' = None: solution '2' has a step without a label")


def test_a_killed_conversion_goes_on(write, tmp_path, monkeypatch):
    paths = [write("a.jsonl", [row(index) for index in range(7)]), write("b.jsonl.gz", [row(7), "{oops", row(8), row(9)])]
    folder, whole = tmp_path / "shards", tmp_path / "whole"
    convert(source(*paths), whole, shard_rows=3, errors=Errors(False))

    module = sys.modules[convert.__module__]
    original, calls = module._write_state, []

    def state(*arguments):
        original(*arguments)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_state", state)
    with pytest.raises(KeyboardInterrupt):
        convert(source(*paths), folder, shard_rows=3, errors=Errors(False))
    assert sorted(path.name for path in folder.iterdir()) == ["00000.jsonl.gz", "00001.jsonl.gz", "convert.json"]
    (folder / ".00002.jsonl.gz.123.tmp").write_text("what SIGKILL leaves")
    counts = convert(source(*paths), folder, shard_rows=3, errors=Errors(False))
    assert (counts.rows, counts.solutions, counts.left_out, counts.files) == (10, 10, 1, 4)
    assert len(list(folder.iterdir())) == 5
    for path in whole.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert [item["id"] for path in sorted(folder.glob("*.gz")) for item in rows_of(path)] == [str(index) for index in range(10)]
    assert convert(source(*paths), folder, shard_rows=3) == counts  # nothing is left to do
    with pytest.raises(InputError, match="holds another conversion"):
        convert(source(*paths), folder, shard_rows=4)
    with pytest.raises(InputError, match="or a folder with other things in it"):
        convert(source(*paths), tmp_path, shard_rows=3)
    (folder / "convert.json").write_text("{}")
    with pytest.raises(InputError, match="delete the damaged folder"):
        convert(source(*paths), folder, shard_rows=3)


def test_record_files_are_read(write, tmp_path):
    path, records = write("rows.jsonl", [row(1), row(2)]), tmp_path / "rows.arrayrecord"
    write_solutions(records, [items[0] for _, _, items in source(path).rows()])
    assert statistics(source(records)) == statistics(source(path))
    assert convert(source(records), tmp_path / "shards", shard_rows=1).files == 2


def test_broken_text_stops_no_tool(write, tmp_path):
    path = write("rows.jsonl", ['{"problem": "\\ud800 x", "steps": ["a \\udfff"], "labels": [1]}'])
    assert statistics(source(path)).problems == validate(source(path)).rows == 1
    split(source(path), tmp_path / "parts", {"all": 1.0})
    convert(source(path), tmp_path / "out.jsonl")
    assert dedup(source(path), tmp_path / "unique.jsonl", near=MinHash()).kept == 1
    for name in ("parts/all.jsonl", "out.jsonl", "unique.jsonl"):
        assert rows_of(tmp_path / name)[0]["problem"] == "\ud800 x"


def test_statistics(write):
    path = write("rows.jsonl", [row(1), row(2, problem="problem 1 ?", labels=(1, 1), generator="m", final_correct=True),
                                row(3, labels=(1,), steps=["a\n\nb ки"]),
                                row(4, soft_labels=[0.5, None], labels=[1, None]), "x"])
    found = statistics(source(path), Errors(strict=False))
    assert (found.rows, found.solutions, found.problems, found.unreadable, found.steps) == (4, 4, 3, 1, 7)
    assert (found.good, found.bad, found.soft, found.unjudged) == (4, 1, 1, 1)
    assert (found.with_error, found.clean, found.unknown, found.errors_at_last_step) == (1, 2, 1, 1.0)
    assert found.steps_per_solution == {"mean": 1.75, "p50": 2.0, "p95": 2.0, "p99": 2.0, "max": 2.0}
    assert found.first_error_place["40-60 %"] == 1.0 and found.generators == {"not told": 3, "m": 1}
    assert found.separators_inside_steps == {"blank line": 1, "ки": 1}
    assert any("contain the step separator 'ки'" in warning for warning in found.warnings())
    assert any("1 rows could not be read" in warning for warning in found.warnings())


def test_a_file_read_as_the_wrong_format_is_noted(write):
    path = write("bench.jsonl", [{"problem": "p", "steps": ["a"], "label": 0}])  # ProcessBench's label is none of our fields
    assert "no step is judged: is this the right format (--format)?" in statistics(source(path)).warnings()
    assert statistics(source(path, name="processbench")).warnings()[0].startswith("100% of the judged steps are wrong")


def test_last_step_bias_is_noted(write):
    path = write("rows.jsonl", [row(index) for index in range(30)])
    assert "100% of the first errors are at the last step" in statistics(source(path)).warnings()[0]


def test_lengths():
    lengths = Lengths()
    for value in range(1, 101):
        lengths.add(value)
    assert lengths.summary() == {"mean": 50.5, "p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}


def test_validate(write):
    path = write("rows.jsonl", [row(1), row(1, labels=(1, 1), final_correct=False), row(2, labels=[1, 0, 1]),
                                row(3) | {"steps": 3}, {"problem": "p", "steps": ["a"]}])
    found = validate(source(path))
    assert (found.rows, found.solutions, found.unreadable, found.repeated_ids) == (3, 3, 2, 1)
    assert (found.unlabeled, found.clean_but_wrong, found.error_but_right) == (1, 1, 0)
    assert found.messages[1].startswith(f"{path}:4: field 'steps' = 3: has type int")


def test_split_keeps_problems_together_and_rows_as_they_are(write, tmp_path):
    rows = [row(index, problem=f"Problem  {index // 4}" if index % 2 else f"problem {index // 4}") for index in range(400)]
    paths = write("a.jsonl", rows[:250]), write("b.jsonl", rows[250:])
    counts = split(source(*paths), tmp_path / "parts", {"train": 0.7, "dev": 0.1, "test": 0.2})
    parts = {name: rows_of(tmp_path / "parts" / f"{name}.jsonl") for name in counts}
    assert counts == {name: len(part) for name, part in parts.items()} and sum(counts.values()) == 400
    assert sorted((item for part in parts.values() for item in part), key=lambda item: int(item["id"])) == rows
    problems = [{int(item["id"]) // 4 for item in part} for part in parts.values()]
    assert sum(map(len, problems)) == 100 and all(problems)
    other = split(source(*paths), tmp_path / "salted", {"train": 0.7, "dev": 0.1, "test": 0.2}, salt=1)
    assert other != counts
    # Parts that keep their bounds keep their rows.
    split(source(*paths), tmp_path / "two", {"train": 0.7, "rest": 0.3})
    assert rows_of(tmp_path / "two" / "train.jsonl") == parts["train"]


@pytest.mark.parametrize(("parts", "message"), [({"a": 0.5}, "sum to 0.5; shares must sum to 1"),
                                                ({"a/b": 1.0}, "'a/b': must be a plain name"),
                                                ({"a": 1.5}, "must have a share in")])
def test_split_refuses(write, tmp_path, parts, message):
    with pytest.raises(InputError, match=message):
        split(source(write("a.jsonl", [row(1)])), tmp_path / "p", parts)


def test_split_writes_nothing_if_a_row_is_bad(write, tmp_path):
    with pytest.raises(InputError):
        split(source(write("a.jsonl", [row(1), "x"])), tmp_path / "p", {"a": 1.0})
    assert not list((tmp_path / "p").glob("*"))


def text(random, length=60):
    return " ".join(random.choice(WORDS, length))


def test_dedup(write, tmp_path):
    random = np.random.default_rng(0)
    base = [text(random) for _ in range(30)]
    rows = []
    for index, problem in enumerate(base):
        rows.append(row(f"{index}", problem=problem))
        rows.append(row(f"{index}-exact", problem=problem.upper() + " ", steps=[f"step {index} a", "b"]))
        rows[-2]["steps"] = rows[-1]["steps"]
        words = problem.split()
        words[20] = "seven"
        rows.append(row(f"{index}-near", problem=" ".join(words), steps=rows[-1]["steps"]))
    path, out = write("rows.jsonl", rows), tmp_path / "out.jsonl"
    counts = dedup(source(path), out)
    assert (counts.rows, counts.exact, counts.near, counts.kept) == (90, 30, 0, 60)
    counts = dedup(source(path), out, near=MinHash(0.7, shingle=3))
    assert (counts.exact, counts.kept) == (30, 30) and counts.near == 30
    assert rows_of(out) == [item for item in rows if "-" not in item["id"]]
    assert [child.name for child in tmp_path.iterdir() if child.name.startswith(".")] == []
    assert dedup(source(path), out, near=MinHash(0.99, shingle=3)).near == 0
    assert dedup(source(path), out, by="problem").kept == 60
    empty = write("empty.jsonl", [])
    assert dedup(source(empty), out, near=MinHash()).rows == 0


def test_groups_of_near_duplicates_are_closed(write, tmp_path):
    words = text(np.random.default_rng(1), 100).split()
    rows = []
    for index in range(6):  # a chain in which only neighbours are alike
        rows.append(row(index, problem=" ".join(words), steps=["a", "b"]))
        words = words[8:] + text(np.random.default_rng(10 + index), 8).split()
    out = tmp_path / "out.jsonl"
    counts = dedup(source(write("rows.jsonl", rows)), out, by="problem", near=MinHash(0.7, shingle=3))
    assert counts.kept == 1 and rows_of(out)[0]["id"] == "0"


def test_minhash_estimates_jaccard():
    random = np.random.default_rng(2)
    minhash = MinHash(0.5, shingle=2, permutations=512)
    for share in (0.2, 0.5, 0.9):
        left = text(random, 200).split()
        right = left[:int(200 * share)] + text(random, 200 - int(200 * share)).split()
        grams = [set(ngram_hashes(" ".join(words), 2).tolist()) for words in (left, right)]
        exact = len(grams[0] & grams[1]) / len(grams[0] | grams[1])
        estimate = np.mean(minhash.signature(" ".join(left)) == minhash.signature(" ".join(right)))
        assert estimate == pytest.approx(exact, abs=0.09)
    for threshold in (0.3, 0.8, 1.0):
        bands = MinHash(threshold)
        assert (1 - threshold**bands.rows) ** bands.bands <= 0.01 and bands.bands * bands.rows <= 128
    assert len(ngram_hashes("", 3)) == 0 and len(ngram_hashes("One two", 3)) == 1
    assert minhash.signature("").tolist() == [2**32 - 1] * 512
    for arguments, message in [((0.0,), "threshold"), ((0.5, 0), "shingle"), ((0.5, 1, 0), "permutations")]:
        with pytest.raises(InputError, match=message):
            MinHash(*arguments)


def test_overlap(write, tmp_path):
    random = np.random.default_rng(3)
    tests = [text(random, 30) for _ in range(4)]
    rows = [row(0, problem=f"Well: {tests[0].upper()}. Answer it!"), row(1, problem=text(random, 30)), row(2, problem="2 + 2"),
            row(3, problem=" ".join(tests[1].split()[:12])), row(4, steps=["see", tests[2]])]
    path = write("rows.jsonl", rows)
    bench = write("bench.jsonl", [{"problem": problem, "steps": ["a"], "label": -1} for problem in [*tests, tests[0], "2 + 2"]])
    out = tmp_path / "clean.jsonl"
    against = source(bench, name="processbench")
    found = overlap(source(path), against, output=out)
    assert (found.rows, found.contaminated, found.benchmark, found.touched) == (5, 2, 5, 2)
    assert [item["id"] for item in rows_of(out)] == ["1", "3", "4"]
    assert found.examples[0]["row"] == f"{path}:1" and found.examples[0]["share"] == 1.0
    assert overlap(source(path), against, threshold=0.15).contaminated == 3
    assert overlap(source(path), against, solutions=True).contaminated == 3
    for arguments in ({"size": 0}, {"threshold": 0.0}):
        with pytest.raises(InputError):
            overlap(source(path), against, **arguments)
    with pytest.raises(InputError, match="empty.jsonl: has no problems; is this the right benchmark"):
        overlap(source(path), source(write("empty.jsonl", [])))


def test_mix(write, tmp_path):
    paths = [write(f"{name}.jsonl", [row(f"{name}{index}") for index in range(count)])
             for name, count in (("a", 50), ("b", 20))]
    sources, out = [source(path) for path in paths], tmp_path / "out.jsonl"
    counts = mix(sources, [3, 1], out, rows=40)
    assert counts.written == (30, 10) and counts.available == (50, 20) and counts.passes == (0.6, 0.5)
    names = [item["id"] for item in rows_of(out)]
    for name in "ab":
        own = [int(item[1:]) for item in names if item[0] == name]
        assert own == sorted(set(own))
    assert "a" in {item[0] for item in names[:10]} and "b" in {item[0] for item in names[:20]}  # interleaved
    mix(sources, [3, 1], out, rows=40, seed=1)
    assert [item["id"] for item in rows_of(out)] != names
    mix(sources, [3, 1], out, rows=40)
    assert [item["id"] for item in rows_of(out)] == names
    assert mix(sources, [1, 1], out).written == (20, 20)
    with pytest.raises(InputError, match="b.jsonl: has 20 rows, and its share of 60 rows is 30; ask for fewer"):
        mix(sources, [1, 1], out, rows=60)
    counts = mix(sources, [1, 1], out, rows=61, repeat=True)
    assert sum(counts.written) == 61 and max(counts.written) == 31
    own = [item["id"] for item in rows_of(out) if item["id"][0] == "b"]
    assert len(set(own)) == 20 and len(own) in (30, 31)
    for weights, message in [([1], "has 1 values for 2 sources"), ([1, 0], "must be positive")]:
        with pytest.raises(InputError, match=message):
            mix(sources, weights, out)
    with pytest.raises(InputError, match="has no rows"):
        mix([source(write("c.jsonl", []))], [1], out)


def test_shards_of_other_settings(write, tmp_path):
    path = write("rows.jsonl", [row(1)])
    for settings in (WriteSettings(), WriteSettings(number_steps=True)):
        folder = tmp_path / str(settings.number_steps)
        convert(source(path), folder, writer=find_writer("trl"), settings=settings, shard_rows=5, suffix=".jsonl")
        assert [child.name for child in sorted(folder.iterdir())] == ["00000.jsonl", "convert.json"]
        assert json.loads((folder / "convert.json").read_text())["identity"]["write"] == dataclasses.asdict(settings)


def test_published_numbers(shared):
    """The data card: PARC has 2,410 right and 1,493 wrong steps, and shares 73 problems with the GSM8K pool."""
    folder = shared / "data/dev_eval"
    if not folder.is_dir():
        pytest.skip("no real data")
    parc, pool = (source(folder / f"{name}.jsonl.gz") for name in ("parc", "strict_bon_gsm8k"))
    found = statistics(parc)
    assert (found.rows, found.problems, found.good, found.bad, found.with_error) == (668, 451, 2410, 1493, 424)
    assert overlap(parc, pool).touched == 73
