"""Candidate pools with published step scores: reading them, and choosing one answer per problem by every rule."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxprm.errors import InputError
from jaxprm.metrics.subsampling import random_subsets
from jaxprm.scoring.aggregation import AGGREGATIONS, aggregate
from jaxprm.scoring.votes import NO_ANSWER, VOTES, answer_ids, select_ids

POOLS = ("strict_bon_gsm8k", "strict_bon_math500_dev")
RULES = tuple(rule for rule in VOTES if rule != "majority")


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Q problems with M candidates each.

    Attributes:
      name: of the file.
      problems: `[Q]` their ids.
      answers: `[Q][M]` final answers as text, None without one.
      ids: int[Q, M], equal where the texts are equal, -1 without an answer.
      correct: bool[Q, M].
      steps: model -> (float32[Q, M, S] step scores, bool[Q, M, S] which exist).
    """

    name: str
    problems: list[str]
    answers: list[list[str | None]]
    ids: np.ndarray
    correct: np.ndarray
    steps: dict[str, tuple[np.ndarray, np.ndarray]]

    def scores(self, model: str, how: str) -> np.ndarray:
        """float64[Q, M]: one score per candidate."""
        return aggregate(*self.steps[model], how).astype(np.float64)


def read_pool(folder: Path, name: str) -> Pool:
    """Reads `name`.jsonl.gz and `name`.prm_scores.jsonl.gz.

    Raises:
      InputError: a file is missing, ids or step counts of the two differ, problems with different numbers of candidates.
    """
    rows, lists = (list(_lines(folder / f"{name}{end}.jsonl.gz")) for end in ("", ".prm_scores"))
    if [row["id"] for row in rows] != [row["id"] for row in lists]:
        raise InputError("must list the ids of the pool in its order", file=folder / f"{name}.prm_scores.jsonl.gz", field="id")
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row["meta"]["problem_id"], []).append(place)
    sizes = {len(group) for group in places.values()}
    if len(sizes) != 1:
        raise InputError("every problem must have the same number of candidates", file=folder / f"{name}.jsonl.gz",
                         value=sorted(sizes))
    order = np.array(list(places.values()))
    answers = [[_answer(rows[place]["meta"]) for place in group] for group in order]
    ids = np.array([answer_ids(row) for row in answers])
    correct = np.array([bool(row["final_correct"]) for row in rows])[order] & (ids != NO_ANSWER)
    longest = max(len(row["steps"]) for row in rows)
    steps = {}
    for model in lists[0]["prm_step_scores"]:
        values, mask = np.zeros((len(rows), longest), np.float32), np.zeros((len(rows), longest), bool)
        for place, row in enumerate(lists):
            scores = row["prm_step_scores"][model]
            if len(scores) != len(rows[place]["steps"]):
                raise InputError(f"{len(scores)} scores for {len(rows[place]['steps'])} steps", row=place + 1, field=model,
                                 file=folder / f"{name}.prm_scores.jsonl.gz")
            values[place, : len(scores)], mask[place, : len(scores)] = scores, True
        steps[model] = values[order], mask[order]
    return Pool(name, list(places), answers, ids, correct, steps)


def solved(pool: Pool, scores: np.ndarray, rule: str, ids: np.ndarray | None = None) -> np.ndarray:
    """float[Q]: 1 where the rule, given all candidates, chooses a right one."""
    chosen = select_ids(pool.ids if ids is None else ids, scores, rule)
    return np.where(chosen == NO_ANSWER, 0.0, pool.correct[np.arange(len(chosen)), np.maximum(chosen, 0)])


def solved_at(pool: Pool, scores: np.ndarray, rule: str, size: int, *, trials: int, seed: int) -> np.ndarray:
    """float[Q]: share of random subsets of this size from which the rule chooses a right candidate."""
    count, width = pool.ids.shape
    if size == width:
        return solved(pool, scores, rule)
    rng = np.random.default_rng((seed, size))
    total = np.zeros(count)
    for _ in range(trials):
        members = random_subsets(rng, count, width, size)
        take = lambda array, members=members: np.take_along_axis(array, members, axis=1)
        chosen = select_ids(take(pool.ids), take(scores), rule)
        right = np.take_along_axis(take(pool.correct), np.maximum(chosen, 0)[:, None], axis=1)[:, 0]
        total += right & (chosen != NO_ANSWER)
    return total / trials


def table(pool: Pool) -> dict:
    """The numbers that others published for these files: first candidate on ties, majority over raw texts."""
    first = lambda scores: float(pool.correct[np.arange(len(scores)), np.argmax(scores, axis=1)].mean())
    return {"problems": len(pool.problems), "pass@1": float(pool.correct.mean()),
            "majority": float(solved(pool, np.zeros(pool.ids.shape), "majority").mean()),
            "oracle": float(pool.correct.any(axis=1).mean()),
            "mixed": int((pool.correct.any(axis=1) & ~pool.correct.all(axis=1)).sum()),
            "best": {model: {how: first(pool.scores(model, how)) for how in AGGREGATIONS} for model in pool.steps}}


def _answer(meta: dict) -> str | None:
    boxed = meta.get("boxed_answer")
    return meta.get("extracted_answer") if boxed is None else boxed


def _lines(path: Path) -> Iterator[dict]:
    if not path.is_file():
        raise InputError("does not exist", file=path, hint="name the folder that holds it with --data or JAXPRM_DATA")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)
