"""The table of public sets: what it says is complete, and its files are found in a folder."""

import json
from pathlib import Path

import pytest

from jaxprm.cli.main import main
from jaxprm.data.formats import FORMATS
from jaxprm.data.public import PUBLIC_SETS, find_set
from jaxprm.errors import InputError


@pytest.mark.parametrize("name", PUBLIC_SETS)
def test_every_set_is_complete(name):
    item = find_set(name)
    assert item.name == name and item.format in FORMATS and item.licence and item.files
    assert item.page.startswith("https://") and all(item.files.values())
    if item.base is not None:
        assert all(url.startswith("https://") and "*" not in url for urls in item.urls().values() for url in urls)


def test_the_data_readme_lists_every_set_with_its_licence():
    text = (Path(__file__).parents[2] / "data" / "README.md").read_text(encoding="utf-8")
    rows = {row.split("|")[1].strip().strip("`"): row for row in text.splitlines() if row.startswith("| `")}
    for item in PUBLIC_SETS.values():
        assert item.licence in rows[item.name] and item.page in rows[item.name], item.name
    for name in set(rows) & set(FORMATS):
        assert name in PUBLIC_SETS


def test_unknown_names_and_places():
    with pytest.raises(InputError, match="field 'name' = 'prm': no such set; there are prm800k, math-shepherd"):
        find_set("prm")
    with pytest.raises(InputError, match="'toolcomp': has no files at a known address; fetch them from https:.*--folder"):
        find_set("toolcomp").urls()
    assert find_set("prm800k").urls()["phase1_test"] == [
        "https://github.com/openai/prm800k/raw/HEAD/prm800k/data/phase1_test.jsonl"]


def test_files_in_a_folder(tmp_path):
    bench, parc = find_set("processbench"), find_set("parc")
    with pytest.raises(InputError, match="is no folder; it must hold the files of the set"):
        bench.local(tmp_path / "gone")
    with pytest.raises(InputError, match="holds no file of 'processbench'; it looks for gsm8k.json, math.json"):
        bench.local(tmp_path)
    (tmp_path / "deep").mkdir()
    for name in ("math.json", "deep/gsm8k.json.gz", "mathematics.json"):
        (tmp_path / name).write_bytes(b"")
    assert bench.local(tmp_path) == {"gsm8k": [tmp_path / "deep/gsm8k.json.gz"], "math": [tmp_path / "math.json"]}
    (tmp_path / "deep/math.json").write_bytes(b"")
    assert bench.local(tmp_path)["math"] == [tmp_path / "math.json"]  # the original's place comes first
    (tmp_path / "deep/more").mkdir()
    (tmp_path / "deep/more/gsm8k.json").write_bytes(b"")
    with pytest.raises(InputError, match="holds gsm8k.json more than once"):
        bench.local(tmp_path)
    (tmp_path / "gsm8k_negatives.json").write_bytes(b"")
    with pytest.raises(InputError, match="lacks datasets/math/math_negatives.json of the split 'negatives'"):
        parc.local(tmp_path)
    socratic = find_set("socratic-prmbench")
    for name in ("b.jsonl", "deep/a.jsonl"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in socratic.local(tmp_path)["test"]] == ["b.jsonl", "a.jsonl"]


def test_commands(capsys, tmp_path, monkeypatch):
    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(["data", *map(str, arguments)])
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    code, out, _ = call("sets")
    assert code == 0 and "agentprocessbench  MIT" in out
    code, out, _ = call("sets", "deltabench")
    assert "/resolve/main/Deltabench_v1.csv\n" in out and "jaxprm data prepare deltabench --output DIR\n" in out
    for command in ("sets", "prepare"):
        assert f"Example: jaxprm data {command}" in " ".join(call(command, "--help")[1].split())
    (tmp_path / "gsm8k.json").write_text(json.dumps([]))
    import sys

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    code, _, err = call("prepare", "processbench", "--folder", tmp_path, "--output", tmp_path / "out")
    assert code == 2 and "\nerror: tensorflow-datasets is not installed" in err and not (tmp_path / "out").exists()
