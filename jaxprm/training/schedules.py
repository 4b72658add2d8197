"""Learning rates by step: a linear rise, then one of four shapes."""

from __future__ import annotations

from typing import Literal, get_args

import optax

Decay = Literal["cosine", "linear", "constant", "wsd"]
DECAYS = get_args(Decay)


def learning_rate(decay: Decay, steps: int, peak: float, warmup: float, final: float, tail: float) -> optax.Schedule:
    """Learning rate by step of a run of ``steps`` steps.

    Args:
      decay: the shape after the warm-up:
        "cosine"    half a cosine from the peak down to the final rate (Loshchilov & Hutter 2017);
        "linear"    a line between them;
        "constant"  the peak to the end;
        "wsd"       warm-up, stable, decay: the peak, and a line to the final rate over the last ``tail`` of the steps (Hu et
                    al. 2024, MiniCPM, section 4; the shape of the last part is a choice, ours is the line).
      steps: of the run.
      peak: largest rate.
      warmup: share of the steps over which the rate rises linearly from 0.
      final: rate at the last step as a share of the peak.
      tail: share of the steps that "wsd" decays over.
    """
    rise = int(warmup * steps)
    end = max(steps, rise + 1)
    if decay == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0 if rise else peak, peak, rise, end, final * peak)
    flat = 0
    if decay == "wsd":
        flat = max(end - rise - max(int(tail * steps), 1), 0)
    after = optax.constant_schedule(peak) if decay == "constant" else optax.linear_schedule(
        peak, final * peak, end - rise - flat, transition_begin=flat)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, rise), after], [rise]) if rise else after
