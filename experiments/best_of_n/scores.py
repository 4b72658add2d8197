"""Published step scores of several models in one file -> a file for each that `jaxprm bench --scores` reads.

    python experiments/best_of_n/scores.py ../shared/data/dev_eval/strict_bon_gsm8k.prm_scores.jsonl.gz scores
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from jaxprm.records import read_json_lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("published", type=Path, help='rows {"id", "prm_step_scores": {model: [one score per step]}}')
    parser.add_argument("folder", type=Path, help='where MODEL.jsonl goes, rows {"id", "scores"}')
    options = parser.parse_args(arguments)
    lines: dict[str, list[str]] = {}
    for _, row in read_json_lines(options.published):
        for model, scores in row["prm_step_scores"].items():
            lines.setdefault(model, []).append(json.dumps({"id": row["id"], "scores": scores}) + "\n")
    options.folder.mkdir(parents=True, exist_ok=True)
    for model, rows in lines.items():
        (options.folder / f"{model}.jsonl").write_text("".join(rows))


if __name__ == "__main__":
    main()
