"""Step-labelled files in, labelled solutions out: explicit policies, counts of what was left out, splits by problem."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator

from jaxprm.data.rows import located, read_rows
from jaxprm.errors import InputError
from jaxprm.records import AfterErrorPolicy, LabeledSolution, NeutralPolicy, parse_row


@dataclasses.dataclass(frozen=True)
class Source:
    """One part of a mixture.

    Attributes:
      name: what reports call it.
      files: as in `SolutionFiles`.
      weight: how often a solution is drawn from it, relative to the other sources' weights.
    """

    name: str
    files: tuple[str, ...]
    weight: float = 1.0

    def __post_init__(self):
        if not self.name:
            raise InputError("must not be empty", field="name", value=self.name)
        _check_files(self.files)
        if not 0 < self.weight < math.inf:
            raise InputError("must be positive and finite", field="weight", value=self.weight,
                             hint=f"leave '{self.name}' out to train without it")


@dataclasses.dataclass(frozen=True)
class SolutionFiles:
    """Which files to learn from and what their ratings mean.

    Attributes:
      files: ``.jsonl``, ``.jsonl.gz`` or ``.arrayrecord`` paths, or ``tfds:FOLDER@SPLIT`` (see `jaxprm.data.rows`);
        `data_path` says how relative ones are found.
      mixture: instead of ``files``: several sources from which solutions are drawn by weight.
      neutral: how a neutral rating (0) counts: "good", "bad", or "ignore" (not judged).
      after_error: what the steps behind the first wrong one count as: "keep" their own rating, "ignore", or "bad".
      drop_empty_steps: leave out steps without text (counted) instead of refusing the file.
      keep_unlabeled: keep solutions in which no step is judged; otherwise they are left out (counted).
    """

    files: tuple[str, ...] = ()
    mixture: tuple[Source, ...] = ()
    neutral: NeutralPolicy = "good"
    after_error: AfterErrorPolicy = "keep"
    drop_empty_steps: bool = False
    keep_unlabeled: bool = False

    def __post_init__(self):
        if not self.mixture:
            _check_files(self.files)
        elif self.files:
            raise InputError("cannot be set beside mixture", field="files", value=self.files,
                             hint="make them a source of the mixture")
        names = [source.name for source in self.mixture]
        if len(set(names)) < len(names):
            raise InputError("names a source twice", field="mixture", value=names)
        if self.neutral not in ("good", "bad", "ignore"):
            raise InputError("must be one of good, bad, ignore", field="neutral", value=self.neutral)
        if self.after_error not in ("keep", "ignore", "bad"):
            raise InputError("must be one of keep, ignore, bad", field="after_error", value=self.after_error)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The mixture, or ``files`` as its only source."""
        return self.mixture or (Source("data", self.files),)

    @property
    def all_files(self) -> tuple[str, ...]:
        """The files of all sources, each once."""
        return tuple(dict.fromkeys(file for source in self.sources for file in source.files))


def _check_files(files: tuple[str, ...]) -> None:
    if not files or isinstance(files, str):
        raise InputError("must be a tuple of at least one path", field="files", value=files)


@dataclasses.dataclass(frozen=True)
class LoadCounts:
    """What was read and left out: ``rows == kept solutions + unlabeled`` (unless those are kept too)."""

    rows: int = 0
    unlabeled: int = 0
    empty_steps: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class ReadSolution:
    """A row that was read: the solution (None if it is left out because no step is judged) and where it stands.

    Attributes:
      item, empty_steps: the solution, and how many empty steps were dropped from it.
      source, file, row: index of the source, the file's path, 1-based row.
    """

    item: LabeledSolution | None
    empty_steps: int
    source: int
    file: str
    row: int


def iterate_solutions(data: SolutionFiles) -> Iterator[ReadSolution]:
    """Streams the rows of all files, source by source, in bounded memory.

    Raises:
      InputError: a missing or damaged file, or a malformed row; it names file, row, field and value.
    """
    # All paths first: a wrong second one should not cost a read.
    paths = [(index, located(path)) for index, source in enumerate(data.sources) for path in source.files]
    for index, path in paths:
        for number, row in read_rows(path):
            item, empty = parse_row(row, file=path, number=number, neutral=data.neutral, after_error=data.after_error,
                                    drop_empty=data.drop_empty_steps)
            judged = item.labels is not None and any(value is not None for value in item.labels.values)
            yield ReadSolution(item if judged or data.keep_unlabeled else None, empty, index, path, number)


