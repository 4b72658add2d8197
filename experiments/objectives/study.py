"""Every objective on the same labelled solutions of the embedded task: train, score, compare.

    python experiments/objectives/study.py runs/objectives                        # all of it, 2 processes
    python experiments/objectives/study.py runs/objectives --only focal --seeds 0 # a part of it
    python experiments/objectives/study.py runs/objectives --split development    # settings are chosen on this split

Writes OUT/<config>-<seed>/ (run directories of ``jaxprm train``) and results.json, results.md and results.png: beside this
file, or into OUT where only a part was run. Killed, the same command goes on: finished runs are kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import data
import tables

from jaxprm.cli.config import resolve
from jaxprm.hub import load_reward_model
from jaxprm.metrics import best_threshold
from jaxprm.pipelines.prm_recipe import probabilities
from jaxprm.pipelines.train_prm import TrainPRM, run
from jaxprm.progress import SilentProgress
from jaxprm.records import atomic_write, read_solutions
from jaxprm.run_directory import RunDirectory
from jaxprm.scoring.scorer import StepScorer

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)


def configs() -> list[str]:
    """The shipped configs of the embedded task: all of configs/prm but those of other data."""
    folder = HERE.parents[1] / "configs" / "prm"
    return sorted(path.stem for path in folder.glob("*.gin") if "runs/objectives/" in resolve(f"prm/{path.stem}").text)


def config_of(name: str, seed: int, out: Path) -> TrainPRM:
    """A shipped config with its files in ``out``, and a seed."""
    config: TrainPRM = resolve(f"prm/{name}", expected=TrainPRM).config
    files = tuple(str(out.absolute() / Path(file).name) for file in config.data.files)
    return dataclasses.replace(config, seed=seed, data=dataclasses.replace(config.data, files=files),
                               initial_model=str(out.absolute() / "policy"))


def train(name: str, seed: int, out: Path, split: str) -> None:
    """One run, and the scores of the candidates of a split. The threshold of the first-error F1 is always chosen on the
    development problems."""
    place = out / f"{name}-{seed}"
    file = place / f"{split}_scores.json"
    if file.exists():
        return
    start = time.monotonic()
    config = config_of(name, seed, out)
    run(config, RunDirectory(place, config), SilentProgress())
    loaded = load_reward_model(place / "model")
    scorer, scores = StepScorer(loaded.model, loaded.encoder), {}
    for part in {"development", split}:
        items = list(read_solutions(out / f"{part}.jsonl"))
        scores[part] = probabilities(loaded.model, scorer.score([item.solution for item in items]))
        if part == "development":
            threshold = best_threshold(scores[part], [item.labels.first_error for item in items])
    seconds = round(time.monotonic() - start, 1)
    with atomic_write(file) as output:
        json.dump({"threshold": float(threshold), "seconds": seconds,
                   "scores": [[float(value) for value in row] for row in scores[split]]}, output)
    print(f"{name} seed {seed}: {seconds:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the runs")
    parser.add_argument("--only", nargs="+", default=None, help="names of configs in configs/prm")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--split", choices=("development", "test"), default="test")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one core each")
    parser.add_argument("--worker", type=int, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.only or configs()
    tasks = [(name, seed) for seed in arguments.seeds for name in names]
    if arguments.worker is not None:
        for name, seed in tasks[arguments.worker :: arguments.workers]:
            train(name, seed, arguments.out, arguments.split)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    data.prepare(arguments.out, SilentProgress())
    print(f"data: {arguments.out}", flush=True)
    one_core = os.environ | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false",
                             "OMP_NUM_THREADS": "1"}
    workers = [subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--worker", str(number)], env=one_core)
               for number in range(arguments.workers)]
    failed = [worker.wait() for worker in workers]
    if any(failed):
        sys.exit("a worker failed; the same command goes on")
    items = list(read_solutions(arguments.out / f"{arguments.split}.jsonl"))
    runs = {name: [json.loads((arguments.out / f"{name}-{seed}" / f"{arguments.split}_scores.json").read_text())
                   for seed in arguments.seeds] for name in names}
    results = {name: tables.summary(items, rows) for name, rows in runs.items()}
    place = HERE if arguments.split == "test" and arguments.only is None else arguments.out
    tables.write(place, results, tables.chance(items), seeds=arguments.seeds, split=arguments.split,
                 seconds={name: [row["seconds"] for row in rows] for name, rows in runs.items()})
    print(f"results: {place / 'results.md'}", flush=True)


if __name__ == "__main__":
    main()
