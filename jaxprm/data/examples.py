"""Host examples: one encoded solution as a dict of numpy arrays, and how those that are too long are made to fit.

A step example (t tokens, s steps):

    tokens      int32[t]
    step_ends   int32[s]     index of the token whose hidden state carries the score of step s, strictly increasing
    labels      float32[s]   in [0, 1]; 0 where not judged
    label_mask  bool[s]      which steps are judged
    weights     float32[s]

A language-model example: ``tokens int32[t]`` and ``loss_mask bool[t]`` (which tokens are learnt, as targets).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np

from jaxprm.errors import InputError
from jaxprm.records import LabeledSolution, StepLabels

Example = dict[str, np.ndarray]
OverlongPolicy = Literal["error", "drop", "truncate"]


def step_example(tokens: Sequence[int] | np.ndarray, step_ends: Sequence[int] | np.ndarray,
                 labels: StepLabels | Sequence[float | None] | None = None, weight: float = 1.0) -> Example:
    """Puts one encoded solution and its labels together.

    Args:
      tokens: token ids of prompt and steps.
      step_ends: index of each step's read-out token.
      labels: one number in [0, 1] or None (not judged) per step; None = no step is judged.
      weight: weight of every step of this solution.

    Raises:
      InputError: no steps, labels of another length, step ends that do not increase or lie outside the tokens, a
        label or weight out of range.
    """
    tokens, step_ends = np.asarray(tokens, np.int32), np.asarray(step_ends, np.int32)
    values = labels.values if isinstance(labels, StepLabels) else labels
    values = (None,) * len(step_ends) if values is None else tuple(values)
    if not len(step_ends):
        raise InputError("has no steps", field="step_ends")
    if len(values) != len(step_ends):
        raise InputError(f"has {len(values)} labels for {len(step_ends)} steps", field="labels")
    if step_ends[0] < 0 or step_ends[-1] >= len(tokens) or np.any(np.diff(step_ends) <= 0):
        raise InputError(f"must increase and lie inside the {len(tokens)} tokens", field="step_ends",
                         value=step_ends.tolist())
    mask = np.array([value is not None for value in values])
    numbers = np.array([0.0 if value is None else value for value in values], np.float32)
    if not np.all((numbers >= 0) & (numbers <= 1)):
        raise InputError("must be in [0, 1] or None", field="labels", value=values)
    if not 0 <= weight < np.inf:
        raise InputError("must be finite and not negative", field="weight", value=weight)
    return {"tokens": tokens, "step_ends": step_ends, "labels": numbers, "label_mask": mask,
            "weights": np.full(len(step_ends), weight, np.float32)}


def language_model_example(prompt: Sequence[int], completion: Sequence[int]) -> Example:
    """Tokens of prompt and completion; only the completion is learnt."""
    if not len(completion):
        raise InputError("is empty", field="completion")
    mask = np.arange(len(prompt) + len(completion)) >= len(prompt)
    return {"tokens": np.array([*prompt, *completion], np.int32), "loss_mask": mask}


def encode_solutions(items: Iterable[LabeledSolution],
                     encode: Callable[[str, Sequence[str]], tuple[Sequence[int], Sequence[int]]]) -> list[Example]:
    """Encodes labelled solutions with ``encode(problem, steps) -> (ids, step_ends)``, e.g. `StepEncoder.encode`.

    Raises:
      InputError: a solution that cannot be encoded; the message names its id.
    """
    examples = []
    for item in items:
        try:
            tokens, step_ends = encode(item.solution.problem.prompt, item.solution.steps)
            examples.append(step_example(tokens, step_ends, item.labels))
        except InputError as error:
            raise InputError(f"solution '{item.id}': {error}") from None
    return examples


@dataclasses.dataclass(frozen=True)
class FitCounts:
    """How many examples fitted as they were, were cut at a step boundary, or were left out."""

    whole: int = 0
    truncated: int = 0
    dropped: int = 0


def fit_language_model_examples(examples: Iterable[Example], row_tokens: int,
                                overlong: OverlongPolicy = "error") -> tuple[list[Example], FitCounts]:
    """As `jaxprm.data.fitting.FittedExamples`; "truncate" keeps the first ``row_tokens`` tokens if one of them is learnt."""
    kept: list[Example] = []
    truncated = dropped = 0
    for index, example in enumerate(examples):
        if len(example["tokens"]) <= row_tokens:
            kept.append(example)
            continue
        _refuse(index, example["tokens"], row_tokens, overlong)
        if overlong == "truncate" and example["loss_mask"][:row_tokens].any():
            truncated += 1
            kept.append({name: array[:row_tokens] for name, array in example.items()})
        else:
            dropped += 1
    return kept, FitCounts(len(kept) - truncated, truncated, dropped)


def _refuse(index: int, tokens: np.ndarray, row_tokens: int, overlong: OverlongPolicy) -> None:
    if overlong not in ("error", "drop", "truncate"):
        raise InputError("must be one of error, drop, truncate", field="overlong", value=overlong)
    if overlong == "error":
        raise InputError(f"example {index} has {len(tokens)} tokens (a row has {row_tokens})",
                         hint="use longer rows, or overlong = 'truncate' or 'drop'")
