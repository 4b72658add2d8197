"""Scoring speed of `StepScorer` against transformers + torch: the same random weights, the same ragged solutions, one run.

    make .venv-parity      # torch, transformers and jaxprm in one environment
    .venv-parity/bin/python experiments/performance/scoring/compare.py \\
        --data $JAXPRM_DATA/dev_eval/parc.jsonl.gz --sizes tiny medium --json experiments/performance/scoring/cpu.json

Ways of scoring:
  jaxprm        `StepScorer`: length buckets, compiled once per shape (compilation is reported apart)
  batched       transformers, solutions sorted by length, as many rows per batch as `StepScorer` takes, SDPA, inference mode
  plain         transformers, 8 solutions per batch in file order: what most scoring scripts do
  per_step      transformers, one forward pass per step (prefix by prefix), 8 prefixes per batch
All of them read the same ids; the scores are compared before anything is timed. Tokens/s count the tokens of the solutions
once, whatever a way reads or pads.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer

from jaxprm.hub.families import Settings
from jaxprm.hub.load import load_prm
from jaxprm.records import Problem, Solution, read_solutions
from jaxprm.runtime import keep_freed_memory
from jaxprm.scoring import StepScorer

sys.path.append(str(Path(__file__).parents[1]))
from peer import SIZES, checkpoint, train_tokenizer  # noqa: E402

SEPARATOR = "\n\n"


def read(path: Path, limit: int, context: int, tokenizer) -> list[Solution]:
    kept = []
    for item in read_solutions(path):
        steps = tuple(step for step in item.solution.steps if step.strip())
        text = item.solution.problem.prompt + SEPARATOR.join(steps)
        if steps and len(tokenizer.encode(text).ids) + 4 * len(steps) < context:
            kept.append(Solution(Problem(str(len(kept)), item.solution.problem.prompt), steps))
        if len(kept) == limit:
            break
    return kept


class Peer:
    """transformers + torch on ids: P(good) at the given positions."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype):
        model = transformers.AutoModelForTokenClassification.from_pretrained(folder, attn_implementation="sdpa", dtype=dtype)
        self.model, self.device = model.to(device).eval(), device

    @torch.inference_mode()
    def batch(self, rows: list[list[int]], ends: list[list[int]]) -> list[np.ndarray]:
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self.device)
        logits = self.model(input_ids=ids, attention_mask=mask).logits.float()
        good = torch.softmax(logits, -1)[..., 1].cpu().numpy()
        return [good[i, at] for i, at in enumerate(ends)]

    def batched(self, encoded, batch_tokens: int):
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i][0]))
        scores = [None] * len(encoded)
        while order:  # longest first: as many rows as fit
            rows = max(1, batch_tokens // len(encoded[order[-1]][0]))
            chosen, order = order[-rows:], order[:-rows]
            for i, values in zip(chosen, self.batch(*zip(*[encoded[i][:2] for i in chosen]))):
                scores[i] = values
        return scores

    def plain(self, encoded):
        return [values for start in range(0, len(encoded), 8)
                for values in self.batch(*zip(*[row[:2] for row in encoded[start : start + 8]]))]

    def per_step(self, encoded):
        prefixes = [(ids[: end + 1], [end]) for ids, ends, *_ in encoded for end in ends]
        values = iter([float(value[0]) for start in range(0, len(prefixes), 8)
                       for value in self.batch(*zip(*prefixes[start : start + 8]))])
        return [np.array([next(values) for _ in row[1]]) for row in encoded]


def timed(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(size: str, data: Path, tokenizer: Tokenizer, options) -> dict:
    dtype = getattr(torch, options.dtype)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint(Path(folder), size, tokenizer, dtype)
        loaded = load_prm(folder, "trl", dtype=options.dtype, settings=Settings(separator=SEPARATOR))
        peer = Peer(Path(folder), options.device, dtype)
    scorer = StepScorer(loaded.model, loaded.encoder, options.batch_tokens)
    solutions = read(data, options.solutions, 4096, tokenizer)
    encoded = [scorer.encode(solution) for solution in solutions]
    few = encoded[: options.per_step_solutions]
    tokens = sum(len(row[0]) for row in encoded)
    ways = {"jaxprm": lambda: scorer.score_ids(encoded), "batched": lambda: peer.batched(encoded, options.batch_tokens),
            "plain": lambda: peer.plain(encoded), "per_step": lambda: peer.per_step(few)}
    first = timed(ways["jaxprm"])  # compiles every shape
    ours = scorer.score_ids(encoded)
    difference = max(float(np.abs(mine - theirs).max())
                     for way in ("batched", "plain", "per_step") for mine, theirs in zip(ours, ways[way]()))
    best = {way: float("inf") for way in ways}
    for _ in range(options.repeats):  # interleaved, so that a disturbance of the machine meets all of them
        for way, function in ways.items():
            best[way] = min(best[way], timed(function))
    few_tokens = sum(len(row[0]) for row in few)
    speed = {way: (few_tokens if way == "per_step" else tokens) / seconds for way, seconds in best.items()}
    parameters = sum(p.numel() for p in peer.model.parameters())
    return {"size": size, "parameters": parameters, "dtype": options.dtype, "device": options.device, "solutions": len(encoded),
            "steps": sum(len(row[1]) for row in encoded), "tokens": tokens, "per_step_solutions": len(few),
            "largest_difference": difference, "first_call_seconds": first, "seconds": best, "tokens_per_second": speed,
            "ratio": {way: speed["jaxprm"] / value for way, value in speed.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="step-labelled JSONL file")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["tiny", "medium"])
    parser.add_argument("--solutions", type=int, default=96)
    parser.add_argument("--per-step-solutions", type=int, default=16)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu", help="of torch")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_freed_memory()  # as the command line does; it holds for torch, too
    torch.set_num_threads(os.cpu_count())
    tokenizer = train_tokenizer(options.data)
    results = {"machine": f"{os.cpu_count()} CPU cores, {jax.devices()[0].device_kind}", "data": options.data.name,
               "versions": {"jax": jax.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
               "runs": []}
    print("| model | way | tokens/s | jaxprm is faster by |\n|---|---|---|---|", flush=True)
    for size in options.sizes:
        found = compare(size, options.data, tokenizer, options)
        results["runs"].append(found)
        for way, speed in found["tokens_per_second"].items():
            ratio, millions = found["ratio"][way], found["parameters"] / 1e6
            print(f"| {size} ({millions:.1f}M) | {way} | {speed:,.0f} | {ratio:.2f}x |", flush=True)
        print(f"{size}: scores differ by at most {found['largest_difference']:.1e}; first call with compilation "
              f"{found['first_call_seconds']:.1f} s; {found['solutions']} solutions, {found['steps']} steps, "
              f"{found['tokens']} tokens", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
