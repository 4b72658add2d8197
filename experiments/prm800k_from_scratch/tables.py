"""Prints the numbers of a run and its benchmark as Markdown: ``python tables.py runs/prm800k``."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def interval(value: dict) -> str:
    if value["mean"] is None:
        return "undefined"
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def main(run: Path) -> None:
    results, bench = (json.loads((run / name).read_text()) for name in ("results.json", "bench.json"))
    counts, seconds = results["counts"], results["seconds"]
    print("# Results\n")
    print(f"Seed {results['seed']}, configuration `{results['config_sha256'][:16]}`. Written by `run.sh`.\n")
    print(f"Trained on {counts['train']['solutions']:,} solutions of {counts['train']['problems']:,} problems "
          f"({counts['train_weight']:,.0f} distinct labels, {counts['train_tokens']:,} tokens per epoch); "
          f"{counts['overlong']:,} solutions were longer than a row and left out. Seconds: "
          + ", ".join(f"{name} {value:,.0f}" for name, value in seconds.items()) + ".\n")
    print(f"Held-out problems of the training files ({counts['held_out']['solutions']:,} solutions, "
          f"{counts['held_out']['problems']:,} problems): " + ", ".join(
              f"{name} {interval(results[key])}" for name, key in (
                  ("AUROC", "step_auroc"), ("within position", "step_auroc_within_position"), ("ECE", "ece"))) + ".\n")
    for file, entry in bench["sets"].items():
        labels, left = entry["labels"], entry["counts"]
        print(f"## {Path(file).name.split('.')[0]}\n")
        print(f"{labels['solutions']:,} solutions of {labels['problems']:,} problems; left out: {left['unlabeled']:,} "
              f"without labels, {left['overlong']:,} too long, {left['empty_steps']:,} empty steps.\n")
        print("| system | AUROC | AUROC within position | first-error F1 at .5 | first-error F1 at chosen threshold "
              "(errors found / clean passed) | ECE |\n|---|---|---|---|---|---|")
        for name, value in entry["systems"].items():
            fixed, chosen = value["first_error"][0], value["first_error"][-1]
            shares = f"({chosen['acc_error']['mean']:.2f} / {chosen['acc_clean']['mean']:.2f})"
            label = "**PRM**" if name in bench["models"] else name
            print(f"| {label} | {interval(value['auroc'])} | {interval(value['auroc_within_position'])} | "
                  f"{interval(fixed['f1'])} | {interval(chosen['f1'])} {shares} | {interval(value['ece'])} |")
        print()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
