"""The optimiser of every training stage: a rule, a schedule, clipping, and groups of parameters with rates of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import optax
import optax.contrib

from jaxprm.errors import InputError
from jaxprm.training.muon import matrix_axes, partitioned
from jaxprm.training.schedules import DECAYS, Decay, learning_rate

Rule = Literal["adamw", "adafactor", "lion", "muon"]
_MUON_RMS = 0.2  # updates as large as AdamW's (Liu et al. 2025, arXiv:2502.16982), so that one rate suits both


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How parameters move.

    rule:
      ``adamw``      Loshchilov & Hutter (2019).
      ``adafactor``  Shazeer & Stern (2018): second moments of large matrices as rows and columns, no first moment. Rates are
                     those of Adam: updates are clipped to root mean square 1 and not multiplied by the parameter's scale.
      ``lion``       Chen et al. (2023); its rate is 3 to 10 times smaller than Adam's.
      ``muon``       Jordan et al. (2024) on the matrices of the blocks, each layer's for itself, scaled to the size of Adam's
                     updates (Liu et al. 2025); AdamW on embeddings, heads, norms and biases.

    Attributes:
      learning_rate: peak of the schedule.
      warmup: share of all steps over which the rate rises linearly from 0.
      final_rate: rate at the last step as a share of the peak; with cosine decay, 1 keeps it constant.
      weight_decay: decoupled, times the learning rate; only for matrices, not for norms and biases.
      beta1: decay of the first moment, or of the momentum; adafactor has none.
      beta2: decay of the second moment (lion: of its momentum); adafactor's grows with the step.
      clip: largest global norm of the gradient; 0 does not clip.
      rule: see above.
      decay: shape of the schedule after the warm-up, see `jaxprm.training.schedules.learning_rate`.
      decay_share: share of the steps that the decay "wsd" ends with.
      head_learning_rate: peak for the head; None = as all.
      freeze_backbone_steps: so many first steps train the head alone, the rest trains everything (PURE, Cheng et al. 2025,
        arXiv:2504.15275, trains its reward model in these two stages). Each stage runs the schedule from its start to its end.
      unfrozen_learning_rate: peak for all parameters in the second stage; None = as given for each group.
    """

    learning_rate: float = 1e-3
    warmup: float = 0.05
    final_rate: float = 0.1
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.98
    clip: float = 1.0
    rule: Rule = "adamw"
    decay: Decay = "cosine"
    decay_share: float = 0.2
    head_learning_rate: float | None = None
    freeze_backbone_steps: int = 0
    unfrozen_learning_rate: float | None = None

    def __post_init__(self):
        for field in ("learning_rate", "head_learning_rate", "unfrozen_learning_rate"):
            value = getattr(self, field)
            if value is not None and value <= 0:
                raise InputError("must be positive", field=field, value=value)
        for field in ("warmup", "final_rate", "beta1", "beta2", "decay_share"):
            if not 0 <= getattr(self, field) <= 1:
                raise InputError("must be in [0, 1]", field=field, value=getattr(self, field))
        for field in ("weight_decay", "clip", "freeze_backbone_steps"):
            if getattr(self, field) < 0:
                raise InputError("must not be negative", field=field, value=getattr(self, field))
        for field, known in (("rule", get_args(Rule)), ("decay", DECAYS)):
            if getattr(self, field) not in known:
                raise InputError(f"must be one of {', '.join(known)}", field=field, value=getattr(self, field))
        if self.unfrozen_learning_rate is not None and not self.freeze_backbone_steps:
            raise InputError("is the rate after a stage with a frozen backbone, but there is none",
                             field="unfrozen_learning_rate", value=self.unfrozen_learning_rate,
                             hint="set freeze_backbone_steps")

    def schedule(self, steps: int, *, head: bool = False) -> optax.Schedule:
        """Learning rate by step of a run of ``steps`` steps: of the backbone, or of the head."""
        rate = self.learning_rate if not head or self.head_learning_rate is None else self.head_learning_rate
        frozen = min(self.freeze_backbone_steps, steps)
        if not frozen:
            return self._shape(steps, rate)
        first = self._shape(frozen, rate) if head else optax.constant_schedule(0.0)
        return optax.join_schedules([first, self._second_stage(steps, rate)], [frozen])

    def build(self, steps: int) -> optax.GradientTransformation:
        """The optax transformation, for parameters as a flat dictionary of dotted names.

        Raises (at init):
          InputError: a rate or stage of its own for a head that the model does not have.
        """
        if self.head_learning_rate is None and not self.freeze_backbone_steps:
            inner = self._rule(self.schedule(steps))
        else:
            # While it is frozen, the backbone's moments and step count do not move: its schedule begins when it thaws.
            frozen = self.freeze_backbone_steps
            backbone = self._rule(self._second_stage(steps, self.learning_rate) if frozen else self.schedule(steps))
            if frozen:
                backbone = optax.conditionally_mask(backbone, lambda step: step >= frozen)
            inner = optax.partition({"backbone": backbone, "head": self._rule(self.schedule(steps, head=True))}, _groups)
        return optax.chain(optax.clip_by_global_norm(self.clip), inner) if self.clip else inner

    def _shape(self, steps: int, rate: float) -> optax.Schedule:
        return learning_rate(self.decay, steps, rate, self.warmup, self.final_rate, self.decay_share)

    def _second_stage(self, steps: int, rate: float) -> optax.Schedule:
        return self._shape(max(steps - self.freeze_backbone_steps, 1), self.unfrozen_learning_rate or rate)

    def _rule(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        if self.rule == "adamw":
            return optax.adamw(schedule, self.beta1, self.beta2, weight_decay=self.weight_decay, mask=_decayed)
        if self.rule == "lion":
            return optax.lion(schedule, self.beta1, self.beta2, weight_decay=self.weight_decay, mask=_decayed)
        if self.rule == "adafactor":  # optax's own alias decays weights by their full rate, not times the learning rate
            return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0),
                               optax.add_decayed_weights(self.weight_decay, _decayed), optax.scale_by_learning_rate(schedule))
        # The alias gives what is left to AdamW, too, but decays its norms and biases.
        matrices = optax.contrib.muon(schedule, beta=self.beta1, weight_decay=self.weight_decay, consistent_rms=_MUON_RMS,
                                      muon_weight_dimension_numbers=matrix_axes)
        rest = optax.adamw(schedule, self.beta1, self.beta2, weight_decay=self.weight_decay, mask=_decayed)
        return partitioned(optax.partition({"matrices": matrices, "rest": rest}, lambda parameters: {
            name: "rest" if axes is None else "matrices" for name, axes in matrix_axes(parameters).items()}))


def is_head(name: str) -> bool:
    """Whether a parameter belongs to the step head."""
    return name.startswith("head.")


def _groups(parameters: Mapping[str, Any]) -> dict[str, str]:
    if not any(map(is_head, parameters)):
        raise InputError("this model has no head", field="head_learning_rate or freeze_backbone_steps",
                         hint="leave both unset")
    return {name: "head" if is_head(name) else "backbone" for name in parameters}


def _decayed(parameters: Mapping[str, Any]) -> dict[str, bool]:
    # Stacked layers add an axis, so "is a matrix" goes by name, not by rank.
    return {name: not name.endswith(("scale", "bias")) for name in parameters}
