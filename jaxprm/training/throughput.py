"""How fast a run is: tokens per second, share of the device's arithmetic (MFU), seconds of compilation."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from jaxprm.models.config import TransformerConfig

# Dense bfloat16 FLOP/s of one device from the makers' data sheets, by what `jax.Device.device_kind` holds, first match first.
_PEAKS = (("h200", 989e12), ("h100 pcie", 756e12), ("h100", 989e12), ("b200", 2250e12), ("a100", 312e12), ("l40s", 362e12),
          ("tpu v6 lite", 918e12), ("tpu v6e", 918e12), ("tpu v5 lite", 197e12), ("tpu v5e", 197e12), ("tpu v5", 459e12),
          ("tpu v4", 275e12))
_COMPILE = ("/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration",
            "/jax/core/compile/backend_compile_duration")


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device of this kind (`jax.Device.device_kind`), or None where it is not known (every CPU)."""
    return next((peak for name, peak in _PEAKS if name in device_kind.lower()), None)


def training_flops(config: TransformerConfig, segment_ids: np.ndarray, *, vocabulary: bool = False,
                   frozen_weights: bool = False) -> float:
    """FLOPs of forward and backward pass that a batch asks for, without padding and recomputation.

    A weight costs 2 per token in the forward pass, 2 for the gradient of its input and 2 for its own; attention costs
    ``4 N H`` per query and key that it reads, three times. Heads, norms and softmax are left out. All tokens count in all
    layers, also where a step loss reads the last block of a shallow model at step ends alone.

    Args:
      config: of the model.
      segment_ids: int[B, T], 0 = padding.
      vocabulary: count the products with a language model's output matrix.
      frozen_weights: the weights have no gradient of their own (LoRA); adapters are left out.
    """
    rows, width = segment_ids.shape
    places = np.arange(rows)[:, None] * (int(segment_ids.max(initial=0)) + 1) + segment_ids
    lengths = np.bincount(places[segment_ids > 0], minlength=1).astype(np.float64)
    tokens = lengths.sum()
    reads = 0.0
    for window in config.windows or (0,) * config.layers:
        reach = np.minimum(lengths, window) if window else lengths
        reads += float((reach * (reach + 1) / 2 + (lengths - reach) * reach).sum())  # 1 + 2 + .. + reach, then reach each
    weights = config.matmul_parameters * tokens * (4 if frozen_weights else 6)
    output = 6 * config.width * config.vocab_size * tokens if vocabulary else 0
    return weights + output + 12 * config.heads * config.head_dim * reads


class CompileClock:
    """Seconds that this process has spent on tracing and compiling so far."""

    def __init__(self):
        self.seconds = 0.0

    def __enter__(self) -> CompileClock:
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, seconds: float, **_) -> None:
        if event in _COMPILE:
            self.seconds += seconds


class Throughput:
    """What was done since the last line of the log, and in how many seconds; compilation and pauses do not count.

    Args:
      compiled: the clock of the run.
      peak: FLOP/s of all devices together, or None.
      flops: of a batch, or None where the model's are not known.
      processes: each is taken to do as much as this one.
    """

    def __init__(self, compiled: CompileClock, peak: float | None, flops: Callable[[Mapping[str, np.ndarray]], float] | None,
                 processes: int = 1, clock: Callable[[], float] = time.monotonic):
        self._compiled, self._peak, self._clock, self._processes = compiled, peak, clock, processes
        self._flops = flops if peak is not None else None
        self._reported = 0.0
        self._restart()

    def _restart(self) -> None:
        self._tokens, self._work, self._paused = 0, 0.0, 0.0
        self._start, self._compile_start = self._clock(), self._compiled.seconds

    def add(self, batch: Mapping[str, np.ndarray]) -> int:
        """Counts a batch; its tokens without padding."""
        tokens = int(np.count_nonzero(batch["segment_ids"]))
        self._tokens += tokens
        if self._flops is not None:
            self._work += self._flops(batch)
        return tokens

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time inside is not training's: evaluation, writing."""
        start, compiled = self._clock(), self._compiled.seconds
        yield
        self._compile_start += self._compiled.seconds - compiled
        self._paused += self._clock() - start

    def report(self) -> dict[str, float]:
        """``tokens_per_second``, ``mfu`` where it is known, ``compile_seconds`` since the last report; starts anew."""
        seconds = self._clock() - self._start - self._paused - (self._compiled.seconds - self._compile_start)
        seconds = max(seconds, 1e-9)
        values = {"tokens_per_second": self._tokens * self._processes / seconds}
        if self._flops is not None:
            values["mfu"] = self._work * self._processes / (seconds * self._peak)
        values["compile_seconds"] = self._compiled.seconds - self._reported
        self._reported = self._compiled.seconds
        self._restart()
        return values
