"""Reading and writing step-labelled solutions: exact round trips, explicit policies, one line per kind of bad input."""

import errno
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprm.errors import InputError
from jaxprm.records import (LabeledSolution, Problem, Solution, StepLabels, atomic_write, dump_row, labels_from_ratings,
                            parse_row, read_json_lines, read_solutions, to_row, write_solutions)

ROW = {"problem": "1 + 1?", "steps": ["one", "two", "three"]}


def read_text(tmp_path, text, name="x.jsonl", **options):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_solutions(path, **options))


def labels_of(row, **options):
    return parse_row({**ROW, **row}, **options)[0].labels


texts = st.text(max_size=20)  # any unicode but surrogates: line breaks, NUL, U+2028, emoji
label = st.one_of(st.none(), st.sampled_from([0.0, 1.0]), st.floats(0, 1))
json_values = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(-2**60, 2**60), texts),
                           lambda inner: st.one_of(st.lists(inner, max_size=3),
                                                   st.dictionaries(texts, inner, max_size=3)))


optional = st.one_of(st.none(), texts)
line_and_label = st.tuples(texts.filter(str.strip), label)
# Plain values: the records are made in the test, because the run-time type checks of their constructors draw random
# numbers.
rows = st.tuples(st.lists(line_and_label, min_size=1, max_size=5), st.tuples(texts, texts, optional),
                 st.dictionaries(texts, json_values, max_size=3),
                 st.tuples(optional, st.sampled_from([None, True, False]), optional),
                 st.one_of(st.none(), st.integers(-1, 4)), texts,
                 st.dictionaries(texts, st.integers(0, 100).map(float), max_size=2), texts, st.booleans())


def build(lines, problem, meta, outcome, first_error, made_by, cost, name, labelled):
    steps, values = zip(*lines, strict=True)
    first_error = None if first_error is None else min(first_error, len(steps) - 1)
    labels = StepLabels(values, first_error, made_by, cost) if labelled else None
    return LabeledSolution(name, Solution(Problem(*problem, meta), steps, *outcome), labels)


@given(st.lists(rows, max_size=4), st.sampled_from(["x.jsonl", "x.jsonl.gz"]))
def test_round_trip_is_exact(tmp_path_factory, drawn, name):
    items = [build(*row) for row in drawn]
    path = tmp_path_factory.mktemp("round") / name
    assert write_solutions(path, items) == len(items)
    assert list(read_solutions(path)) == items
    assert [child.name for child in path.parent.iterdir()] == [name]


def test_round_trip_with_lone_surrogates(tmp_path):
    item = LabeledSolution("1", Solution(Problem("1", "a\ud800b"), ("\udfff",)))
    write_solutions(tmp_path / "x.jsonl", [item])
    assert list(read_solutions(tmp_path / "x.jsonl")) == [item]
    assert dump_row({"a": "é"}) == '{"a": "é"}'


def test_equal_content_makes_equal_files(tmp_path):
    item = LabeledSolution("1", Solution(Problem("1", "p"), ("s",)))
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_solutions(tmp_path / name, [item])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_rows_by_hand():
    solution = Solution(Problem("p1", "1 + 1?", "2", {"a": 1}), ("one", "two"), "3", False, "policy")
    row = to_row(LabeledSolution("r1", solution, StepLabels((1.0, 0.25), 1, "mc; n=4", {"rollouts": 8.0})))
    assert row == {"id": "r1", "problem": "1 + 1?", "steps": ["one", "two"], "labels": [1, -1], "first_error": 1,
                   "answer": "2", "final_answer": "3", "final_correct": False, "generator": "policy",
                   "problem_id": "p1", "meta": {"a": 1}, "made_by": "mc; n=4", "soft_labels": [1.0, 0.25],
                   "cost": {"rollouts": 8.0}}
    item, dropped = parse_row(ROW, number=7)
    assert (item.id, item.solution.problem.id, item.labels, dropped) == ("7", "7", None, 0)


