"""Three reward models: one that knows the truth, the trained one, and one that knows nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from jaxprm.models import HeadConfig, RewardModel, TransformerConfig, parameters, with_parameters
from jaxprm.records import Problem

SCORERS = ("oracle", "trained", "random")
_SPREAD = 40.0


def random_model(config: TransformerConfig, seed: int) -> RewardModel:
    """The trained model's architecture with fresh weights: a score that follows from the text and says nothing of its truth.

    A fresh head scores everything near 0.5; it is scaled so that scores spread over (0, 1), as thresholds and softmaxes expect.
    """
    model = RewardModel(config, HeadConfig("scalar"), rngs=nnx.Rngs(1000 + seed))
    values = parameters(model)
    return with_parameters(model, values | {"head.kernel": _SPREAD * values["head.kernel"]})


class OracleReader:
    """Scores steps by the task's verifier: 1 if the path is right up to here (it can still become a solution), else 0.

    Stands where `jaxprm.search.text_reader.TextReader` does; it reads text, so it goes with searches through text only.

    Args:
      task: its ``judge`` knows.
      problems, width: the batch, and the paths of each.
    """

    def __init__(self, task, problems: Sequence[Problem], width: int):
        self.task, self.problems, self.width = task, list(problems), width
        self.tokens, self.forwards = np.zeros(len(problems), np.int64), np.zeros(len(problems), np.int64)
        self.flops, self.warnings = np.zeros(len(problems)), [Counter() for _ in problems]
        self._paths: list[list[tuple[str, ...]]] = [[()] * width for _ in problems]
        self._known: dict[tuple[int, tuple[str, ...]], float] = {}

    def read(self, texts: Sequence[Sequence[str | None]]) -> Float[np.ndarray, "B C"]:
        scores = np.full((len(self.problems), self.width), np.nan, np.float32)
        for row, rows in enumerate(texts):
            for place, text in enumerate(rows):
                if text is not None:
                    path = self._paths[row][place] = (*self._paths[row][place], text)
                    scores[row, place] = self._score(row, path)
        return scores

    def gather(self, parents: Int[np.ndarray, "B C"]) -> None:
        self._paths = [[rows[parent] for parent in chosen] for rows, chosen in zip(self._paths, parents.tolist())]

    def _score(self, row: int, path: tuple[str, ...]) -> float:
        if (row, path) not in self._known:
            self._known[row, path] = float(self.task.judge(self.problems[row], path).right[-1])
        return self._known[row, path]
