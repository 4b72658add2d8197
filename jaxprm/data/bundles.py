"""Solutions that must share a batch: siblings to be compared, or two readings of one solution, bundled into one example.

A bundle is a step example whose tokens hold several solutions behind each other; the dataset keeps it in one row and gives each
solution a segment of its own:

    examples  a: tokens [5 6 7], step_ends [2]       b: tokens [5 8], step_ends [1]
    bundle    tokens [5* 6 7 5* 8], step_ends [2 4]  (* marks where a solution begins)
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from jaxprm.data.columns import POSITIONS, SOLUTION_START
from jaxprm.data.examples import Example
from jaxprm.errors import InputError

def join_solutions(examples: Sequence[Example]) -> Example:
    """One example that holds all of ``examples``, in order, with the columns that they have.

    Raises:
      InputError: there are none, or they differ in their columns.
    """
    if not examples:
        raise InputError("has no solutions", field="examples")
    if any(example.keys() != examples[0].keys() for example in examples):
        raise InputError("differ in their columns", field="examples", value=[sorted(example) for example in examples])
    tokens, steps = [], {name: [] for name in examples[0] if name != "tokens"}
    length = count = 0
    for example in examples:
        marked = example["tokens"].copy()
        marked[0] |= SOLUTION_START
        tokens.append(marked)
        for name, column in steps.items():
            shift = length if name in POSITIONS else count if name == "partners" else 0
            column.append(example[name] + np.asarray(shift, example[name].dtype) if shift else example[name])
        length, count = length + len(marked), count + len(example["step_ends"])
    return {"tokens": np.concatenate(tokens)} | {name: np.concatenate(column) for name, column in steps.items()}


def bundle_siblings(examples: Sequence[Example], problems: Sequence[Hashable], row_tokens: int,
                    row_steps: int) -> list[Example]:
    """Bundles of the solutions that share a problem, each small enough for a row, so that siblings are in one batch.

    A problem with more solutions than fit one row gets several bundles of as many as fit, in the order given: solutions are
    compared within a bundle, and with other bundles of the problem when they happen to be in the same batch.

    Args:
      examples: single solutions; each fits a row.
      problems: what they are solutions of.
      row_tokens, row_steps: size of a row.
    """
    if len(examples) != len(problems):
        raise InputError(f"has {len(problems)} entries for {len(examples)} examples", field="problems")
    members: dict[Hashable, list[list[Example]]] = {}
    room: dict[Hashable, tuple[int, int]] = {}
    for example, problem in zip(examples, problems):
        tokens, steps = len(example["tokens"]), len(example["step_ends"])
        left = room.get(problem, (0, 0))
        if tokens > left[0] or steps > left[1]:
            members.setdefault(problem, []).append([])
            left = row_tokens, row_steps
        members[problem][-1].append(example)
        room[problem] = left[0] - tokens, left[1] - steps
    return [join_solutions(bundle) for bundles in members.values() for bundle in bundles]


def two_readings(example: Example, backward_tokens: Sequence[int], backward_ends: Sequence[int]) -> Example:
    """A solution and, behind it, the reading of its steps in reverse; only the forward steps are judged.

    Args:
      example: the solution, forward.
      backward_tokens, backward_ends: the same problem with the steps from last to first.
    """
    steps = len(example["step_ends"])
    if len(backward_ends) != steps:
        raise InputError(f"has {len(backward_ends)} steps, the forward reading {steps}", field="backward_ends")
    columns = {name: np.zeros_like(column) for name, column in example.items() if name not in ("tokens", *POSITIONS)}
    backward = columns | {"tokens": np.asarray(backward_tokens, np.int32), "step_ends": np.asarray(backward_ends, np.int32)}
    if "step_starts" in example:
        raise InputError("cannot be read in two directions", field="step_starts")
    joined = join_solutions([example, backward])
    return joined | {"partners": np.arange(2 * steps, dtype=np.int32)[::-1].copy()}
