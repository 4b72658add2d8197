"""Small configs that the tests of the config machinery resolve."""

import dataclasses
from typing import Literal

from jaxprm.errors import InputError


@dataclasses.dataclass(frozen=True)
class Optimizer:
    learning_rate: float = 0.1
    schedule: Literal["constant", "cosine"] = "cosine"
    clip: float | None = None

    def __post_init__(self):
        if self.learning_rate <= 0:
            raise InputError("must be positive", field="learning_rate", value=self.learning_rate)


@dataclasses.dataclass(frozen=True)
class Train:
    files: tuple[str, ...]
    steps: int = 10
    seed: int = 0
    optimizer: Optimizer = Optimizer()
    stages: tuple[Optimizer, ...] = ()
    mixture: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Other:
    width: int = 1


def function(width: int = 1):
    return width
