"""Three reward models: one that knows the truth, the trained one, and one that knows nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from jaxprm.models import HeadConfig, RewardModel, TransformerConfig, parameters, with_parameters
from jaxprm.records import Problem
from jaxprm.search.text_reader import TextReader

SCORERS = ("oracle", "trained", "random")


def random_model(config: TransformerConfig, seed: int) -> RewardModel:
    """The trained model's architecture with fresh weights: a score that follows from the text and says nothing of its truth.

    A fresh head is 0; here it is drawn so that logits have a deviation of about 2 and scores spread over (0, 1).
    """
    model = RewardModel(config, HeadConfig("scalar"), rngs=nnx.Rngs(1000 + seed))
    values = parameters(model)
    kernel = values["head.kernel"]
    drawn = 2.0 * config.width**-0.5 * jax.random.normal(jax.random.key(1000 + seed), kernel.shape, kernel.dtype)
    return with_parameters(model, values | {"head.kernel": drawn})


class OracleReader(TextReader):
    """Scores steps by the task's verifier: 1 if the path is right up to here (it can still become a solution), else 0.

    It holds no model and nothing on the device; as it reads text, it goes with searches through text only.

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
