"""FLOPs by hand, a clock by hand, compilations counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprm.testing import tiny_config
from jaxprm.training.throughput import CompileClock, Throughput, peak_flops, training_flops

SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0]])  # lengths 3, 2 and 2


def test_training_flops_by_hand():
    config = tiny_config(layers=2, width=8, heads=2, kv_heads=1, head_dim=4, mlp_dim=16, vocab_size=20)
    per_layer = 8 * 4 * (2 * 2 + 2 * 1) + 3 * 8 * 16
    reads = (1 + 2 + 3) + (1 + 2) + (1 + 2)  # keys read by the queries, per layer
    attention = 2 * 12 * (2 * 4) * reads
    assert training_flops(config, SEGMENTS) == 6 * 2 * per_layer * 7 + attention
    assert training_flops(config, SEGMENTS, frozen_weights=True) == 4 * 2 * per_layer * 7 + attention
    assert training_flops(config, SEGMENTS, vocabulary=True) == 6 * (2 * per_layer + 8 * 20) * 7 + attention
    windowed = tiny_config(layers=2, width=8, heads=2, kv_heads=1, head_dim=4, mlp_dim=16, vocab_size=20, windows=(2, 0))
    less = 12 * (2 * 4) * (reads + (1 + 2 + 2) + (1 + 2) + (1 + 2))
    assert training_flops(windowed, SEGMENTS) == 6 * 2 * per_layer * 7 + less
    assert training_flops(config, np.zeros((2, 3), int)) == 0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_speeds_leave_out_compilation_and_pauses():
    clock, compiled = Clock(), CompileClock()
    speed = Throughput(compiled, 1000.0, lambda batch: 700.0, processes=2, clock=clock)
    assert speed.add({"segment_ids": SEGMENTS}) == 7
    clock.now, compiled.seconds = 5.0, 3.0
    with speed.pause():  # 4 seconds, 1 of them compilation
        clock.now, compiled.seconds = 9.0, 4.0
    report = speed.report()
    assert report == {"tokens_per_second": 7.0, "mfu": 0.7, "compile_seconds": 4.0}  # 14 tokens in 2 seconds
    speed.add({"segment_ids": SEGMENTS})
    clock.now = 10.0
    assert speed.report() == {"tokens_per_second": 14.0, "mfu": 1.4, "compile_seconds": 0.0}
    unknown = Throughput(compiled, None, lambda batch: 700.0, clock=clock)
    assert "mfu" not in unknown.report()


def test_compilations_are_heard_only_inside():
    with CompileClock() as clock:
        jax.jit(lambda x: x * 3.5 + 1)(jnp.ones(3))
        inside = clock.seconds
        assert inside > 0
    jax.jit(lambda x: x * 4.5 + 1)(jnp.ones(3))
    assert clock.seconds == inside


@pytest.mark.parametrize("kind, peak", [("NVIDIA H200", 989e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("TPU v5 lite", 197e12),
                                        ("TPU v5", 459e12), ("TPU v6 lite", 918e12), ("cpu", None)])
def test_known_devices(kind, peak):
    assert peak_flops(kind) == peak
