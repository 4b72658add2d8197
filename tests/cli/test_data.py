"""``jaxprm data``: every command end to end, and bad input in one line with exit code 2."""

import gzip
import json

import pytest

from jaxprm.cli.main import main


@pytest.fixture
def call(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(["data", *map(str, arguments)])
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run


BENCH = [{"id": f"r{index}", "problem": f"Add {index} and {index} to see what comes out of it.",
          "steps": ["I add <them>.", "Done."], "label": index % 3 - 1, "final_answer_correct": index % 3 == 0}
         for index in range(30)]


@pytest.fixture
def bench(tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(BENCH))
    return path


@pytest.fixture
def rows(call, bench, tmp_path):
    assert call("convert", bench, "--from", "processbench", "--output", tmp_path / "rows.jsonl")[0] == 0
    return tmp_path / "rows.jsonl"


def lines(path):
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
        return [json.loads(line) for line in file]


def test_formats(call):
    code, out, _ = call("formats")
    assert code == 0 and "prm800k" in out and "who-and-when" in out
    code, out, _ = call("formats", "processbench")
    assert code == 0 and "--index-base 0" in out and "2412.06559" in out


def test_convert_there_and_back(call, bench, rows, tmp_path):
    assert lines(rows)[1]["made_by"].endswith("format=processbench, after_error=keep, index_base=0")
    code, out, _ = call("convert", rows, "--to", "processbench", "--output", tmp_path / "back.jsonl.gz")
    assert code == 0 and out.startswith("30 rows, 30 solutions written, 0 left out: ")
    back = lines(tmp_path / "back.jsonl.gz")
    assert [{key: item[key] for key in BENCH[0]} for item in back] == BENCH
    code, out, _ = call("convert", rows, "--to", "trl", "--unjudged", "cut", "--shard-rows", 7, "--lenient", "--output",
                        tmp_path / "s")
    assert code == 0 and "in 5 files" in out and len(list((tmp_path / "s").glob("*.gz"))) == 5


def test_stats_validate_split_dedup_overlap_mix_view(call, bench, rows, tmp_path):
    code, out, _ = call("stats", bench, "--format", "processbench", "--json", tmp_path / "stats.json")
    assert code == 0 and "separators inside steps" in out
    numbers = json.loads((tmp_path / "stats.json").read_text())
    assert (numbers["solutions"], numbers["with_error"], numbers["clean"]) == (30, 20, 10)
    assert call("validate", rows)[0] == 0
    code, out, _ = call("split", rows, "--parts", "train=0.8,test=0.2", "--output", tmp_path / "parts", "--compress")
    assert code == 0 and len(lines(tmp_path / "parts/train.jsonl.gz")) + len(lines(tmp_path / "parts/test.jsonl.gz")) == 30
    code, out, _ = call("dedup", rows, rows, "--near", 0.9, "--output", tmp_path / "unique.jsonl", "--json",
                        tmp_path / "d.json")
    assert code == 0 and json.loads((tmp_path / "d.json").read_text())["exact"] == 30
    code, out, _ = call("overlap", rows, "--benchmark", bench, "--benchmark-format", "processbench")
    assert code == 0 and "contaminated rows" in out
    code, out, _ = call("mix", f"{rows}=1", f"{tmp_path / 'unique.jsonl'}=1", "--rows", 10, "--output",
                        tmp_path / "mixed.jsonl")
    assert code == 0 and len(lines(tmp_path / "mixed.jsonl")) == 10
    code, out, err = call("view", rows, "--only", "error", "--limit", 5, "--output", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert code == 0 and out.startswith("5 solutions: ") and "view: 8 rows" in err  # 5 of the first 8 have errors
    assert "I add &lt;them&gt;." in page and page.count("first error</span>") == 5
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"problem": "\\ud800 x", "steps": ["a \\udfff"], "labels": [1]}\n')
    assert call("view", broken, "--output", tmp_path / "broken.html")[0] == 0
    assert "? x" in (tmp_path / "broken.html").read_text()
    assert call("overlap", broken, "--benchmark", broken, "--json", tmp_path / "o.json")[0] == 0
    scores = tmp_path / "scores.jsonl"
    scores.write_text('{"id": "r2", "scores": [0.25, null]}\n')
    code, out, _ = call("view", rows, "--scores", scores, "--output", tmp_path / "page.html")
    assert out.startswith("1 solutions: ") and "score 0.25" in (tmp_path / "page.html").read_text()


def test_raw_rows_of_a_format_that_needs_a_setting(call, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"input": "Q? Step 1: a<P>", "value": ["+"]}) + "\n")
    reading = ("--format", "openrlhf", "--step-tag", "<P>", "--output", tmp_path / "out")
    assert call("dedup", path, *reading)[0] == call("mix", f"{path}=1", *reading)[0] == 0
    assert call("overlap", path, "--benchmark", path, "--benchmark-format", "openrlhf", *reading)[0] == 2  # of the benchmark
    assert call("split", path, *reading[:-1], tmp_path / "parts")[0] == 0
    assert lines(tmp_path / "out") == lines(path)


