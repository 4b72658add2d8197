"""Numbers of several quickstart runs as one Markdown table: mean [95 % interval] of each.

    python experiments/quickstart/summary.py runs/quickstart runs/quickstart-1 runs/quickstart-2
"""

import json
import sys
from pathlib import Path

NUMBERS = ("pass_at_1", "majority_at_8", "prm_best_at_8", "prm_weighted_at_8", "beam_at_8", "oracle_at_8",
           "prm_best_minus_majority_at_8", "prm_best_minus_pass_at_1", "beam_minus_prm_best_at_8", "step_auroc",
           "step_auroc_within_position", "first_error_f1", "ece", "mc_agreement", "policy_tokens_at_8", "beam_policy_tokens")
RL = ("start", "outcome", "sum_form", "min_form")
RL_NUMBERS = ("pass_at_1", "gain", "mean_steps", "repeated_steps", "prm_score")


def cell(value: dict) -> str:
    digits = 1 if abs(value["mean"]) >= 10 else 3
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def main(paths: list[str]) -> None:
    runs = [json.loads((Path(path) / "results.json" if Path(path).is_dir() else Path(path)).read_text()) for path in paths]
    print("| number | " + " | ".join(f"seed {run['seed']}" for run in runs) + " |\n|---|" + "---|" * len(runs))
    for name in NUMBERS:
        print(f"| `{name}` | " + " | ".join(cell(run[name]) for run in runs) + " |")
    for variant in RL:
        for name in RL_NUMBERS:
            if (variant, name) != ("start", "gain"):
                print(f"| `rl.{variant}.{name}` | " + " | ".join(cell(run["rl"][variant][name]) for run in runs) + " |")
    kinds = {row["kind"] for run in runs for row in run["planted_errors"]}
    for kind in sorted(kinds):
        rows = [next(row for row in run["planted_errors"] if row["kind"] == kind) for run in runs]
        print(f"| planted `{kind}` caught | " + " | ".join(cell(row["caught"]) for row in rows) + " |")
    print("| seconds, all stages | " + " | ".join(f"{sum(run['seconds'].values()):.0f}" for run in runs) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
