"""The registry, settings, containers, and errors that name file and line."""

import datetime
import gzip
import json
import sys

import pytest

from jaxprm.data.formats import FORMATS, ProblemIndex, ReadSettings, find_format, find_writer, read_format, read_rows
from jaxprm.errors import InputError

GOOD = {"prompt": "1 + 1?", "completions": ["2"], "labels": [True]}


def test_every_format_says_what_it_is():
    assert len(FORMATS) >= 30
    for name, format in FORMATS.items():
        assert format.name == name and format.description and format.citation and format.made_by
        resolved = format.resolve()
        assert {field for field in format.defaults if getattr(resolved, field) != format.defaults[field]} == set()
    with pytest.raises(InputError, match="field 'format' = 'prm900k': no such format; there are jaxprm, prm800k"):
        find_format("prm900k")
    with pytest.raises(InputError, match="field 'to' = 'fover': no such format to write; there are jaxprm, trl"):
        find_writer("fover")


@pytest.mark.parametrize(("settings", "message"), [
    ({"neutral": "fine"}, "'neutral' = 'fine': must be one of good, bad, ignore"),
    ({"after_error": "drop"}, "must be one of keep, ignore, bad"),
    ({"index_base": 2}, "'index_base' = 2: must be one of 0, 1"),
    ({"bad_at_most": 1.0}, r"must be in \[0, 1\)"),
    ({"step_tag": ""}, "'step_tag' = '': must not be empty")])
def test_settings_are_checked(settings, message, without_type_checks):
    with pytest.raises(InputError, match=message):
        ReadSettings(**settings)


def test_a_setting_without_effect_is_refused(read):
    with pytest.raises(InputError, match="'neutral': has no effect on the format 'trl'; it takes after_error, bad_at_most"):
        read("trl", GOOD, neutral="bad")
    with pytest.raises(InputError, match="it takes no settings"):
        read("prmbench-original", GOOD, index_base=0)