def test_bad_input_ends_in_one_line(call, bench, rows, tmp_path, without_type_checks):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(BENCH[0]) + "\n" + json.dumps(BENCH[1] | {"label": 2}) + "\n")
    output = ("--output", tmp_path / "never")
    scores = tmp_path / "scores.jsonl"
    scores.write_text('{"id": "r2", "scores": [0.25]}\n')
    for arguments, message in [
            (("convert", bad, "--from", "processbench", *output), f"error: {bad}:2: field 'label' = 2: is not the"),
            (("convert", bad, "--from", "procesbench", *output), "error: field 'format' = 'procesbench': no such format"),
            (("convert", bad, "--from", "processbench", "--neutral", "bad", *output), "error: field 'neutral': has no effect"),
            (("convert", bench, "--from", "processbench", "--after-error", "drop", *output), "error: field 'after_error' = "),
            (("convert", rows, "--to", "trl", *output), f"error: {rows}:2: field 'labels[1]' = None: solution 'r1' has a step"),
            (("convert", tmp_path / "gone", *output), f"error: {tmp_path / 'gone'}: no such file"),
            (("stats", bad, "--format", "processbench"), f"error: {bad}:2: field 'label' = 2"),
            (("split", rows, "--parts", "train", *output), "error: field 'parts' = 'train': must be NAME=SHARE"),
            (("mix", rows, *output), "error: field 'inputs' = "),
            (("dedup", rows, "--by", "row", *output), "error: field 'by' = 'row': must be one of solution, problem"),
            (("dedup", rows, "--near", "2", *output), "error: field 'threshold' = 2.0"),
            (("view", rows, "--only", "x", *output), "error: field 'only' = 'x'"),
            (("view", rows, "--contains", "nothing like it", *output), f"error: {rows}: has nothing to show"),
            (("view", rows, "--scores", scores, *output), f"error: {scores}: field 'scores' = 'r2': has 1 scores for 2 steps"),
            (("stats", rows, "--json", tmp_path), f"error: {tmp_path}: cannot be written; give the name of a file"),
            (("dedup", rows, "--near", "0.5", "--output", rows / "x"), f"error: {rows / 'x'}: cannot be written"),
            (("convert", rows, "--output", tmp_path), f"error: {tmp_path}: is a folder"),
            (("convert", tmp_path, *output), f"error: {tmp_path}: is not a file"),
            (("convert", bench), "error: Missing option '--output'")]:
        code, _, err = call(*arguments)
        assert code == 2, arguments
        line = err.strip().splitlines()[-1]
        assert line.startswith(message), (line, message)
        assert "Traceback" not in err and not (tmp_path / "never").exists()


def test_validate_lists_what_is_wrong(call, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{oops\n" + json.dumps({"problem": "p", "steps": ["a"], "labels": [1, 1]}) + "\n")
    code, out, err = call("validate", bad, "--json", tmp_path / "v.json")
    assert code == 2 and f"{bad}:2: field 'labels': has 2 labels for 1 steps" in err
    assert err.strip().splitlines()[-1].startswith(f"error: {bad}: 2 of 2 rows cannot be read; the first: ")
    assert json.loads((tmp_path / "v.json").read_text())["unreadable"] == 2


def test_help_has_examples(call):
    code, out, err = call()
    assert code == 0 and "dedup" in out and not err
    for command in ("convert", "stats", "validate", "split", "dedup", "overlap", "mix", "view", "formats"):
        code, out, _ = call(command, "--help")
        assert code == 0 and f"Example: jaxprm data {command}" in " ".join(out.split())
