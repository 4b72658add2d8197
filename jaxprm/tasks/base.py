"""The contract of a problem family: problems from a key, exact verdicts for every step, errors planted on purpose."""

from __future__ import annotations

import dataclasses
import hashlib
from operator import index
from typing import Protocol, SupportsIndex

from jaxprm.errors import InputError
from jaxprm.records import Problem

Key = SupportsIndex | tuple[SupportsIndex, ...]

_POOL_BITS = 512
_REFILL_BELOW = 1 << 96


@dataclasses.dataclass(frozen=True)
class StepVerdicts:
    """What is true of each line of a solution. Judging never raises: any text that a policy can emit has verdicts.

    Attributes:
      valid: the line follows from what the solution itself wrote before it, and reads the problem rightly: a consistent
        continuation of a wrong value is valid. Lines that are no step at all, steps out of order, steps done before,
        and lines after the answer are not valid.
      right: the line holds the true content for its place given the problem, whatever precedes it. Where the
        reference is unique (arithmetic) this is equality with the reference step of that place, so that everything
        after a dropped or repeated step is displaced and not right; a state-based family says its own rule.
      first_error: 0-based place of the first line that is not right, -1 if there is none. A dropped step is an error
        at the place where it is missing. A repeated step is an error at the repetition, though what it says is true
        (PRMBench "redundency"). A solution that merely stops early has no wrong line: -1, and ``correct`` is False.
      answer: the text of the first answer line, ``None`` without one.
      correct: whether that answer is right.
    """

    valid: tuple[bool, ...]
    right: tuple[bool, ...]
    first_error: int
    answer: str | None
    correct: bool


@dataclasses.dataclass(frozen=True)
class Part:
    """The share of all problems that belongs to one stage: those whose `place` lies in [low, high).

    Parts with disjoint intervals hold disjoint problems, whatever keys, styles or sizes they are sampled with.

    Example: ``labels, held_out = Part("labels", 0.0, 0.8), Part("held_out", 0.8, 1.0)``.
    """

    name: str
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self):
        if not 0.0 <= self.low < self.high <= 1.0:
            raise InputError("needs 0 <= low < high <= 1", field=f"part '{self.name}'", value=(self.low, self.high))

    def holds(self, canonical: str) -> bool:
        """Whether the problem of this canonical text belongs to the part."""
        return self.low <= place(canonical) < self.high


WHOLE = Part("whole")


class Task(Protocol):
    """A problem family with an exact verifier. Implementations are frozen dataclasses, their methods pure functions."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of error that `corrupt` can plant; see `jaxprm.tasks.corruptions.PRMBENCH_CLASSES`."""

    def sample(self, key: Key, part: Part = WHOLE) -> Problem:
        """The problem of this key, within the part."""

    def solve(self, problem: Problem) -> tuple[str, ...]:
        """Reference steps; the answer line is the last of them."""

    def judge(self, problem: Problem, steps: tuple[str, ...]) -> StepVerdicts:
        """Exact verdicts for any lines."""

    def corrupt(self, key: Key, problem: Problem, steps: tuple[str, ...], kind: str,
                step: int) -> tuple[str, ...] | None:
        """Keeps ``steps[:step]``, plants an error of this kind at ``step`` and goes on consistently from there.

        Returns ``None`` where the kind cannot make that step wrong (2 * 2 read as 2 + 2; nothing to repeat at step 0).
        """

    def verify(self, problem: Problem, answer: str | None) -> bool:
        """Whether this text is a right final answer."""

    def extract_answer(self, steps: tuple[str, ...]) -> str | None:
        """The text of the first answer line, ``None`` without one."""


class Stream:
    """A cheap stream of random numbers: a pure function of (key, purpose), the same on every machine and version.

    `numpy.random.Generator` takes longer to construct than a whole problem takes to sample; here a 512-bit BLAKE2b
    digest serves as one large mixed-radix number, from which draws are divided off.
    """

    __slots__ = ("_name", "_block", "_pool")

    def __init__(self, key: Key, purpose: str):
        numbers = tuple(map(index, key)) if isinstance(key, tuple) else (index(key),)
        self._name = f"{purpose}{numbers}"
        self._block = 0
        self._pool = 0

    def below(self, n: int) -> int:
        """A uniform integer in [0, n), for n < 2**64 (bias below 2**-32)."""
        if self._pool < _REFILL_BELOW:
            block = hashlib.blake2b(f"{self._block}/{self._name}".encode()).digest()
            self._pool = int.from_bytes(block, "little") | 1 << _POOL_BITS
            self._block += 1
        self._pool, drawn = divmod(self._pool, n)
        return drawn

    def uniform(self) -> float:
        """A uniform number in [0, 1) with 32 random bits."""
        return self.below(1 << 32) / (1 << 32)

    def choice(self, options):
        """A uniform element of a non-empty sequence."""
        return options[self.below(len(options))]


def place(canonical: str) -> float:
    """A stable hash of a problem's canonical text into [0, 1); `Part` is an interval of it."""
    return int.from_bytes(hashlib.blake2b(canonical.encode(), digest_size=6).digest(), "little") / (1 << 48)


def digest(canonical: str) -> str:
    """A short stable name for a problem, 16 hexadecimal digits."""
    return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


def verdicts(valid: list[bool], right: list[bool], answer: str | None, correct: bool) -> StepVerdicts:
    """Fills in ``first_error``."""
    first_error = next((place for place, ok in enumerate(right) if not ok), -1)
    return StepVerdicts(tuple(valid), tuple(right), first_error, answer, correct)
