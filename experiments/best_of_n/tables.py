"""The results as Markdown."""

from __future__ import annotations

RULE_NAMES = {"best": "best", "weighted": "weighted", "hybrid_majority": "HMR", "weighted_frequency": "WRF",
              "unanimity_plurality": "unanimity-plurality"}


def shown(value: dict) -> str:
    return f"{value['mean']:.4f} [{value['low']:.3f}, {value['high']:.3f}]"


def change(value: dict) -> str:
    return f"{100 * value['mean']:+.1f} [{100 * value['low']:+.1f}, {100 * value['high']:+.1f}], " + (
        "p < 0.001" if value["p"] < 0.001 else f"p = {value['p']:.3f}")


def markdown(results: dict) -> str:
    lines = ["# Results", "", "Written by `run.py`. Brackets: 95 % bootstrap intervals over problems.", ""]
    for name, found in results["decisions"].items():
        lines += [f"## {name}", "", f"pass@1 {shown(found['pass@1'])}, majority@32 {shown(found['majority'])}, "
                  f"oracle@32 {shown(found['oracle'])}.", "", "### Best of 32 by aggregation", ""]
        hows = list(next(iter(found["best"].values())))
        lines += ["| model | " + " | ".join(hows) + " |", "|---" * (len(hows) + 1) + "|"]
        lines += [f"| {model} | " + " | ".join(f"{row[how]['mean']:.4f}" for how in hows) + " |"
                  for model, row in found["best"].items()]
        widths = [value["high"] - value["low"] for row in found["best"].values() for value in row.values()]
        lines += ["", f"Intervals of these numbers are {100 * min(widths):.1f} to {100 * max(widths):.1f} points wide.", "",
                  "### Rules, in points against majority@32 (paired)", "",
                  "| model | aggregation | " + " | ".join(RULE_NAMES.values()) + " |", "|---" * (len(RULE_NAMES) + 2) + "|"]
        for model in found["best"]:
            for how in ("min", "last", "mean", "logit_mean"):
                cells = [change(found["rules"][f"{model}/{how}/{rule}"]["against_majority"]) for rule in RULE_NAMES]
                lines.append(f"| {model} | {how} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["## Calibration of solution scores", "",
              "gsm8k: maps cross-fitted by problem (5 folds). math500: maps fitted on gsm8k. \"Odds\" weighs by p / (1 - p).",
              "", "| pool / model / aggregation | map | ECE | Brier | AUROC | weighted | WRF | unanimity-plurality | odds |",
              "|---" * 9 + "|"]
    for name, maps in results["calibration"].items():
        for kind, value in maps.items():
            cells = [f"{value['rules'][rule]['mean']:.4f}"
                     for rule in ("weighted", "weighted_frequency", "unanimity_plurality", "weighted by odds")]
            lines.append(f"| {name} | {kind} | {value['ece']:.3f} | {value['brier']:.3f} | {value['auroc']:.3f} | "
                         + " | ".join(cells) + " |")
    lines += ["", "## PRM800K's protocol (product of the scores, 400 trials) beside the exact expectation", "",
              "| pool | N | mean | deviation | exact |", "|---|---|---|---|---|"]
    for name, rows in results["prm800k_protocol"].items():
        lines += [f"| {name} | {size} | {row['mean']:.4f} | {row['deviation']:.4f} | {row['exact']:.4f} |"
                  for size, row in rows.items()]
    lines += ["", "## Answering only where confident (best of 32)", "",
              "| pool / model / aggregation | confidence | accuracy of all | accuracy of the surest 80 % | AURC |",
              "|---|---|---|---|---|"]
    for name, found in results["selective"].items():
        lines += [f"| {name} | {kind} | {found['accuracy']:.4f} | {value['accuracy_at_80']:.4f} | {value['area']:.4f} |"
                  for kind, value in found["confidences"].items()]
    lines += ["", "## Budgets by problem", "",
              f"N = ceil(log(1 - C) / log(1 - p)), p from the first {next(iter(results['adaptive'].values()))['pilot']} "
              "candidates, against best-of-N with the same number of samples for every problem.", "",
              "| pool / model / aggregation | C | mean samples | accuracy | fixed N with as many | difference in points |",
              "|---|---|---|---|---|---|"]
    for name, found in results["adaptive"].items():
        lines += [f"| {name} | {row['confidence']} | {row['samples']:.1f} | {shown(row)} | "
                  f"{row['fixed']['mean']:.4f} | {change(row['difference'])} |" for row in found["rows"]]
    distinct = results["canonical"]["distinct"]
    lines += ["", "## Votes over answers that say the same (math500)", "",
              f"{distinct['raw']} distinct texts are {distinct['canonical']} distinct answers by math-verify.", "",
              "| model / aggregation / rule | raw texts | canonical | change in points |", "|---|---|---|---|"]
    lines += [f"| {name} | {shown(row['raw'])} | {shown(row['canonical'])} | {change(row['change'])} |"
              for name, row in results["canonical"].items() if name != "distinct"]
    return "\n".join(lines) + "\n"