def test_strict_stops_and_lenient_counts(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    good, bad = json.dumps(GOOD), json.dumps(GOOD | {"labels": [1, 0]})
    lines = [good, "{oops", bad, b"\xff".decode("latin-1"), "[1]", good]
    path.write_bytes(gzip.compress("\n".join(lines).encode("latin-1")))
    with pytest.raises(InputError, match=r"rows.jsonl.gz:2: is not valid JSON"):
        list(read_format(path, FORMATS["trl"]))
    errors = []
    kept = [number for number, _ in read_format(path, FORMATS["trl"], on_error=errors.append)]
    assert kept == [1, 6] and [error.row for error in errors] == [2, 3, 4, 5]
    assert str(errors[1]) == f"{path}:3: field 'labels': has 2 labels for 1 steps"
    assert "cannot be read" in str(errors[2]) and "a row must be a JSON object, not list" in str(errors[3])
    assert [number for number, _ in read_format(path, FORMATS["trl"], first=6)] == [6]


def test_a_missing_field_shows_what_the_row_has(read):
    with pytest.raises(InputError, match=r"rows.jsonl:1: field 'steps': is missing; the row has completions, labels, prompt"):
        read("processbench", GOOD | {})
    with pytest.raises(InputError, match="must not be null"):
        read("trl", GOOD | {"prompt": None})
    with pytest.raises(InputError, match="field 'prompt' = 3: has type int; it must be a text"):
        read("trl", GOOD | {"prompt": 3})
    with pytest.raises(InputError, match=r"field 'completions\[0\]' = 3: must be a text"):
        read("trl", GOOD | {"completions": [3]})


def test_empty_steps_are_dropped_and_counted(read):
    item, = read("processbench", {"problem": "p", "steps": ["a", " ", "", "b"], "label": 2})
    assert item.solution.steps == ("a", "b") and item.labels.first_error == 1
    assert item.solution.problem.meta == {"empty_steps_dropped": 2}
    with pytest.raises(InputError, match="has only empty steps"):
        read("processbench", {"problem": "p", "steps": [" "], "label": -1})
    with pytest.raises(InputError, match="has no steps"):
        read("processbench", {"problem": "p", "steps": [], "label": -1})


def test_containers(tmp_path):
    rows = [{"a": index, "text": "x" * index} for index in range(40)]

    def write(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    expected = list(enumerate(rows, 1))
    assert list(read_rows(write("a.json", json.dumps(rows, indent=1)))) == expected
    assert list(read_rows(write("b.json", "\n".join(map(json.dumps, rows))))) == expected
    assert list(read_rows(write("c.json", " " + json.dumps(rows[3], indent=2)))) == [(1, rows[3])]
    assert list(read_rows(write("d.json", "[ ]"))) == list(read_rows(write("e.json", ""))) == []
    assert [number for number, _ in read_rows(tmp_path / "a.json", first=39)] == [39, 40]
    (tmp_path / "f.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    assert list(read_rows(tmp_path / "f.json.gz")) == expected
    for name, text, message in [("g.json", "[{}, {]", "g.json:2: is not valid JSON"),
                                ("h.json", "[{}", "ends inside the array"), ("i.json", "[{} {}]", "has no comma"),
                                ("j.json", "[{}] {}", "text behind the array"),
                                ("k.arrow", "", "is a .arrow file; save its rows as JSON lines")]:
        with pytest.raises(InputError, match=message):
            list(read_rows(write(name, text)))
    with pytest.raises(InputError, match="no such file"):
        list(read_rows(tmp_path / "gone.json"))


def test_long_arrays_are_read_in_pieces(tmp_path, monkeypatch):
    import jaxprm.data.formats.rows as module

    monkeypatch.setattr(module, "_CHUNK", 7)
    rows = [{"text": "y" * (index % 90), "n": [index, {"m": "ü"}]} for index in range(200)]
    for indent in (None, 2):
        (tmp_path / "a.json").write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
        assert [value for _, value in read_rows(tmp_path / "a.json")] == rows


def test_tables(tmp_path):
    """CSV with line breaks, quotes and long values; Parquet with lists, nulls, and what JSON has no word for."""
    path = tmp_path / "a.csv"
    long = "x" * 200_000
    path.write_text(f'\ufeffid,text\r\n1,"a ""b""\nc"\r\n2,\r\n3,{long}\r\n', encoding="utf-8")
    assert list(read_rows(path)) == [(1, {"id": "1", "text": 'a "b"\nc'}), (2, {"id": "2"}), (3, {"id": "3", "text": long})]
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert list(read_rows(tmp_path / "b.csv.gz", first=3)) == [(3, {"id": "3", "text": long})]
    path.write_text("id,text\n1,a,b\n")
    with pytest.raises(InputError, match="a.csv:1: has another number of values than the header"):
        list(read_rows(path))
    path.write_text('id,text\n1,a\n2,"b')
    with pytest.raises(InputError, match="a.csv:2: cannot be read .unexpected end of data"):
        list(read_rows(path))


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    from pyarrow import parquet

    rows = [{"prompt": "p", "completions": ["a", "b"], "labels": [True, None], "at": datetime.date(2024, 5, 1)},
            {"prompt": "q", "completions": ["c"], "labels": None, "at": None}]
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert list(read_rows(path)) == [(1, rows[0] | {"at": "2024-05-01"}), (2, rows[1])]
    errors = []
    (_, (item,)), = read_format(path, FORMATS["trl"], on_error=errors.append)
    assert item.labels.values == (1.0, None) and str(errors[0]).startswith(f"{path}:2: field 'labels': must not be null")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="a.parquet:1: cannot be read .*; the file is damaged or truncated"):
        list(read_rows(path))


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"a.parquet: needs pyarrow to be read; pip install 'jaxprm\[parquet\]'"):
        list(read_rows(tmp_path / "a.parquet"))


def test_problem_index(tmp_path):
    index = ProblemIndex(["What is 1 + 1?", "What is 1 + 1? Show it.", "Hm", " "])
    assert index.split("What is 1 + 1? Two.") == ("What is 1 + 1?", "Two.")
    assert index.split(" What is 1 + 1? Show it. Two.") == ("What is 1 + 1? Show it.", "Two.")
    assert index.split("Hm yes") == ("Hm", "yes") and index.split("What is 2 + 2? Four.") is None
    (tmp_path / "p.jsonl").write_text('{"question": "Hm"}\n{"problem": "Ho"}\n')
    assert ProblemIndex.from_file(tmp_path / "p.jsonl").split("Ho ho") == ("Ho", "ho")
    (tmp_path / "p.jsonl").write_text('{"q": "Hm"}\n')
    with pytest.raises(InputError, match="p.jsonl:1: field 'problem': is missing"):
        ProblemIndex.from_file(tmp_path / "p.jsonl")
