"""The optimiser of every training stage: AdamW with warm-up, cosine decay and clipping."""

from __future__ import annotations

import dataclasses

import optax

from jaxprm.errors import InputError


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019).

    Attributes:
      learning_rate: peak of the schedule.
      warmup: share of all steps over which the rate rises linearly from 0.
      final_rate: rate at the last step as a share of the peak (cosine decay); 1 keeps it constant.
      weight_decay: decoupled; only for matrices, not for norms and biases.
      clip: largest global norm of the gradient; 0 does not clip.
    """

    learning_rate: float = 1e-3
    warmup: float = 0.05
    final_rate: float = 0.1
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.98
    clip: float = 1.0

    def __post_init__(self):
        if self.learning_rate <= 0:
            raise InputError("must be positive", field="learning_rate", value=self.learning_rate)
        for field in ("warmup", "final_rate", "beta1", "beta2"):
            if not 0 <= getattr(self, field) <= 1:
                raise InputError("must be in [0, 1]", field=field, value=getattr(self, field))
        for field in ("weight_decay", "clip"):
            if getattr(self, field) < 0:
                raise InputError("must not be negative", field=field, value=getattr(self, field))

    def schedule(self, steps: int) -> optax.Schedule:
        """Learning rate by step of a run of ``steps`` steps."""
        warmup = int(self.warmup * steps)
        return optax.warmup_cosine_decay_schedule(0.0 if warmup else self.learning_rate, self.learning_rate, warmup,
                                                  max(steps, warmup + 1), self.final_rate * self.learning_rate)

    def build(self, steps: int) -> optax.GradientTransformation:
        """The optax transformation, for parameters as a flat dictionary of dotted names."""

        def decayed(parameters):  # stacked layers add an axis, so "is a matrix" goes by name, not by rank
            return {name: not name.endswith(("scale", "bias")) for name in parameters}

        adamw = optax.adamw(self.schedule(steps), self.beta1, self.beta2, weight_decay=self.weight_decay, mask=decayed)
        return optax.chain(optax.clip_by_global_norm(self.clip), adamw) if self.clip else adamw


