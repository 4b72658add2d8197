"""Public sets prepared as TFDS datasets: from a folder, from a server, with policies in their names; all or nothing."""

import functools
import http.server
import json
import sys
import threading
from pathlib import Path

import pytest

from jaxprm.data.formats import FORMATS, ReadSettings, read_format
from jaxprm.data.public import PublicSet, find_set
from jaxprm.data.solutions import SolutionFiles, load_solutions
from jaxprm.data.tools import Source, convert, statistics
from jaxprm.errors import InputError

pytest.importorskip("tensorflow_datasets", reason="the extra tfds is not installed")
from jaxprm.data.tfds_builder import prepare  # noqa: E402

ROWS = [{"id": f"r{index}", "generator": "m", "problem": f"Add {index} and {index}?", "steps": ["I add.", "Done."],
         "label": index % 3 - 1, "final_answer_correct": index % 3 == 0} for index in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("files")
    (place / "gsm8k.json").write_text(json.dumps(ROWS))
    (place / "math.json").write_text(json.dumps(ROWS[:4] + [ROWS[4] | {"label": 9}]))
    return place


def solutions(source):
    items, _ = load_solutions(SolutionFiles((source,), keep_unlabeled=True))
    return sorted(items, key=lambda item: int(item.id[1:]))


def test_from_a_folder(folder, tmp_path):
    before = "tensorflow" in sys.modules
    public, errors = find_set("processbench"), []
    with pytest.raises(InputError, match="math.json:5: field 'label' = 9: is not the number of one of the 2 steps"):
        prepare(public, tmp_path, folder=folder)
    assert not [path for path in (tmp_path / "processbench").rglob("*") if path.name.startswith("1.0.0")]
    found = prepare(public, tmp_path, folder=folder, on_error=errors.append)
    place = tmp_path / "processbench" / "default" / "1.0.0"
    assert found.sources == {"gsm8k": f"tfds:{place}@gsm8k", "math": f"tfds:{place}@math"}
    assert found.solutions == {"gsm8k": 12, "math": 4} and len(errors) == 1
    expected = [items[0] for _, items in read_format(folder / "gsm8k.json", FORMATS["processbench"])]
    assert solutions(found.sources["gsm8k"]) == expected
    source = Source((Path(found.sources["gsm8k"]),))  # the tools take it as any file
    assert statistics(source).with_error == 8 and convert(source, tmp_path / "shards", shard_rows=7).files == 2
    with pytest.raises(InputError, match="default/1.0.0: is prepared already; delete it to prepare it anew"):
        prepare(public, tmp_path, folder=folder, on_error=errors.append)
    # Other labels are another dataset.
    other = prepare(public, tmp_path, folder=folder, settings=ReadSettings(after_error="bad"), on_error=errors.append)
    assert "/processbench/after_error_bad/1.0.0@" in other.sources["math"]
    assert solutions(other.sources["math"])[1].labels.values == (0.0, 0.0)
    assert ("tensorflow" in sys.modules) == before


def test_from_a_server(folder, tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.func.log_message = lambda *arguments: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}/"
        public = PublicSet("our-bench", "processbench", base, "none", {"test": ("gsm8k.json",)}, base)
        found = prepare(public, tmp_path)
        assert len(solutions(found.sources["test"])) == 12
        gone = PublicSet("gone", "processbench", base, "none", {"test": ("gone.json",)}, base)
        with pytest.raises(InputError, match=f"^{base}: cannot be downloaded .*404.*; fetch the files by hand") as caught:
            prepare(gone, tmp_path)
        assert "\n" not in str(caught.value)
        server.shutdown()


def test_settings_that_do_not_fit(folder, tmp_path):
    with pytest.raises(InputError, match="'neutral': has no effect on the format 'processbench'"):
        prepare(find_set("processbench"), tmp_path, folder=folder, settings=ReadSettings(neutral="bad"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written .*; choose another --output"):
        prepare(find_set("processbench"), tmp_path / "file", folder=folder)
