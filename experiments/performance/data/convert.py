"""Rows per second and peak memory of `jaxprm data` on synthetic rows.

    .venv/bin/python experiments/performance/data/convert.py                     1 million rows of Math-Shepherd's form
    .venv/bin/python experiments/performance/data/convert.py --rows 100000 --tools convert,stats,dedup,near

Writes the rows to a temporary folder, runs each tool in a process of its own (so that peak memory is the tool's), and prints
one JSON object per tool. What grows with --rows: nothing in `convert`, 8 bytes per distinct problem in `stats` and per distinct
row in `dedup`, 40 bytes per row in `dedup --near`. On a loaded machine read `rows_per_cpu_second`.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = {
    "convert": ["convert", "{input}", "--from", "math-shepherd", "--output", "{folder}/own.jsonl"],
    "convert_gz": ["convert", "{input}", "--from", "math-shepherd", "--output", "{folder}/own.jsonl.gz"],
    "shards": ["convert", "{input}", "--from", "math-shepherd", "--to", "trl", "--shard-rows", "100000", "--output",
               "{folder}/shards"],
    "stats": ["stats", "{input}", "--format", "math-shepherd"],
    "dedup": ["dedup", "{input}", "--format", "math-shepherd", "--output", "{folder}/unique.jsonl"],
    "near": ["dedup", "{input}", "--format", "math-shepherd", "--near", "0.8", "--output", "{folder}/unique.jsonl"],
}

VERBS, THINGS = ("add", "count", "sell", "share", "pack", "move"), ("boxes", "apples", "tickets", "litres", "pages", "coins")


def write_rows(path: Path, rows: int, seed: int = 0) -> None:
    """Rows with 3 to 10 steps of about 60 characters, as long as the public set's."""
    draw = random.Random(seed)
    with open(path, "w", encoding="utf-8") as out:
        for index in range(rows):
            numbers = [draw.randrange(1, 500) for _ in range(draw.randrange(3, 11))]
            problem = f"Row {index}: we {draw.choice(VERBS)} {numbers[0]} {draw.choice(THINGS)} and then go on as told below."
            total, steps = 0, []
            for step, number in enumerate(numbers, 1):
                total += number
                steps.append(f"Step {step}: To {draw.choice(VERBS)} {number} more {draw.choice(THINGS)} gives {total} of them.")
            wrong = draw.randrange(2 * len(steps))
            marks = ["+" if step < wrong else "-" for step in range(len(steps))]
            row = {"input": f"{problem} " + "\n".join(f"{step} ки" for step in steps),
                   "label": f"{problem} " + "\n".join(f"{step} {mark}" for step, mark in zip(steps, marks)), "task": "made up"}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def measure(name: str, path: Path, folder: Path) -> dict:
    arguments = [part.format(input=path, folder=folder) for part in COMMANDS[name]]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "jaxprm.cli.main", "data", *arguments], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE)
    error = process.stderr.read()  # a few lines of progress; the pipe closes when the process ends
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(error.decode())
    return {"seconds": round(seconds, 1), "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
            "peak_megabytes": round(usage.ru_maxrss / 1024, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--tools", default="convert,convert_gz,shards,stats,dedup", help=f"of {', '.join(COMMANDS)}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "rows.jsonl"
        write_rows(path, options.rows)
        for tool in options.tools.split(","):
            result = measure(tool, path, folder)
            size = round(path.stat().st_size / 1e6, 1)
            print(json.dumps({"tool": tool, "rows": options.rows, "input_megabytes": size, **result,
                              "rows_per_second": round(options.rows / result["seconds"]),
                              "rows_per_cpu_second": round(options.rows / result["cpu_seconds"])}), flush=True)


if __name__ == "__main__":
    main()
