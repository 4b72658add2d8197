"""The public step-labelled sets: where their files come from, in which format, under which licence.

A set is read from a folder with its files, or from their official location (`jaxprm.data.tfds_builder`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from jaxprm.errors import InputError

UNCONFIRMED = "see its page"


@dataclasses.dataclass(frozen=True)
class PublicSet:
    """A public set.

    Attributes:
      name: as given on the command line.
      format: the name of its format in `jaxprm.data.formats`.
      page: where it is described.
      licence: as its page says, or `UNCONFIRMED`.
      files: the files of each split, by their paths below ``base``; with ``*`` where only the kind of file is known.
      base: what stands before the paths in a URL; None = the files have to be fetched by hand.
      note: what a reader should know first.
    """

    name: str
    format: str
    page: str
    licence: str
    files: Mapping[str, tuple[str, ...]]
    base: str | None = None
    note: str = ""

    def urls(self) -> dict[str, list[str]]:
        """The URLs of each split.

        Raises:
          InputError: they are not known.
        """
        if self.base is None:
            raise InputError("has no files at a known address", field="name", value=self.name,
                             hint=f"fetch them from {self.page} and give their folder (--folder)")
        return {split: [self.base + file for file in files] for split, files in self.files.items()}

    def local(self, folder: str | os.PathLike) -> dict[str, list[Path]]:
        """The files of each split in a folder: at the same path as in the original, or anywhere below it by their names,
        compressed (``.gz``) or not. Splits without any file are left out.

        Raises:
          InputError: no folder, none of the files, or only some files of a split.
        """
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise InputError("is no folder", file=folder, hint="it must hold the files of the set")
        found: dict[str, list[Path]] = {}
        for split, files in self.files.items():
            matches = {file: _matches(folder, file) for file in files}
            missing = [file for file, paths in matches.items() if not paths]
            if missing and len(missing) < len(files):
                raise InputError(f"lacks {missing[0]} of the split '{split}'", file=folder, hint=f"it comes from {self.page}")
            for file, paths in matches.items():
                if len(paths) > 1 and "*" not in file:
                    raise InputError(f"holds {file} more than once", file=folder, hint="give the folder of one copy")
            if not missing:
                found[split] = [path for paths in matches.values() for path in paths]
        if not found:
            names = ", ".join(file for files in self.files.values() for file in files)
            raise InputError(f"holds no file of '{self.name}'", file=folder, hint=f"it looks for {names}")
        return found


def _matches(folder: Path, file: str) -> list[Path]:
    for pattern in (file, f"**/{file.rpartition('/')[2]}"):
        paths = {path for end in ("", ".gz") for path in folder.glob(pattern + end) if path.is_file()}
        if paths:
            return sorted(paths)
    return []


def _hub(repository: str) -> dict[str, str]:
    page = f"https://huggingface.co/datasets/{repository}"
    return {"page": page, "base": f"{page}/resolve/main/"}


def _github(repository: str) -> dict[str, str]:
    # The address "raw/HEAD" follows the main branch by any name, and gives what Git LFS holds instead of its pointer.
    page = f"https://github.com/{repository}"
    return {"page": page, "base": f"{page}/raw/HEAD/"}


def _each(names: str, pattern: str) -> dict[str, tuple[str, ...]]:
    return {name: (pattern.format(name),) for name in names.split()}


_PARC = {"gsm8k": "gsm8k", "math": "math", "metamathqa": "metamathqa", "orca_math": "orcamath"}
_NO_STEP_1 = "problem and first step are one text; rows without 'Step 1:' need --problems"

PUBLIC_SETS: dict[str, PublicSet] = {item.name: item for item in (
    PublicSet("prm800k", "prm800k", licence="MIT", **_github("openai/prm800k"), files=_each(
        "phase1_train phase1_test phase2_train phase2_test", "prm800k/data/{}.jsonl"),
        note="--neutral decides what a rating of 0 means"),
    PublicSet("math-shepherd", "math-shepherd", licence=UNCONFIRMED, **_hub("peiyi9979/Math-Shepherd"),
              files={"train": ("math-shepherd.jsonl",)}, note="some rows are broken: --lenient leaves them out"),
    PublicSet("rlhflow-mistral", "rlhflow", page="https://huggingface.co/datasets/RLHFlow/Mistral-PRM-Data",
              base="https://huggingface.co/datasets/RLHFlow/Mistral-PRM-Data/resolve/refs%2Fconvert%2Fparquet/",
              licence=UNCONFIRMED, files={"train": ("default/train/0000.parquet",)}, note=_NO_STEP_1),
    PublicSet("rlhflow-deepseek", "rlhflow", licence=UNCONFIRMED, **_hub("RLHFlow/Deepseek-PRM-Data"),
              files={"train": ("deepseek_instruct_data.jsonl",)}, note=_NO_STEP_1),
    PublicSet("trl-math-shepherd", "trl", licence=UNCONFIRMED, **_hub("trl-lib/math_shepherd"),
              files=_each("train test", "data/{}-00000-of-00001.parquet")),
    PublicSet("math-aps", "math-aps", licence="MIT", **_hub("openreasoner/MATH-APS"), files={"train": ("math_aps.json",)},
              note="a label says whether more than half of the completions of the prefix were right"),
    PublicSet("fover", "fover", licence=UNCONFIRMED, page="https://github.com/psunlpgroup/FoVer",
              files=_each("train validation test", "*{}*"), note="its page lists the sets, by task and model"),
    PublicSet("actprm", "actprm", licence=UNCONFIRMED, page="https://huggingface.co/datasets/sail/ActPRMData",
              files={"train": ("*train*",)}, note="--label-field names the field with the labels"),
    PublicSet("processbench", "processbench", licence="Apache-2.0", **_hub("Qwen/ProcessBench"),
              files=_each("gsm8k math olympiadbench omnimath", "{}.json")),
    PublicSet("prmbench", "prmbench", licence="Apache-2.0", **_hub("hitsmy/PRMBench_Preview"),
              files={"test": ("prmbench_preview.jsonl",)},
              note="rows whose error lies outside the steps are refused: --lenient leaves them out"),
    PublicSet("prmbench-original", "prmbench-original", licence="Apache-2.0", **_hub("hitsmy/PRMBench_Preview"),
              files={"test": ("prmbench_preview.jsonl",)}, note="the solutions before they were edited"),
    PublicSet("socratic-prmbench", "socratic-prmbench", licence=UNCONFIRMED,
              page="https://github.com/Xiang-Li-oss/Socratic-PRMBench", files={"test": ("**/*.jsonl",)},
              note="rows whose error lies outside the steps are refused: --lenient leaves them out"),
    PublicSet("deltabench", "deltabench", licence=UNCONFIRMED, **_hub("OpenStellarTeam/DeltaBench"),
              files={"test": ("Deltabench_v1.csv",)}),
    PublicSet("mr-gsm8k", "mr-gsm8k", licence=UNCONFIRMED, **_github("dvlab-research/MR-GSM8K"),
              files={"test": ("dataset/MR-GSM8K.json",)}),
    PublicSet("mr-ben", "mr-ben", licence="MIT", **_github("dvlab-research/Mr-Ben"),
              files=_each("biology chemistry coding math medicine physics", "data/{}.json")),
    PublicSet("bigbench-mistake", "bigbench-mistake", licence="Apache-2.0", **_github("WHGTyen/BIG-Bench-Mistake"), files=_each(
        "dyck_languages logical_deduction multistep_arithmetic tracking_shuffled_objects word_sorting", "{}.jsonl")),
    PublicSet("stepverify", "stepverify", licence="CC BY 4.0", **_github("eth-lre/verify-then-generate"),
              files={"train": ("dataset/dataset.json",)}),
    PublicSet("parc", "parc", licence="MIT", **_github("SagnikMukherjee/PARC"), files={
        split: tuple(f"datasets/{folder}/{name}_{split}.json" for folder, name in _PARC.items())
        for split in ("negatives", "positives", "positives_perturbed")}),
    PublicSet("agentprocessbench", "agentprocessbench", licence="MIT", **_hub("LulaCola/AgentProcessBench"),
              files=_each("bfcl gaia_dev hotpotqa tau2", "{}/test.jsonl")),
    PublicSet("who-and-when", "who-and-when", licence="MIT", **_hub("Kevin355/Who_and_When"), files={
        "algorithm_generated": ("Algorithm-Generated.parquet",), "hand_crafted": ("Hand-Crafted.parquet",)}),
    PublicSet("toolcomp", "toolcomp", licence=UNCONFIRMED,
              page="https://huggingface.co/datasets/vaskarnath/toolcomp_process_supervision_eval",
              files={"test": ("*",)}),
)}


def find_set(name: str) -> PublicSet:
    """The public set of that name.

    Raises:
      InputError: there is none; the message lists all.
    """
    if name not in PUBLIC_SETS:
        raise InputError("no such set", field="name", value=name, hint=f"there are {', '.join(PUBLIC_SETS)}")
    return PUBLIC_SETS[name]