def test_policies():
    def values(neutral, after_error):
        labels = labels_from_ratings([1, 0, -1, 1, None], neutral=neutral, after_error=after_error, made_by="human")
        return labels.values, labels.first_error, labels.made_by
    assert values("good", "keep") == ((1.0, 1.0, 0.0, 1.0, None), 2, "human; neutral=good, after_error=keep")
    assert values("bad", "keep")[:2] == ((1.0, 0.0, 0.0, 1.0, None), 1)
    assert values("ignore", "bad")[:2] == ((1.0, None, 0.0, 0.0, 0.0), 2)
    assert values("good", "ignore")[:2] == ((1.0, 1.0, 0.0, None, None), 2)
    assert labels_from_ratings([1, 1], neutral="good", after_error="keep").first_error == -1
    assert labels_from_ratings([1, None], neutral="good", after_error="keep").first_error is None


def test_first_error_given_computed_or_unknown():
    assert labels_of({"labels": [1, -1, 1]}).first_error == 1
    assert labels_of({"labels": [1, 1, 1]}).first_error == -1
    assert labels_of({"labels": [1, 1, 1], "first_error": None}).first_error is None  # the trajectory only stops here
    assert labels_of({"labels": [1, 1, 1], "first_error": 2}).first_error == 2
    assert labels_of({"labels": [1, None, -1], "first_error": 1}, after_error="bad").values == (1.0, None, 0.0)


def test_policies_apply_to_written_labels_when_asked_for():
    solution = Solution(Problem("p", "q"), ("a", "b", "c"))
    row = to_row(LabeledSolution("r", solution, StepLabels((0.5, 0.25, 0.75), 1, "mc")))
    assert parse_row(row)[0].labels == StepLabels((0.5, 0.25, 0.75), 1, "mc")
    again = parse_row(row, after_error="ignore")[0].labels
    assert again == StepLabels((0.5, 0.25, None), 1, "mc; neutral=good, after_error=ignore")
    only_soft = labels_of({"soft_labels": [1, 0.25, None]})
    assert (only_soft.values, only_soft.first_error) == ((1.0, 0.25, None), 1)


def test_empty_steps_are_dropped_and_counted_when_allowed():
    row = {"problem": "p", "steps": ["a", " ", "c", ""], "labels": [1, -1, -1, None], "first_error": 1,
           "soft_labels": [0.9, 0.1, 0.2, None]}
    item, dropped = parse_row(row, drop_empty=True)
    assert item.solution.steps == ("a", "c") and dropped == 2
    assert item.labels.values == (0.9, 0.2) and item.labels.first_error == 1


@pytest.mark.parametrize(("row", "text"), [
    ({"steps": ["a"]}, "x.jsonl:1: field 'problem': is missing; each row needs 'problem' (text) and 'steps'"),
    ({"problem": "p"}, "x.jsonl:1: field 'steps': is missing; each row needs"),
    ({"problem": None, "steps": ["a"]}, "x.jsonl:1: field 'problem': must not be null"),
    ({"problem": 3, "steps": ["a"]}, "x.jsonl:1: field 'problem' = 3: has type int; it must be a text"),
    ({"problem": "p", "steps": "a"}, "x.jsonl:1: field 'steps' = 'a': has type str; it must be a list"),
    ({"problem": "p", "steps": []}, "x.jsonl:1: field 'steps' = []: has no steps"),
    ({"problem": "p", "steps": ["a", 3]}, "x.jsonl:1: field 'steps[1]' = 3: must be a text"),
    ({"problem": "p", "steps": ["a", " "]}, "x.jsonl:1: field 'steps[1]' = ' ': is an empty step; drop empty steps"),
    ({**ROW, "labels": [1]}, "x.jsonl:1: field 'labels': has 1 labels for 3 steps"),
    ({**ROW, "labels": [1, 2, 1]}, "x.jsonl:1: field 'labels[1]' = 2: must be -1, 0, 1 or null"),
    ({**ROW, "labels": [1, 0.5, 1]}, "x.jsonl:1: field 'labels[1]' = 0.5: must be -1, 0, 1 or null"),
    ({**ROW, "labels": [1, True, 1]}, "x.jsonl:1: field 'labels[1]' = True: must be -1, 0, 1 or null"),
    ({**ROW, "soft_labels": [1]}, "x.jsonl:1: field 'soft_labels': has 1 labels for 3 steps"),
    ({**ROW, "soft_labels": [1, float("nan"), 1]}, "x.jsonl:1: field 'soft_labels[1]' = nan: must be a number from 0"),
    ({**ROW, "first_error": 3}, "x.jsonl:1: field 'first_error' = 3: is not a step index (the row has 3 steps)"),
    ({**ROW, "first_error": True}, "x.jsonl:1: field 'first_error' = True: has type bool"),
    ({**ROW, "final_correct": "yes"}, "x.jsonl:1: field 'final_correct' = 'yes': has type str"),
    ({**ROW, "meta": []}, "x.jsonl:1: field 'meta' = []: has type list; it must be a JSON object or null"),
    ([1], "x.jsonl:1: a row must be a JSON object, not list")])
