"""Datasets of tensorflow-datasets: a small builder of our own, prepared as ArrayRecord and read back without TensorFlow."""

import sys

import pytest

from jaxprm.data import tfds
from jaxprm.data.rows import located, read_rows, rows_sha256
from jaxprm.data.solutions import SolutionFiles, load_solutions
from jaxprm.errors import InputError
from jaxprm.records import LabeledSolution, Problem, Solution, StepLabels

ITEMS = [
    LabeledSolution("a", Solution(Problem("p", "Wie groß?", "4", {"topic": ["é", 1]}), ("x", "y\n"), "5", False, "model"),
                    StepLabels((1.0, None), None, "human; neutral=good", {"rollouts": 2.5})),
    LabeledSolution("b", Solution(Problem("b", "Q"), ("x",)), StepLabels((0.25,), 0, "mc")),
    LabeledSolution("c", Solution(Problem("c", "Q", "1"), ("x", "y"), "1", True), StepLabels((1.0, 1.0), -1, "verifier")),
    LabeledSolution("d", Solution(Problem("d", "R"), ("x",)), None),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Folder of a prepared dataset with the splits ``train`` (all items) and ``more`` (30 rows, two fields)."""
    library = pytest.importorskip("tensorflow_datasets", reason="the extra tfds is not installed")
    place = tmp_path_factory.mktemp("tfds")
    (place / "package").mkdir()

    class OurSteps(library.core.GeneratorBasedBuilder):
        VERSION = library.core.Version("1.0.0")
        pkg_dir_path = place / "package"

        def _info(self):
            return self.dataset_info_from_configs(features=tfds.features())

        def _split_generators(self, manager):
            more = [LabeledSolution(f"m{i}", Solution(Problem(f"m{i}", f"Q{i}"), ("x",)), StepLabels((1.0,), -1, "v"))
                    for i in range(30)]
            return {"train": self._generate_examples(ITEMS), "more": self._generate_examples(more)}

        def _generate_examples(self, items):
            for item in items:
                yield item.id, tfds.to_example(item)

    builder = OurSteps(data_dir=place, file_format="array_record")
    builder.download_and_prepare()
    return place / "our_steps" / "1.0.0"


def test_solutions_come_back(prepared):
    before = "tensorflow" in sys.modules
    items, counts = load_solutions(SolutionFiles((f"tfds:{prepared}@train",), keep_unlabeled=True))
    assert sorted(items, key=lambda item: item.id) == ITEMS and counts.rows == 4
    assert ("tensorflow" in sys.modules) == before
    assert [number for number, _ in read_rows(f"tfds:{prepared}@more")] == list(range(1, 31))
    part, _ = load_solutions(SolutionFiles((f"tfds:{prepared}@more[:10]", f"tfds:{prepared}@more[20:]")))
    assert len(part) == 20 and len({item.id for item in part}) == 20


def test_relative_folders_and_hashes(prepared, monkeypatch):
    monkeypatch.setenv("JAXPRM_DATA", str(prepared.parents[1]))
    assert located("tfds:our_steps/1.0.0@train") == f"tfds:{prepared}@train"
    assert rows_sha256(f"tfds:{prepared}@train") != rows_sha256(f"tfds:{prepared}@more")


@pytest.mark.parametrize(("split", "message"), [
    ("test", "@test: cannot be opened .*Unknown split 'test'"),
    ("train[", r"@train\[: cannot be opened .*Error parsing split")])
def test_splits_that_do_not_exist(prepared, split, message):
    with pytest.raises(InputError, match=message) as caught:
        load_solutions(SolutionFiles((f"tfds:{prepared}@{split}",)))
    assert "\n" not in str(caught.value)


def test_damaged_files(prepared, tmp_path):
    for file in prepared.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (shard,) = tmp_path.glob("*-more.array_record*")
    content = shard.read_bytes()
    shard.write_bytes(content[:len(content) // 2])
    with pytest.raises(InputError, match="@more:1: cannot be read .*; the dataset is damaged; prepare it again"):
        load_solutions(SolutionFiles((f"tfds:{tmp_path}@more",)))
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(InputError, match="@more: cannot be opened"):
        load_solutions(SolutionFiles((f"tfds:{tmp_path}@more",)))


def test_names():
    assert tfds.parse("a.jsonl") is None and tfds.parse("dir/tfds:x@y") is None
    assert tfds.parse("tfds:a@b/1.0.0@train[:80%]") == tfds.Dataset("a@b/1.0.0", "train[:80%]")
    for text in ("tfds:a", "tfds:@train", "tfds:a@"):
        with pytest.raises(InputError, match="must be tfds:FOLDER@SPLIT"):
            tfds.parse(text)


def test_a_folder_without_a_dataset(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}: holds no prepared TFDS dataset; check the path"):
        load_solutions(SolutionFiles((f"tfds:{tmp_path}@train",)))


def test_without_the_extra(tmp_path, monkeypatch):
    (tmp_path / "dataset_info.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(InputError, match=r"tensorflow-datasets is not installed .*; pip install 'jaxprm\[tfds\]'") as caught:
        load_solutions(SolutionFiles((f"tfds:{tmp_path}@train",)))
    assert "\n" not in str(caught.value)