def load_solutions(data: SolutionFiles) -> tuple[list[LabeledSolution], LoadCounts]:
    """Reads all files in order, into memory.

    Raises:
      InputError: as `iterate_solutions`, or nothing left.
    """
    kept: list[LabeledSolution] = []
    rows = unlabeled = empty_steps = 0
    for read in iterate_solutions(data):
        rows, empty_steps, unlabeled = rows + 1, empty_steps + read.empty_steps, unlabeled + (read.item is None)
        if read.item is not None:
            kept.append(read.item)
    counts = LoadCounts(rows, unlabeled, empty_steps)
    if not kept:
        raise nothing_left(data, counts)
    return kept, counts


def nothing_left(data: SolutionFiles, counts: LoadCounts) -> InputError:
    """The error of files without a usable solution."""
    return InputError(f"no usable solutions ({counts.rows} rows, {counts.unlabeled} of them without a judged step)",
                      file=", ".join(map(located, data.all_files)))


def problem_hash(prompt: str, salt: int = 0) -> int:
    """64-bit hash of a problem's text in which white space and case do not matter."""
    normalised = "".join(prompt.split()).casefold()
    text = f"{salt}:{normalised}".encode("utf-8", "surrogatepass")  # broken text has a hash, too
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def split_by_problem(items: Iterable[LabeledSolution], held_out: float,
                     salt: int = 0) -> tuple[list[LabeledSolution], list[LabeledSolution]]:
    """Splits into (train, held out) so that all solutions of a problem fall on the same side.

    The side depends on the problem's text and ``salt`` alone: it stays when files are added, reordered or filtered.
    ``held_out`` is therefore the expected share of problems, not an exact count.
    """
    train, test = [], []
    for item in items:
        (test if in_held_out(item, held_out, salt) else train).append(item)
    return train, test


def in_held_out(item: LabeledSolution, held_out: float, salt: int = 0) -> bool:
    """On which side `split_by_problem` puts a solution."""
    if not 0.0 <= held_out < 1.0:
        raise InputError("must be in [0, 1)", field="held_out", value=held_out)
    return problem_hash(item.solution.problem.prompt, salt) < held_out * 2**64


@dataclasses.dataclass(frozen=True)
class LabelStatistics:
    """Counts over labelled solutions.

    Attributes:
      solutions, problems: rows, and distinct problem texts (white space and case ignored).
      steps, judged: all steps, and those with a label.
      good, bad, soft: labels equal to 1, equal to 0, and strictly between.
      with_error, clean, unknown: solutions whose first error is known, known to be absent, or unknown.
      max_steps: steps of the longest solution.
      mean_label: mean of the judged labels; 0 if there are none.
    """

    solutions: int
    problems: int
    steps: int
    judged: int
    good: int
    bad: int
    soft: int
    with_error: int
    clean: int
    unknown: int
    max_steps: int
    mean_label: float


def label_statistics(items: Iterable[LabeledSolution]) -> LabelStatistics:
    """Counts solutions, steps and labels; solutions without labels count as unknown."""
    problems: set[int] = set()
    counts: Counter[str] = Counter()
    max_steps, total = 0, 0.0
    for item in items:
        problems.add(problem_hash(item.solution.problem.prompt))
        max_steps = max(max_steps, len(item.solution.steps))
        error = item.labels.first_error if item.labels else None
        judged = [value for value in (item.labels.values if item.labels else ()) if value is not None]
        good, bad = sum(value == 1.0 for value in judged), sum(value == 0.0 for value in judged)
        counts.update(solutions=1, steps=len(item.solution.steps), judged=len(judged), good=good, bad=bad,
                      soft=len(judged) - good - bad, clean=error == -1, unknown=error is None)
        total += sum(judged)
    found = {name: counts[name] for name in ("solutions", "steps", "judged", "good", "bad", "soft", "clean", "unknown")}
    return LabelStatistics(**found, problems=len(problems), max_steps=max_steps,
                           with_error=found["solutions"] - found["clean"] - found["unknown"],
                           mean_label=total / found["judged"] if found["judged"] else 0.0)