def test_bad_rows(tmp_path, row, text):
    with pytest.raises(InputError) as raised:
        read_text(tmp_path, json.dumps(row) + "\n")
    assert text in str(raised.value) and "\n" not in str(raised.value)


def test_rows_of_only_empty_steps(tmp_path):
    with pytest.raises(InputError, match="has only empty steps"):
        read_text(tmp_path, '{"problem": "p", "steps": [" "]}', drop_empty=True)


GOOD = json.dumps(ROW) + "\n"


@pytest.mark.parametrize(("name", "content", "text"), [
    ("x.jsonl", GOOD + "{oops\n", "x.jsonl:2: is not valid JSON (Expecting property name"),
    ("x.jsonl", GOOD + '{"problem": ' + "[" * 100_000, "x.jsonl:2: is not valid JSON"),
    ("x.jsonl", "9" * 5000, "x.jsonl:1: is not valid JSON"),
    ("x.jsonl", b"\xff\xfe\n", "x.jsonl:1: cannot be read ("),
    ("x.jsonl.gz", b"no gzip", "x.jsonl.gz:1: cannot be read (Not a gzipped file"),
    ("x.jsonl.gz", gzip.compress(GOOD.encode() * 2000, mtime=0)[:-20], "cannot be read ("),
    ("x.jsonl.gz", gzip.compress(GOOD.encode(), mtime=0)[:14] + b"\xff" * 8, "x.jsonl.gz:1: cannot be read (")])
def test_damaged_files(tmp_path, name, content, text):
    with pytest.raises(InputError) as raised:
        read_text(tmp_path, content, name)
    assert text in str(raised.value) and "\n" not in str(raised.value)


def test_missing_files(tmp_path):
    with pytest.raises(InputError, match="gone.jsonl: no such file; check the path"):
        next(read_json_lines(tmp_path / "gone.jsonl"))
    with pytest.raises(InputError, match="is not a file"):
        next(read_json_lines(tmp_path))


def test_blank_lines_and_byte_order_marks_are_no_rows(tmp_path):
    items = read_text(tmp_path, b"\xef\xbb\xbf\n" + GOOD.encode() + b"\r\n \n" + GOOD.encode().strip())
    assert [item.id for item in items] == ["2", "5"] and items[0].solution.steps == ("one", "two", "three")
    assert read_text(tmp_path, "") == []


def test_nothing_half_written(tmp_path):
    path = tmp_path / "deep" / "x.jsonl"
    with atomic_write(path) as out:
        out.write("old\n")
    with pytest.raises(RuntimeError), atomic_write(path) as out:
        out.write("new")
        raise RuntimeError
    with pytest.raises(InputError, match="x.jsonl: cannot be written .No space left on device.; make room on the disk"):
        with atomic_write(path) as out:
            out.write("new")
            raise OSError(errno.ENOSPC, "No space left on device")
    for wrong, message in [(path.parent, "deep: is a folder"), (path / "y", "y: cannot be written .(Not a|File)")]:
        with pytest.raises(InputError, match=message), atomic_write(wrong):
            raise AssertionError("the block must not run")
    assert path.read_text() == "old\n" and [child.name for child in path.parent.iterdir()] == ["x.jsonl"]
