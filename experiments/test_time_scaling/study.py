"""Accuracy against policy tokens for every search strategy, with an oracle, the trained and a random reward model.

    for seed in 0 1 2; do jaxprm quickstart --run runs/quickstart-$seed --gin.Quickstart.seed=$seed; done
    python experiments/test_time_scaling/study.py runs/scaling runs/quickstart-0 runs/quickstart-1 runs/quickstart-2

trains the countdown models of each seed, runs every cell (task, seed, reward model, strategy, size) and writes results.json,
results.md and the figures: beside this file, or into OUT where only a part was run. Killed, the same command goes on: what is
written is kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import countdown
import jax
import numpy as np
import tables
from scorers import OracleModel, Truth, random_model
from strategies import PLAN, level_strategies, node_strategies

from jaxprm.generation.local_text import LocalTextPolicy
from jaxprm.generation.policy import LocalPolicy
from jaxprm.hub import load_language_model, load_reward_model
from jaxprm.models.reward_model import RewardModel
from jaxprm.pipelines.quickstart import PARTS, Quickstart
from jaxprm.progress import LogProgress
from jaxprm.records import Problem, Solution, atomic_write
from jaxprm.run_directory import RunDirectory
from jaxprm.scoring.scorer import StepScorer
from jaxprm.search import NodeStrategy, Strategy
from jaxprm.search.searched import Searched
from jaxprm.search.searcher import Searcher, SearchSettings
from jaxprm.steps import StepEncoder
from jaxprm.tasks.arithmetic import ArithmeticTask
from jaxprm.tasks.countdown import CountdownTask

HERE = Path(__file__).parent
TASKS, SEEDS = ("arithmetic", "countdown"), (0, 1, 2)
# The quickstart reports on draws from 20,000 on; nobody has looked at these.
PROBLEMS, START, POOL = 40, 60_000, 64
BATCH_ROWS = 1280  # problems x candidates at a time; each length of prompts is a compiled program


@dataclasses.dataclass(frozen=True)
class Setting:
    """A task with the models of one seed.

    Attributes:
      task: judges; problems: of the reported numbers.
      policy: writes; encoder: its tokenizer and step format, which are the reward models', too.
      rewards: oracle, trained and random.
      steps, step_tokens: most steps of a solution, most tokens of a step.
    """

    task: ArithmeticTask | CountdownTask
    problems: list[Problem]
    policy: LocalPolicy
    encoder: StepEncoder
    rewards: dict[str, RewardModel]
    steps: int
    step_tokens: int
    seed: int

    def judge(self, problem: Problem, steps: tuple[str, ...]) -> tuple[str | None, bool]:
        verdicts = self.task.judge(problem, steps)
        return verdicts.answer, verdicts.correct


def setting(task: str, seed: int, run: Path, part: str) -> Setting:
    """Loads models and problems; ``run`` is one of the quickstart, or the folder of the countdown models."""
    if task == "arithmetic":
        quickstart = Quickstart(seed=RunDirectory.existing(run).config["seed"])
        family, limit = quickstart.task, quickstart.limit
        steps, step_tokens = quickstart.search_steps, quickstart.search_step_tokens
        problems = [family.sample((quickstart.seed, place), PARTS[part]) for place in range(START, START + PROBLEMS)]
    else:
        family, limit, steps, step_tokens = countdown.TASK, countdown.LIMIT, 5, 20
        problems = list(countdown.problems(part, PROBLEMS))
    name = "reward_model" if task == "arithmetic" else f"reward_model-{seed}"
    policy, reward = load_language_model(run / "policy"), load_reward_model(run / name)
    truth, config = Truth(family, policy.encoder, problems), policy.model.config
    context = min(config.context, truth.longest_prompt + (steps + 2) * step_tokens)  # no path of a search is longer
    rewards = {"oracle": OracleModel(truth, config.vocab_size, context),
               "trained": reward.model, "random": random_model(reward.model.config, seed)}
    return Setting(family, problems, LocalPolicy(policy.model, policy.encoder, limit=limit), policy.encoder, rewards, steps,
                   step_tokens, seed)


def pool(at: Setting) -> dict:
    """Independent samples of every problem with the score that each reward model gives them."""
    samples = at.policy.sample(jax.random.key(1000 + at.seed), [problem.prompt for problem in at.problems], POOL)
    flat = [(problem, sample) for problem, group in zip(at.problems, samples) for sample in group]
    whole = [sample.finished and sample.steps and all(step.strip() for step in sample.steps) for _, sample in flat]
    verdicts = [at.task.judge(problem, sample.steps) if good else None for (problem, sample), good in zip(flat, whole)]
    solutions = [Solution(problem, sample.steps) for (problem, sample), good in zip(flat, whole) if good]
    shape = (len(at.problems), POOL)
    right = [[float(value) for value in verdict.right] for verdict in verdicts if verdict is not None]
    steps = {"oracle": right} | {name: [row.tolist() for row in StepScorer(model, at.encoder).score(solutions)]
                                 for name, model in at.rewards.items() if name != "oracle"}
    values = {}
    for name, rows in steps.items():
        values[name] = np.zeros(len(flat))  # of samples without an end, or without anything to read
        values[name][np.flatnonzero(whole)] = [min(row) for row in rows]
    return {"answers": np.array([verdict and verdict.answer for verdict in verdicts], object).reshape(shape).tolist(),
            "correct": np.array([bool(verdict and verdict.correct) for verdict in verdicts]).reshape(shape).tolist(),
            "tokens": np.array([len(sample.ids) for _, sample in flat]).reshape(shape).tolist(),
            "values": {name: rows.reshape(shape).tolist() for name, rows in values.items()},
            "steps": steps}


def search(at: Setting, scorer: str, strategy: Strategy | NodeStrategy, size: int) -> dict:
    """One cell: every problem searched."""
    settings = SearchSettings(strategy, max_steps=at.steps, aggregation="min", seed=at.seed,
                              batch_problems=min(PROBLEMS, BATCH_ROWS // size))
    policy = LocalTextPolicy(at.policy.model, at.encoder, max_steps=at.steps, max_step_tokens=at.step_tokens,
                             entropies=strategy.entropies)
    start = time.monotonic()
    found = Searcher(policy, at.rewards[scorer], at.encoder, settings).run(at.problems)
    seconds = time.monotonic() - start
    return {"right": [bool(one.finished and at.judge(one.problem, one.steps(one.chosen))[1]) for one in found],
            "any_right": [any(at.judge(one.problem, one.steps(answer.node))[1] for answer in one.solutions) for one in found],
            "value": [_value(one) for one in found],
            "policy_tokens": [one.costs.policy_tokens for one in found],
            "reward_tokens": [one.costs.reward_tokens for one in found],
            "stopped": [one.stopped_by for one in found], "seconds": round(seconds, 2),
            "compilations": sum(one.costs.compilations for one in found)}


def _value(found: Searched) -> float | None:
    return None if found.chosen is None else found.nodes[found.chosen].value


Cell = tuple[str, Callable[[Setting], dict]]


def cells(step_tokens: int) -> Iterator[Cell]:
    """Name and work of every cell, the ones that say most first; the seeds of a cell share its compiled programs."""
    yield "pool", pool
    for size, scorer, kind in PLAN:
        for name, strategy in (level_strategies(size, step_tokens) if kind == "level" else node_strategies(size)).items():
            yield f"{name}, {scorer}, {size}", functools.partial(search, scorer=scorer, strategy=strategy, size=size)


def work(task: str, out: Path, runs: list[Path], seeds: list[int], part: str, only: list[str] | None) -> None:
    """All cells of a task, the seeds of each one after the other."""
    jax.config.update("jax_compilation_cache_dir", str(out / "compiled"))
    if task == "countdown":
        runs = [out / "countdown"] * len(seeds)
        countdown.prepare(runs[0], seeds, LogProgress())
    at = [setting(task, seed, run, part) for seed, run in zip(seeds, runs)]
    for name, run_cell in cells(at[0].step_tokens):
        if only and not any(name.split(",")[0] == one for one in only):
            continue
        for one in at:
            file = out / part / f"{task}-{one.seed}" / f"{name}.json"
            if not file.exists():
                start = time.monotonic()
                found = run_cell(one)
                file.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(file) as output:
                    json.dump(found, output)
                print(f"{task} {one.seed}: {name}: {time.monotonic() - start:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the cells and the countdown models")
    parser.add_argument("runs", type=Path, nargs="+", help="runs of the quickstart, one per seed")
    parser.add_argument("--part", choices=("development", "test"), default="test")
    parser.add_argument("--only", nargs="+", default=None, help="names of strategies")
    parser.add_argument("--task", choices=TASKS, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    seeds = list(range(len(arguments.runs)))
    if arguments.task:
        work(arguments.task, arguments.out, arguments.runs, seeds, arguments.part, arguments.only)
        return
    one_core = os.environ | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false",
                             "OMP_NUM_THREADS": "1"}
    workers = [subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--task", task], env=one_core) for task in TASKS]
    if any([worker.wait() for worker in workers]):
        sys.exit("a worker failed; the same command goes on")
    whole = arguments.part == "test" and arguments.only is None and len(seeds) == len(SEEDS)
    tables.write(HERE if whole else arguments.out, arguments.out / arguments.part, seeds)


if __name__ == "__main__":
    main()
