"""Speed of the training input on real solutions: reading, encoding once, packed batches from memory and from disk, against
what a training step of a small model takes.

    python experiments/performance/training/input.py --data $JAXPRM_DATA --json experiments/performance/training/input.json

Stages:
  read, encode     JSON lines to labelled solutions; text to token ids (each step once)
  store            the encoded examples into ArrayRecord files; `disk` reads them at random
  memory, disk     packed batches (best fit) of one source; `mixture`: of two sources from disk, 3 : 1
  one per row      no packing, every solution in a row of its own (what padding to a fixed length does)
  step             one optimiser step of a small model on those batches, compiled, without any input work
Padding is the share of tokens that belong to no solution; "longest" pads each batch to its longest solution. Tokens are those
of solutions. Every speed is that of one process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxprm.data.arrayrecord import write_examples
from jaxprm.data.example_table import Origin
from jaxprm.data.lengths import longest_padding
from jaxprm.data.mixture import Part
from jaxprm.data.pipeline import StepDataset
from jaxprm.data.rows import DATA_VARIABLE
from jaxprm.data.solutions import SolutionFiles
from jaxprm.models.config import TransformerConfig
from jaxprm.models.reward_model import HeadConfig, RewardModel
from jaxprm.objectives import STEP_OBJECTIVES
from jaxprm.pipelines.train_data import encode_split, read_split
from jaxprm.steps.format import StepEncoder, StepFormat
from jaxprm.steps.tokenizers import train_sentencepiece
from jaxprm.training import OptimizerConfig, step_loss
from jaxprm.training.loop import initial_state, make_train_step, place_batch

FILES = ("train/prm800k_phase1_train_expanded.jsonl.gz", "train/prm800k_train1818.jsonl.gz")
MODELS = {  # width, layers, heads, mlp
    "width 64, 1 layer": (64, 1, 1, 192),
    "width 128, 2 layers": (128, 2, 2, 384),
}


def timed(function):
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def batches(dataset: StepDataset, count: int) -> dict[str, float]:
    """Speed and padding of ``count`` batches, after a first window."""
    iterator = iter(dataset)
    next(iterator)
    start, tokens, examples, cells = time.perf_counter(), 0, 0, 0
    for batch in itertools.islice(iterator, count):
        tokens += np.count_nonzero(batch["segment_ids"])
        examples += int(batch["segment_ids"].max(axis=1).sum())
        cells += batch["segment_ids"].size
    seconds = time.perf_counter() - start
    return {"examples_per_second": examples / seconds, "tokens_per_second": tokens / seconds, "padding": 1 - tokens / cells}


def training_step(dataset: StepDataset, shape: tuple[int, int, int, int], vocabulary: int, context: int,
                  count: int) -> dict[str, float]:
    """Seconds of compiled optimiser steps on batches that lie ready."""
    width, layers, heads, mlp = shape
    architecture = TransformerConfig(vocabulary, width=width, layers=layers, heads=heads, kv_heads=heads,
                                     head_dim=width // heads, mlp_dim=mlp, context=context)
    model = RewardModel(architecture, HeadConfig(), rngs=nnx.Rngs(0))
    optimizer = OptimizerConfig().build(1000)
    step = make_train_step(model, step_loss(STEP_OBJECTIVES["binary_cross_entropy"]), optimizer)
    ready = [place_batch(batch, None) for batch in itertools.islice(dataset, count + 1)]
    state, _ = step(initial_state(model, optimizer), ready[0])
    jax.block_until_ready(state)
    start = time.perf_counter()
    for batch in ready[1:]:
        state, _ = step(state, batch)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - start
    tokens = sum(int(np.count_nonzero(batch["segment_ids"])) for batch in ready[1:])
    return {"tokens_per_second": tokens / seconds, "seconds_per_step": seconds / count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder that holds train/")
    parser.add_argument("--row-tokens", type=int, default=1024)
    parser.add_argument("--row-steps", type=int, default=128)
    parser.add_argument("--batch-rows", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--batches", type=int, default=400, help="batches that are timed")
    parser.add_argument("--steps", type=int, default=6, help="optimiser steps that are timed")
    parser.add_argument("--json", help="where to write the numbers")
    options = parser.parse_args()
    os.environ[DATA_VARIABLE] = options.data
    data, step_format = SolutionFiles(FILES), StepFormat(separator="<step>")

    split, read = timed(lambda: read_split(data, 0.1))
    texts = dict.fromkeys(step for item in split.train for step in item.item.solution.steps)
    tokenizer, learn = timed(lambda: train_sentencepiece(list(texts), options.vocabulary, symbols=("<step>",)))
    encoder = StepEncoder(step_format, tokenizer)
    encoded, encode = timed(lambda: encode_split(split, encoder, data, True))
    examples = encoded.parts[0].examples
    tokens, rows = int(examples.table["tokens"].sum()), encoded.counts.rows
    encoded_tokens = tokens + sum(len(ids) for _, (ids, _), *_ in encoded.held_out)
    found: dict[str, dict] = {
        "data": {"files": FILES, "rows": rows, "examples": len(examples), "tokens": tokens, "tokenizer_seconds": learn},
        "read": {"examples_per_second": rows / read},
        "encode": {"examples_per_second": rows / encode, "tokens_per_second": encoded_tokens / encode}}

    size = {"row_tokens": options.row_tokens, "row_steps": options.row_steps, "batch_rows": options.batch_rows, "seed": 0,
            "overlong": "drop"}
    with tempfile.TemporaryDirectory() as place:
        origins = [Origin(*(entry[name] for name in Origin._fields)) for entry in examples.table]
        store, seconds = timed(lambda: write_examples(Path(place) / "store", zip(examples, origins), files=examples.files))
        found["store"] = {"examples_per_second": len(store) / seconds, "tokens_per_second": tokens / seconds,
                          "bytes_per_token": sum(file.stat().st_size for file in store.folder.iterdir()) / tokens}
        memory = StepDataset(examples, **size)
        found["memory"] = batches(memory, options.batches)
        found["disk"] = batches(StepDataset(store, **size), options.batches)
        few = write_examples(Path(place) / "few", itertools.islice(examples, 0, None, 7))
        found["mixture"] = batches(StepDataset([Part("all", store, 3.0), Part("few", few, 1.0)], **size), options.batches)
        found["one per row"] = batches(StepDataset(examples, packing=False, **size), options.batches)
    table = memory.parts[0].examples.table
    order = np.random.default_rng(0).permutation(len(table))
    found["padding"] = {"packed": found["memory"]["padding"], "one per row": found["one per row"]["padding"],
                        "longest": longest_padding(table["tokens"][order], options.batch_rows)}
    found["step"] = {name: training_step(memory, shape, options.vocabulary, options.row_tokens, options.steps)
                     for name, shape in MODELS.items()}

    print(f"{rows:,} rows, {len(examples):,} examples of {tokens / len(examples):.0f} tokens to train on; rows of "
          f"{options.row_tokens:,} tokens, {options.batch_rows} per batch; {os.cpu_count()} CPU(s)")
    print(f"{'':22}{'examples/s':>12}{'tokens/s':>14}{'padding':>10}")
    for name in ("read", "encode", "store", "memory", "disk", "mixture", "one per row"):
        numbers = found[name]
        token_speed = f"{numbers['tokens_per_second']:,.0f}" if "tokens_per_second" in numbers else ""
        padding = f"{100 * numbers['padding']:.1f} %" if "padding" in numbers else ""
        print(f"{name:22}{numbers['examples_per_second']:12,.0f}{token_speed:>14}{padding:>10}")
    print(f"{'padded to the longest':22}{'':26}{100 * found['padding']['longest']:8.1f} %")
    for name, numbers in found["step"].items():
        ratio = found["disk"]["tokens_per_second"] / numbers["tokens_per_second"]
        print(f"{'step, ' + name:28}{numbers['tokens_per_second']:20,.0f}    input from disk is {ratio:,.0f} times as fast")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
