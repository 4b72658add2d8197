"""What programs with fewer rows (`compaction`) and caches that grow (`doublings`) save, and what compiling them costs.

    make quickstart                                                        # runs/quickstart
    python experiments/performance/search/sizes.py runs/quickstart         # some minutes on 2 quiet CPU cores

32 problems of the quickstart, whose paths end after 4 to 7 steps of at most 9: seconds of the first search, which compiles,
and the best of three more.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import jax

from jaxprm.generation.local_text import LocalTextPolicy
from jaxprm.hub import load_language_model, load_reward_model
from jaxprm.pipelines.quickstart import PARTS, Quickstart
from jaxprm.run_directory import RunDirectory
from jaxprm.runtime import keep_freed_memory
from jaxprm.search import Beam, BestOfN
from jaxprm.search.searcher import Searcher, SearchSettings

PROBLEMS, START, REPEATS = 32, 70_000, 3
STRATEGIES = {"best of 64": BestOfN(64), "beam 4 x 4": Beam(4, 4)}
SIZES = ((0, 0), (1, 0), (2, 0), (0, 1), (0, 2), (2, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="of the quickstart")
    run = parser.parse_args().run
    keep_freed_memory()
    config = Quickstart(seed=RunDirectory.existing(run).config["seed"])
    policy, reward = load_language_model(run / "policy"), load_reward_model(run / "reward_model")
    writer = LocalTextPolicy(policy.model, policy.encoder, max_steps=config.search_steps,
                             max_step_tokens=config.search_step_tokens)
    problems = [config.task.sample((config.seed, START + place), PARTS["test"]) for place in range(PROBLEMS)]
    print("| strategy | compaction | doublings | programs | first search, s | later, s | later, CPU s |\n" + "|---" * 7 + "|")
    for name, strategy in STRATEGIES.items():
        for compaction, doublings in SIZES:
            jax.clear_caches()
            settings = SearchSettings(strategy, max_steps=config.search_steps, aggregation=config.aggregation,
                                      batch_problems=PROBLEMS, compaction=compaction, doublings=doublings)
            searcher, times, programs = Searcher(writer, reward.model, reward.encoder, settings), [], 0
            for _ in range(1 + REPEATS):
                begun, busy = time.monotonic(), time.process_time()
                found = searcher.run(problems)
                times.append((time.monotonic() - begun, time.process_time() - busy))
                programs += sum(one.costs.compilations for one in found)
            best = [min(column) for column in zip(*times[1:])]
            print(f"| {name} | {compaction} | {doublings} | {programs} | {times[0][0]:.1f} | {best[0]:.2f} | {best[1]:.2f} |",
                  flush=True)


if __name__ == "__main__":
    main()
