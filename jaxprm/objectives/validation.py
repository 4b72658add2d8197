"""What the objectives check before they compute: shapes of outputs, and hyperparameters that are plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxprm.errors import InputError


def check_outputs(outputs: Any, allowed: int | tuple[int, ...] | None, name: str) -> None:
    """Raises ValueError unless outputs are [B, S, K] with a K that the objective reads (``None`` = any)."""
    counts = (allowed,) if isinstance(allowed, int) else allowed
    if outputs.ndim != 3 or (counts is not None and outputs.shape[-1] not in counts):
        wanted = "K" if counts is None else " or ".join(str(count) for count in counts)
        raise ValueError(f"{name} takes outputs [B, S, {wanted}], not {list(outputs.shape)}")


def is_static(value: Any) -> bool:
    """Whether a hyperparameter is a plain value, known before the objective is compiled."""
    return not isinstance(value, (jax.Array, np.ndarray))


def check_number(field: str, value: Any, low: float = -math.inf, high: float = math.inf, *, closed: str = "both") -> None:
    """Raises InputError unless a static number is finite and between `low` and `high`.

    Arrays and traced values pass unread: they are known on the device only.

    Args:
      closed: which ends belong to the interval: "both", "low", "high" or "neither".
    """
    if not is_static(value):
        return
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError("must be a finite number", field=field, value=value)
    fits_low = value >= low if closed in ("both", "low") else value > low
    fits_high = value <= high if closed in ("both", "high") else value < high
    if fits_low and fits_high:
        return
    if high == math.inf:
        bound = "at least" if closed in ("both", "low") else "greater than"
        raise InputError(f"must be {bound} {low:g}", field=field, value=value)
    left, right = ("[" if closed in ("both", "low") else "("), ("]" if closed in ("both", "high") else ")")
    raise InputError(f"must be in {left}{low:g}, {high:g}{right}", field=field, value=value)


def check_whole(field: str, value: Any, low: int) -> None:
    """Raises InputError unless the value is a whole number of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise InputError(f"must be a whole number of at least {low}", field=field, value=value)


def check_choice(field: str, value: Any, choices: Sequence[str]) -> None:
    """Raises InputError unless the value is one of the choices."""
    if value not in choices:
        raise InputError(f"must be one of {', '.join(choices)}", field=field, value=value)


def check_class_weights(value: Any, classes: int) -> tuple[float, ...]:
    """The weights of the classes as a tuple; ones for ``None``. Raises InputError unless there is one for each class."""
    if value is None:
        return (1.0,) * classes
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != classes:
        raise InputError(f"must hold one weight for each of the {classes} classes, wrong first", field="class_weights",
                         value=value)
    for weight in value:
        check_number("class_weights", weight, 0)
    if not any(value):
        raise InputError("must not all be 0", field="class_weights", value=value)
    return tuple(float(weight) for weight in value)
