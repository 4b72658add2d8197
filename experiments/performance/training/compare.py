"""Training speed against PyTorch: the same random weights, tokens, labels and AdamW settings, float32, one run.

    make .venv-parity      # torch, transformers, trl 1.13.0 and jaxprm in one environment
    .venv-parity/bin/python experiments/performance/training/compare.py \\
        --data $JAXPRM_DATA/train/prm800k_phase1_train_expanded.jsonl.gz --sizes tiny medium \\
        --json experiments/performance/training/cpu.json

Ragged data, equal tokens per batch (labelled steps/s, what training is for):
  jaxprm   the compiled step of `fit` on packed batches of `StepDataset`, data pipeline included
  trl      PRMTrainer's own loop: its collator pads a batch to its longest row; as many rows per batch as have on average the
           tokens of a packed batch
Equal dense tokens (no padding anywhere, all rows full; tokens/s, where the time goes):
  forward, + backward, + clipping and AdamW, in XLA and in a plain PyTorch loop; every 32nd token is labelled, and our last
  block computes nothing for the others but their keys and values (`jaxprm.models.forward_steps`)
Compilation is not counted (it is reported). Repeats are interleaved, so that a disturbance of the machine meets all ways; each
way's best counts. The first losses are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import datasets
import jax
import numpy as np
import torch
import transformers
import trl
from trl.experimental.prm import PRMConfig, PRMTrainer

from jaxprm.data.examples import step_example
from jaxprm.data.pipeline import StepDataset
from jaxprm.hub.load import load_prm
from jaxprm.models.parameters import with_parameters
from jaxprm.objectives import cross_entropy
from jaxprm.records import LabeledSolution, read_solutions
from jaxprm.runtime import keep_freed_memory
from jaxprm.training import OptimizerConfig, initial_state, make_train_step, step_loss
from jaxprm.training.loop import place_batch

sys.path.append(str(Path(__file__).parents[1]))
from peer import SIZES, checkpoint, train_tokenizer  # noqa: E402

LABEL_EVERY = 32  # tokens between labelled steps of the dense batch
RATE, DECAY, CLIP = 1e-4, 0.01, 1.0


def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), eps=1e-8, weight_decay=DECAY)


class Ours:
    """Our model, its compiled training step, and its state."""

    def __init__(self, folder: Path, steps: int):
        loaded = load_prm(folder, "trl")
        self.model, self.encoder = loaded.model, loaded.encoder
        self.loss = step_loss(cross_entropy)
        config = OptimizerConfig(RATE, warmup=0.0, final_rate=1.0, weight_decay=DECAY, beta1=0.9, beta2=0.98, clip=CLIP)
        optimizer = config.build(steps)
        self.step, self.state = make_train_step(self.model, self.loss, optimizer), initial_state(self.model, optimizer)

    def train(self, batch) -> jax.Array:
        self.state, metrics = self.step(self.state, place_batch(batch, None))
        return metrics["loss"]


def labelled(path: Path, limit: int) -> list[LabeledSolution]:
    """Solutions of which every step has a label: TRL reads no others."""
    kept = []
    for item in read_solutions(path, drop_empty=True):
        if item.labels is not None and item.solution.steps and None not in item.labels.values:
            kept.append(item)
        if len(kept) == limit:
            break
    return kept


def seconds_of(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


# Ragged data


class Timer(transformers.TrainerCallback):
    """When each optimiser step of TRL's loop ended."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, *_, **__):
        self.ends.append(time.perf_counter())


class CountingCollator(transformers.DataCollatorForTokenClassification):
    """TRL's collator, with a note of every batch: labelled steps, tokens, padded size."""

    def __call__(self, features, return_tensors=None):
        batch = super().__call__(features, return_tensors)
        self.seen.append((int((batch["labels"] != -100).sum()), int(batch["attention_mask"].sum()), batch["labels"].numel()))
        return batch


def trl_run(folder: Path, rows: list[dict], batch_rows: int, context: int, warm: int, steps: int, seed: int) -> dict:
    # Not AutoTokenizer, which for a Qwen2 model splits text as Qwen2 does.
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder, attn_implementation="sdpa")
    timer, collator = Timer(), CountingCollator(tokenizer)
    collator.seen = []
    with tempfile.TemporaryDirectory() as output:
        config = PRMConfig(
            output_dir=output, learning_rate=RATE, weight_decay=DECAY, max_grad_norm=CLIP, adam_beta1=0.9, adam_beta2=0.98,
            optim="adamw_torch", lr_scheduler_type="constant", per_device_train_batch_size=batch_rows, max_steps=warm + steps,
            logging_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True, bf16=False,
            gradient_checkpointing=False, use_cpu=True, dataloader_pin_memory=False, max_length=context, seed=seed)
        trainer = PRMTrainer(model=model, args=config, processing_class=tokenizer, data_collator=collator, callbacks=[timer],
                             train_dataset=datasets.Dataset.from_list(rows))
        trainer.train()
    counted = np.array(collator.seen[warm : warm + steps]).sum(0)
    return {"seconds": timer.ends[-1] - timer.ends[warm - 1], "labels": int(counted[0]), "tokens": int(counted[1]),
            "padding_share": 1 - counted[1] / counted[2]}


