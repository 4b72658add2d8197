"""Beam search and sampling of jaxprm against transformers + torch: the same random weights, the same prompts, one run.

    make .venv-parity      # torch, transformers and jaxprm in one environment
    .venv-parity/bin/python experiments/performance/search/compare.py --json experiments/performance/search/cpu.json
    .venv-parity/bin/python experiments/performance/search/compare.py --size tiny --candidates 4 8 --prompt 16 --steps 3 \\
        --step-tokens 8 --sample-tokens 16 --growth 4 8 --problems 1 2            # a minute
    .venv-parity/bin/python experiments/performance/search/compare.py --size 1.5B --dtype bfloat16 --device cuda    # on a GPU

Ways of searching (README.md says what each one reads):
  jaxprm        `jaxprm.search.search`, one problem; "in batches": as many problems at once as fill --rows rows
  again         our sampler and its cache, but the reward model reads every text from its beginning (`StepScorer`)
  cached        transformers: `generate` with the cache of the level before; the reward model reads every text again
  texts         transformers: `generate` reads every text again, too
Ways of drawing: `jaxprm.generation.sample`, `generate`, and a loop of torch.compile with a static cache.
With JAX_COMPILATION_CACHE_DIR set, a second run compiles nothing; compilation is never part of the times.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import torch
import transformers

from jaxprm.runtime import keep_freed_memory

sys.path.append(str(Path(__file__).parent))
from checkpoints import SIZES, prompts, write  # noqa: E402
from counts import Counts  # noqa: E402
from ours import OurModels, counts_of, draw, next_logits, search_reading_again  # noqa: E402
from peers import StaticDecoder, Time, TorchModels, beam_search  # noqa: E402


PARTS = ["sampling", "growth", "search"]


class Comparison:
    """The models on both sides, and what is measured with them."""

    def __init__(self, folder: Path, options: argparse.Namespace):
        self.options, self.dtype = options, getattr(torch, options.dtype)
        places = write(folder, options.size, options.step_tokens, self.length(options.steps), self.dtype)
        self.torch = TorchModels(*places, options.device, self.dtype, options.batch_tokens)
        self.ours = OurModels(*places, options.dtype, options.batch_tokens, options.doublings)
        self.prompts = prompts(max(options.rows, *options.problems), options.prompt, options.size)

    def length(self, steps: int) -> int:
        """Tokens of a whole text, and room for one more step."""
        return self.options.prompt + (steps + 1) * self.options.step_tokens

    # Both sides hold the same models

    def differences(self) -> dict[str, float]:
        """How far logits and scores of the same texts are apart, on texts that the peer has found."""
        options = self.options
        texts, _, _ = beam_search(self.torch, self.prompts[0], 2 * options.expansions, options.expansions, 2,
                                  options.step_tokens, cached=True)
        scores = self.torch.scores(texts, options.prompt, options.step_tokens)[0].cpu().numpy()
        ends = list(range(options.prompt + options.step_tokens - 1, texts.shape[1], options.step_tokens))
        rows = texts.cpu().numpy()
        ours = np.stack(self.ours.scorer.score_ids([(row.tolist(), ends) for row in rows]))
        logits = self.torch.next_logits(texts).cpu().numpy()
        return {"scores": float(np.abs(ours - scores).max()), "spread_of_scores": float(scores.std()),
                "logits": float(np.abs(np.asarray(next_logits(self.ours, rows)) - logits).max())}

    # Search

    def way(self, name: str, candidates: int, steps: int, problems: int = 1) -> tuple[Callable, Callable]:
        """What gets a way of searching ready (compiles, starts threads), and what runs it and gives the counts of a problem."""
        options = self.options
        shape = candidates, options.expansions, steps, options.step_tokens
        prompt = self.prompts[:problems]
        if name == "jaxprm":
            levels = steps // 2 + 2 if options.doublings else 1  # caches of all sizes, each of which is a program
            return (lambda: self.ours.search(0, prompt.numpy(), *shape, levels=levels),
                    lambda: counts_of(self.ours, self.ours.search(0, prompt.numpy(), *shape), options.prompt))
        if name == "again":
            run = lambda: search_reading_again(self.ours, 0, prompt[0].numpy(), *shape)[2]  # noqa: E731
            return run, run

        def peer(steps: int) -> Counts:
            return beam_search(self.torch, prompt[0], *shape[:2], steps, options.step_tokens, cached=name == "cached")[2]

        return lambda: peer(1), lambda: peer(steps)

    def timed(self, ready: Callable, run: Callable, repeats: int) -> tuple[Time, Counts]:
        """The quickest of some repeats, and the counts."""
        ready()
        counts: list[Counts] = []
        return min(self.torch.time(lambda: counts.append(run())) for _ in range(repeats)), counts[-1]

    def searches(self, candidates: int) -> Iterator[dict]:
        """One row per way of searching with N candidates per level."""
        options, ours = self.options, None
        batch = max(1, options.rows // candidates)
        for name, problems in (("jaxprm", 1), ("jaxprm", batch), ("again", 1), ("cached", 1), ("texts", 1)):
            if (name == "jaxprm" and batch == 1 and ours) or candidates > options.largest.get(name, math.inf):
                continue
            time, counts = self.timed(*self.way(name, candidates, options.steps, problems),
                                      1 if name in ("cached", "texts") else options.repeats)
            flops = counts.flops(self.ours.policy.config, self.ours.reward.config)
            row = {"way": name, "candidates": candidates, "problems": problems, "seconds": time.wall / problems,
                   "cpu_seconds": time.cpu / problems, "problems_per_second": problems / time.wall,
                   "policy_tokens": counts.policy_tokens, "reward_tokens": counts.reward_tokens,
                   "policy_forwards": counts.policy_forwards, "reward_forwards": counts.reward_forwards, "flops": flops,
                   "flops_per_second": flops * problems / time.wall}
            ours = ours or row
            show_search(row, ours)
            yield row

    # Sampling

    def sampling(self, rows: int, bandwidth: float) -> list[dict]:
        """One row per way of drawing ``rows`` texts behind one prompt."""
        options, prompt, tokens = self.options, self.prompts[0], self.options.sample_tokens
        static = StaticDecoder(self.torch, rows, options.prompt, tokens)
        texts = prompt.to(self.torch.device).repeat(rows, 1)
        ways = {"jaxprm": lambda: draw(self.ours, 0, prompt.numpy(), rows, tokens).block_until_ready(),
                "generate": lambda: self.torch.generate(texts, tokens, None),
                "static": lambda: static.draw(prompt)}
        best = dict.fromkeys(ways, Time(math.inf, math.inf))
        for run in ways.values():
            run()
        for _ in range(options.repeats):  # interleaved, so that a disturbance of the machine meets all of them
            for name, run in ways.items():
                best[name] = min(best[name], self.torch.time(run))
        needed = tokens * self.bytes_of_a_step(rows)
        found = [{"way": name, "rows": rows, "seconds": time.wall, "cpu_seconds": time.cpu,
                  "tokens_per_second": rows * tokens / time.wall, "share_of_bandwidth": needed / time.wall / bandwidth}
                 for name, time in best.items()]
        for row in found:
            print(f"| {rows} | {row['way']} | {row['tokens_per_second']:,.0f} | {row['seconds'] / tokens * 1e3:.1f} | "
                  f"{row['share_of_bandwidth']:.0%} | {row['seconds'] / best['jaxprm'].wall:.2f}x | "
                  f"{row['cpu_seconds'] / best['jaxprm'].cpu:.2f}x |", flush=True)
        return found

    def bytes_of_a_step(self, rows: int) -> float:
        """What has to be read for one token of every row: the weights, the prompt's keys and values once, and those that the
        rows have drawn, on average half of them."""
        config, size = self.ours.policy.config, self.dtype.itemsize
        cached = 2 * config.layers * config.kv_heads * config.head_dim
        return size * (config.matmul_parameters + config.width * config.vocab_size
                       + cached * (self.options.prompt + rows * self.options.sample_tokens / 2))

    # Growth

    def growth(self) -> Iterator[dict]:
        """Seconds of our search against the number of candidates, of steps, and of problems at once."""
        options = self.options
        middle, steps = options.growth[len(options.growth) // 2], options.growth_steps
        series = {"candidates": [(n, steps[-1], 1) for n in options.growth], "steps": [(middle, s, 1) for s in steps],
                  "problems": [(middle, steps[0], b) for b in options.problems]}
        for name, points in series.items():
            for point in points:
                time, _ = self.timed(*self.way("jaxprm", *point), options.repeats)
                print(f"| {name} | {' | '.join(map(str, point))} | {time.wall:.2f} | {time.cpu:.2f} | "
                      f"{point[2] / time.wall:.3f} |", flush=True)
                yield {"series": name, "seconds": time.wall, "cpu_seconds": time.cpu} | dict(
                    zip(("candidates", "steps", "problems"), point))

    def measure(self, part: str, bandwidth: float) -> Iterator[dict]:
        """The rows of one of `PARTS`, printed as they are found."""
        if part == "sampling":
            header("rows", "way", "tokens/s", "ms per token of all rows", "share of bandwidth", "time, ours = 1",
                   "CPU time, ours = 1")
            for rows in self.options.candidates:
                yield from self.sampling(rows, bandwidth)
        elif part == "growth":
            header("series", "candidates", "steps", "problems", "seconds", "CPU seconds", "problems/s")
            yield from self.growth()
        else:
            header("N", "way", "seconds per problem", "CPU seconds", "problems/s", "policy tokens", "PRM tokens", "forwards",
                   "TFLOP", "GFLOP/s", "time, ours = 1", "CPU time, ours = 1")
            for candidates in self.options.candidates:
                yield from self.searches(candidates)


def header(*columns: str) -> None:
    print("\n| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|", flush=True)


def show_search(row: dict, ours: dict) -> None:
    many = f", {row['problems']} at once" if row["problems"] > 1 else ""
    print(f"| {row['candidates']} | {row['way']}{many} | "
          f"{row['seconds']:.2f} | {row['cpu_seconds']:.2f} | {row['problems_per_second']:.4f} | "
          f"{row['policy_tokens']:,} | {row['reward_tokens']:,} | "
          f"{row['policy_forwards']:,} + {row['reward_forwards']:,} | {row['flops'] / 1e12:.2f} | "
          f"{row['flops_per_second'] / 1e9:.0f} | {row['seconds'] / ours['seconds']:.2f}x | "
          f"{row['cpu_seconds'] / ours['cpu_seconds']:.2f}x |", flush=True)


def bandwidth_of(models: TorchModels, size: int) -> dict[str, float]:
    """Bytes/s of reading an array of ``size`` bytes, by its sum, and of copying it (read and written bytes count)."""
    values = torch.ones(size // 4, device=models.device)
    other = torch.empty_like(values)
    best = {"read": math.inf, "copy": math.inf}
    for _ in range(6):
        best["read"] = min(best["read"], models.time(values.sum).wall)
        best["copy"] = min(best["copy"], models.time(lambda: other.copy_(values)).wall)
    return {"read": size / best["read"], "copy": 2 * size / best["copy"]}


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="50M", help="of policy and reward model each")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--candidates", type=int, nargs="+", default=[4, 16, 64], help="per problem and level, N")
    parser.add_argument("--expansions", type=int, default=4, help="steps drawn for each of the N / M paths that are kept, M")
    parser.add_argument("--rows", type=int, default=64, help="of our searches of several problems at once")
    parser.add_argument("--doublings", type=int, default=0, help="how often the caches of our searches may grow")
    parser.add_argument("--prompt", type=int, default=100, help="tokens")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--step-tokens", type=int, default=40, help="of every step, the separator included")
    parser.add_argument("--sample-tokens", type=int, default=128)
    parser.add_argument("--growth", type=int, nargs="+", default=[4, 8, 16, 32, 64], help="candidates")
    parser.add_argument("--growth-steps", type=int, nargs="+", default=[2, 4, 8], help="levels")
    parser.add_argument("--problems", type=int, nargs="+", default=[1, 2, 4, 8], help="searched at once")
    parser.add_argument("--batch-tokens", type=int, default=8192, help="of a call that scores whole texts, on both sides")
    parser.add_argument("--largest", nargs="*", default=[], metavar="WAY=N",
                        help="do not run a way with more than N candidates, such as cached=16")
    parser.add_argument("--repeats", type=int, default=2, help="the best counts; searches of the peer run once")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu", help="of torch; JAX takes a GPU where it sees one")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if any(n % options.expansions for n in options.candidates + options.growth):
        parser.error(f"--candidates and --growth must be multiples of --expansions {options.expansions}")
    if options.step_tokens >= SIZES[options.size][1]:
        parser.error(f"--step-tokens must be below the model's width {SIZES[options.size][1]}, see checkpoints.py")
    if options.device != "cpu" and (not torch.cuda.is_available() or jax.default_backend() != "gpu"):
        parser.error("--device: torch and JAX do not both see a GPU here")
    try:
        options.largest = {name: int(number) for name, number in (item.split("=") for item in options.largest)}
    except ValueError:
        parser.error("--largest takes WAY=N, such as cached=16")
    return options


def main() -> None:
    options = options_of()
    keep_freed_memory()  # as the command line does; it holds for torch, too
    torch.set_num_threads(os.cpu_count())
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    results = {"machine": f"{os.cpu_count()} CPU cores, {jax.devices()[0].device_kind}",
               "load_average": os.getloadavg(),
               "options": {name: value for name, value in vars(options).items() if name != "json"},
               "versions": {"jax": jax.__version__, "torch": torch.__version__, "transformers": transformers.__version__}}
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(Path(folder), options)
        millions = {name: sum(p.numel() for p in getattr(comparison.torch, name).parameters()) / 1e6
                    for name in ("policy", "reward")}
        results |= {"parameters_in_millions": millions, "differences": comparison.differences()}
        print(json.dumps({name: results[name] for name in ("machine", "parameters_in_millions", "differences")}), flush=True)
        speed = results["bandwidth"] = bandwidth_of(comparison.torch, 2**30 if options.size != "tiny" else 2**24)
        print(f"memory: {speed['read'] / 1e9:.1f} GB/s read, {speed['copy'] / 1e9:.1f} GB/s copied")
        for part in options.parts:
            results[part] = []
            for row in comparison.measure(part, speed["read"]):
                results[part].append(row)
                if options.json:  # after every row: the last ones take long
                    options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore", FutureWarning)
    main()
