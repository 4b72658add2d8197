"""What a run says about itself, with a clock of our own."""

import io

import jax.numpy as jnp
import pytest

from jaxprm.progress import BarProgress, LogProgress, Progress, SilentProgress, duration, terminal_progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_log_lines():
    clock, out = Clock(), io.StringIO()
    with LogProgress(out, every=10.0, clock=clock).stage("train", total=40, unit="steps", completed=10) as stage:
        for _ in range(30):
            clock.now += 1.0
            stage.advance(tokens=2000, loss=jnp.float32(0.25))
    assert out.getvalue().splitlines() == [
        "train: 10 of 40 steps",
        "train: 20 of 40 steps, 20.0 s left, 2.0k tokens/s, loss 0.25",  # 10 steps in 10 s: the 10 before do not count
        "train: 30 of 40 steps, 10.0 s left, 2.0k tokens/s, loss 0.25",
        "train: 40 of 40 steps, 0.0 s left, 2.0k tokens/s, loss 0.25",
        "train: 40 steps in 30.0 s, 2.0k tokens/s, loss 0.25"]


def test_log_lines_without_total_or_tokens():
    clock, out = Clock(), io.StringIO()
    with LogProgress(out, every=1.0, clock=clock).stage("read", unit="rows") as stage:
        clock.now += 2.0
        stage.advance(1500, file="a.jsonl")
    assert out.getvalue().splitlines() == ["read ...", "read: 1,500 rows, file a.jsonl",
                                           "read: 1,500 rows in 2.0 s, file a.jsonl"]


def test_fields_are_read_only_when_shown():
    class Explosive:
        def __float__(self):
            raise AssertionError("read")

    clock, out = Clock(), io.StringIO()
    with pytest.raises(AssertionError, match="read"):
        with LogProgress(out, every=10.0, clock=clock).stage("train", total=3) as stage:
            stage.advance(loss=Explosive())
            clock.now += 10.0
            stage.advance(loss=Explosive())
    assert out.getvalue() == "train: 0 of 3 steps\n"


def test_bars_end_in_the_summary_line():
    clock, out = Clock(), io.StringIO()
    progress = BarProgress(out, clock=clock)
    with progress.stage("search", total=2, unit="problems") as stage:
        clock.now += 4.0
        stage.advance(tokens=8_000_000)
        stage.advance()
    progress.log("[done]")
    lines = out.getvalue().splitlines()
    assert lines[-2:] == ["search: 2 problems in 4.0 s, 2.0M tokens/s", "[done]"]


def test_silent_and_choice():
    with SilentProgress().stage("x", total=1) as stage:
        stage.advance(3, tokens=1, loss=object())
    assert isinstance(terminal_progress(io.StringIO()), LogProgress)
    assert all(isinstance(kind, Progress) for kind in (SilentProgress(), LogProgress(), BarProgress()))


@pytest.mark.parametrize(("seconds", "text"), [
    (0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (185, "3 min 05 s"), (3599.6, "1 h 00 min"),
    (7640, "2 h 07 min")])
def test_duration(seconds, text):
    assert duration(seconds) == text