def our_run(ours: Ours, dataset: StepDataset, warm: int, steps: int) -> dict:
    iterator, labels, tokens, size = iter(dataset), 0, 0, 0
    for _ in range(warm):
        ours.train(next(iterator)).block_until_ready()
    start = time.perf_counter()
    for _ in range(steps):
        batch = next(iterator)
        labels, tokens = labels + int(batch["label_mask"].sum()), tokens + int(np.count_nonzero(batch["segment_ids"]))
        size += batch["tokens"].size
        loss = ours.train(batch)
    loss.block_until_ready()
    return {"seconds": time.perf_counter() - start, "labels": labels, "tokens": tokens, "padding_share": 1 - tokens / size}


def ragged(folder: Path, items: list[LabeledSolution], options) -> dict:
    ours = Ours(folder, options.steps)
    examples, rows = [], []
    for item in items:
        ids, ends = ours.encoder.encode(item.solution.problem.prompt, item.solution.steps)
        if len(ids) <= options.row_tokens:
            examples.append(step_example(ids, ends, item.labels))
            rows.append({"prompt": item.solution.problem.prompt, "completions": list(item.solution.steps),
                         "labels": [value > 0.5 for value in item.labels.values]})
    mean = np.mean([len(example["tokens"]) for example in examples])
    batch_rows = max(1, round(options.batch_tokens / mean))
    packed_rows = max(1, options.batch_tokens // options.row_tokens)
    best: dict[str, dict] = {}
    for repeat in range(options.repeats):
        dataset = StepDataset(examples, row_tokens=options.row_tokens, row_steps=64, batch_rows=packed_rows, seed=repeat,
                              overlong="drop")
        for way, run in (("jaxprm", lambda dataset=dataset: our_run(ours, dataset, options.warm, options.steps)),
                         ("trl", lambda repeat=repeat: trl_run(folder, rows, batch_rows, options.row_tokens, options.warm,
                                                               options.steps, repeat))):
            found = run()
            found["labels_per_second"] = found["labels"] / found["seconds"]
            found["tokens_per_second"] = found["tokens"] / found["seconds"]
            if way not in best or found["labels_per_second"] > best[way]["labels_per_second"]:
                best[way] = found
    return {"solutions": len(examples), "mean_tokens": float(mean), "trl_rows": batch_rows, "packed_rows": packed_rows,
            "ways": best, "ratio": best["jaxprm"]["labels_per_second"] / best["trl"]["labels_per_second"]}


# Equal dense tokens


def dense_batch(rows: int, tokens: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    ends = np.broadcast_to(np.arange(LABEL_EVERY - 1, tokens, LABEL_EVERY, dtype=np.int32), (rows, tokens // LABEL_EVERY))
    return {"tokens": rng.integers(1, 8192, (rows, tokens), np.int32), "segment_ids": np.ones((rows, tokens), np.int32),
            "positions": np.broadcast_to(np.arange(tokens, dtype=np.int32), (rows, tokens)), "step_ends": ends,
            "step_mask": np.ones(ends.shape, bool), "label_mask": np.ones(ends.shape, bool),
            "labels": rng.integers(0, 2, ends.shape).astype(np.float32), "weights": np.ones(ends.shape, np.float32)}


class Plain:
    """A PyTorch training loop on one dense batch."""

    def __init__(self, folder: Path, batch: dict[str, np.ndarray]):
        model = transformers.AutoModelForTokenClassification.from_pretrained(folder, attn_implementation="sdpa")
        self.model, self.optimizer = model.eval(), adamw(model)  # eval: no dropout; gradients flow all the same
        labels = np.full(batch["tokens"].shape, -100, np.int64)
        np.put_along_axis(labels, batch["step_ends"].astype(np.int64), batch["labels"].astype(np.int64), axis=1)
        self.ids, self.labels = torch.tensor(batch["tokens"].astype(np.int64)), torch.tensor(labels)

    def forward(self) -> torch.Tensor:
        return self.model(input_ids=self.ids, labels=self.labels, use_cache=False).loss

    def no_gradient(self) -> float:
        with torch.no_grad():
            return self.forward().item()

    def backward(self) -> float:
        self.optimizer.zero_grad()
        loss = self.forward()
        loss.backward()
        return loss.item()

    def step(self) -> float:
        loss = self.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        return loss


def dense(folder: Path, options) -> dict:
    batch = dense_batch(max(1, options.batch_tokens // options.row_tokens), options.row_tokens)
    ours, plain = Ours(folder, options.steps), Plain(folder, batch)
    placed = place_batch(batch, None)
    architecture = jax.eval_shape(lambda: ours.model)
    mean = lambda values: ours.loss(with_parameters(architecture, values), placed).mean()  # noqa: E731
    forward, backward = jax.jit(mean), jax.jit(jax.value_and_grad(mean))
    ways = {("jaxprm", "forward"): lambda: jax.block_until_ready(forward(ours.state.parameters)),
            ("torch", "forward"): plain.no_gradient,
            ("jaxprm", "backward"): lambda: jax.block_until_ready(backward(ours.state.parameters)),
            ("torch", "backward"): plain.backward,
            ("jaxprm", "step"): lambda: ours.train(batch).block_until_ready(), ("torch", "step"): plain.step}
    difference = abs(float(forward(ours.state.parameters)) - plain.no_gradient())
    compile_seconds = sum(seconds_of(ways["jaxprm", name]) for name in ("backward", "step"))
    for name in ("backward", "step"):
        ways["torch", name]()  # allocates its buffers
    best = {way: float("inf") for way in ways}
    for _ in range(options.repeats * options.dense_repeats):
        for way, function in ways.items():
            best[way] = min(best[way], seconds_of(function))
    tokens = batch["tokens"].size
    seconds = {who: {name: best[who, name] for name in ("forward", "backward", "step")} for who in ("jaxprm", "torch")}
    return {"rows": len(batch["tokens"]), "row_tokens": options.row_tokens, "loss_difference": difference,
            "compile_seconds": compile_seconds, "seconds": seconds,
            "tokens_per_second": {who: tokens / values["step"] for who, values in seconds.items()},
            "ratio": {name: seconds["torch"][name] / seconds["jaxprm"][name] for name in seconds["torch"]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="step-labelled JSONL file")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["tiny", "medium"])
    parser.add_argument("--solutions", type=int, default=2000, help="read at most so many")
    parser.add_argument("--row-tokens", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--warm", type=int, default=2, help="steps that are not timed")
    parser.add_argument("--steps", type=int, default=12, help="steps that are")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dense-repeats", type=int, default=4, help="per repeat")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not 1 <= options.warm or not 1 <= options.steps or options.row_tokens % LABEL_EVERY:
        parser.error(f"--warm and --steps must be at least 1, --row-tokens a multiple of {LABEL_EVERY}")
    keep_freed_memory()
    torch.set_num_threads(os.cpu_count())
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # TRL turns gradient checkpointing on; its switch has been renamed
    datasets.disable_progress_bars()
    tokenizer, items = train_tokenizer(options.data), labelled(options.data, options.solutions)
    results = {"machine": f"{os.cpu_count()} CPU cores, {jax.devices()[0].device_kind}", "data": options.data.name,
               "options": {name: value for name, value in vars(options).items() if name not in ("data", "json", "sizes")},
               "versions": {"jax": jax.__version__, "torch": torch.__version__, "transformers": transformers.__version__,
                            "trl": trl.__version__}, "runs": []}
    print("| model | data | way | labelled steps/s | tokens/s | padding | jaxprm is faster by |\n|---|---|---|---|---|---|---|")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as name:
            checkpoint(Path(name), size, tokenizer, torch.float32)
            found = {"size": size, "ragged": ragged(Path(name), items, options), "dense": dense(Path(name), options)}
        results["runs"].append(found)
        for way, values in found["ragged"]["ways"].items():
            ratio = found["ragged"]["ratio"] if way == "trl" else 1
            print(f"| {size} | ragged | {way} | {values['labels_per_second']:,.1f} | {values['tokens_per_second']:,.0f} | "
                  f"{values['padding_share']:.0%} | {ratio:.2f}x |", flush=True)
        for way, speed in found["dense"]["tokens_per_second"].items():
            ratio = found["dense"]["ratio"]["step"] if way == "torch" else 1
            print(f"| {size} | dense | {way} | {speed / LABEL_EVERY:,.1f} | {speed:,.0f} | 0% | {ratio:.2f}x |", flush=True)
        for way, values in found["dense"]["seconds"].items():
            parts = [values["forward"], values["backward"] - values["forward"], values["step"] - values["backward"]]
            print(f"{size}, dense, {way}: forward {parts[0]:.3f} s, backward {parts[1]:.3f} s, clipping and AdamW "
                  f"{parts[2]:.3f} s", flush=True)
        print(f"{size}: first losses differ by {found['dense']['loss_difference']:.1e}; compilation "
              f"{found['dense']['compile_seconds']:.1f} s", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
