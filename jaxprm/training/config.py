"""How long and with what a model is trained."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxprm.errors import InputError
from jaxprm.training.lora import LoraConfig
from jaxprm.training.optimizer import OptimizerConfig
from jaxprm.training.writers import WRITERS


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Options of `jaxprm.training.fit`.

    Attributes:
      steps: optimiser steps.
      optimizer: the optimiser and its schedule.
      log_every: steps between lines of ``metrics.jsonl``.
      checkpoint_every: steps between checkpoints (one is always written at the end).
      keep: how many of the newest checkpoints stay; the best one stays besides.
      accumulate: micro-batches that one step is computed in, one after the other: less memory, the same gradient. They must
        divide the rows of a batch (on a mesh: the rows of each device). Objectives that compare rows of a batch with each
        other do so within a micro-batch.
      ema: decay of a moving average of the parameters, which is then what is evaluated and returned; 0 = none. Step t counts
        with ``min(ema, (1 + t) / (10 + t))``, so that a short run is not an average of its beginning.
      lora: train adapters of low rank instead of the backbone's weights.
      evaluate_every: steps between evaluations (one is always made at the end); 0 = none.
      best_by: number of the evaluation by which the returned model is chosen among the evaluated ones; None returns the last.
      best_is: which of them is best: "highest" or "lowest".
      writers: where metrics go besides ``metrics.jsonl``: any of "tensorboard" and "wandb", each an extra of this package.
      peak_flops: matrix-product FLOP/s of one device, for the model FLOPs utilisation (MFU); None = what is known of the
        device, and no MFU where nothing is.
    """

    steps: int = 1000
    optimizer: OptimizerConfig = OptimizerConfig()
    log_every: int = 20
    checkpoint_every: int = 500
    keep: int = 2
    accumulate: int = 1
    ema: float = 0.0
    lora: LoraConfig | None = None
    evaluate_every: int = 0
    best_by: str | None = None
    best_is: Literal["highest", "lowest"] = "highest"
    writers: tuple[str, ...] = ()
    peak_flops: float | None = None

    def __post_init__(self):
        for field in ("steps", "log_every", "checkpoint_every", "keep", "accumulate"):
            if getattr(self, field) < 1:
                raise InputError("must be at least 1", field=field, value=getattr(self, field))
        if not 0 <= self.ema < 1:
            raise InputError("must be in [0, 1)", field="ema", value=self.ema)
        if self.evaluate_every < 0:
            raise InputError("must not be negative", field="evaluate_every", value=self.evaluate_every)
        if self.best_by is not None and not self.evaluate_every:
            raise InputError("chooses among evaluations, but there are none", field="best_by", value=self.best_by,
                             hint="set evaluate_every")
        if self.best_is not in ("highest", "lowest"):
            raise InputError("must be one of highest, lowest", field="best_is", value=self.best_is)
        if self.peak_flops is not None and self.peak_flops <= 0:
            raise InputError("must be positive", field="peak_flops", value=self.peak_flops)
        for name in self.writers:
            if name not in WRITERS:
                raise InputError(f"must be among {', '.join(WRITERS)}", field="writers", value=name)
