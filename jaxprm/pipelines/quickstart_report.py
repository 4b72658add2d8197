"""The numbers and the report of the quickstart, from the files of its stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxprm.evaluation.agreement import Agreement, label_agreement
from jaxprm.evaluation.best_of_n import BestOfN, Candidates, best_of_n
from jaxprm.evaluation.results import build_results, write_results
from jaxprm.evaluation.steps import StepEvaluation, StepPredictions, evaluate_steps
from jaxprm.metrics import Interval, bootstrap_mean, paired_difference
from jaxprm.records import parse_row, read_json_lines, read_solutions
from jaxprm.reports import from_evaluation as curves
from jaxprm.reports.details import Curve, Panel, ReportDetails, ScoredSolution
from jaxprm.reports.html import build_report
from jaxprm.run_directory import RunDirectory
from jaxprm.training.metrics_log import read_metrics

if TYPE_CHECKING:
    from jaxprm.pipelines.quickstart import Quickstart

RL_VARIANTS = ("outcome", "sum_form", "min_form")
RL_NAMES = {"outcome": "outcome only", "sum_form": "sum-form", "min_form": "min-form"}
_EXAMPLES = 6

INTRODUCTION = (
    "A small language model learned to solve chains of modular arithmetic from texts whose authors have misconceptions, so "
    "it is fluent, often wrong, and often wrong in the same way. A process reward model (PRM) then learned to judge every "
    "step of its solutions. Below: how well the PRM judges steps, what that buys when one of several solutions has to be "
    "chosen, when it guides the search step by step, and when its scores become rewards for the policy.")


def write(config: Quickstart, run_directory: RunDirectory, seconds: dict[str, float]) -> None:
    """Computes every number with its interval and writes ``results.json`` and ``report.html``."""
    path = run_directory.path
    rows = _rows(path / "candidates.jsonl")
    beam = _rows(path / "beam.jsonl")
    key = (config.seed, 2)
    problems = _groups(rows, config.samples)
    pool = _candidates(problems)
    table = best_of_n(pool, key, resamples=config.resamples)
    steps = evaluate_steps(_predictions(rows), key, resamples=config.resamples)
    planted = evaluate_steps(_predictions(_rows(path / "planted.jsonl")), key, resamples=config.resamples)
    agreement = _agreement(path, config.rollouts, key, config.resamples)
    by_problem = np.arange(len(problems))
    beam_right = np.array([row["correct"] for row in beam], np.float64)
    mean = lambda values: bootstrap_mean(values, by_problem, key, resamples=config.resamples)  # noqa: E731

    numbers = {"pass_at_1": table.at("pass@1", 1), "majority_at_8": table.at("majority", 8),
               "prm_best_at_8": table.at("PRM best", 8), "prm_weighted_at_8": table.at("PRM weighted", 8),
               "beam_at_8": mean(beam_right), "oracle_at_8": table.at("oracle", 8),
               "prm_best_minus_majority_at_8": table.difference("PRM best", "majority", 8),
               "prm_best_minus_pass_at_1": table.difference("PRM best", "pass@1", 8),
               "beam_minus_prm_best_at_8": table.difference_from(beam_right, "PRM best", 8),
               "step_auroc": steps.auroc, "step_auroc_within_position": steps.auroc_within_position,
               "first_error_f1": steps.first_error[0].f1, "ece": steps.ece, "mc_agreement": agreement.agreement,
               "policy_tokens_at_8": mean(pool.policy_tokens.sum(axis=1)),
               "beam_policy_tokens": mean(np.array([row["policy_tokens"] for row in beam], np.float64)),
               "beam_reward_tokens": mean(np.array([row["reward_tokens"] for row in beam], np.float64))}
    runs = {"start": problems} | {variant: _groups(_rows(path / "reinforce" / variant / "samples.jsonl"), config.samples)
                                  for variant in RL_VARIANTS}
    before = _right(runs["start"]).mean(axis=1)
    rl = {name: _policy_numbers(groups, mean) | {
        "gain": paired_difference(_right(groups).mean(axis=1), before, by_problem, key, resamples=config.resamples)}
        for name, groups in runs.items()}
    stages = {name: run_directory.finished(name) for name in seconds}
    extra = {"first_error": steps.first_error[0], "planted_errors": planted.kinds, "auroc_by_position": steps.positions,
             "monte_carlo": agreement, "stages": stages}
    results = build_results(numbers, rl, seconds=seconds, seed=config.seed, config_sha256=run_directory.config_sha256,
                            extra=extra)
    write_results(run_directory.results, results)
    build_report(results, _details(config, path, table, steps, planted, agreement, numbers, problems), run_directory.report)


def _rows(path: Path) -> list[dict]:
    return [row for _, row in read_json_lines(path)]


def _groups(rows: Sequence[dict], size: int) -> list[list[dict]]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def _right(problems: Sequence[Sequence[dict]]) -> np.ndarray:
    return np.array([[bool(row["final_correct"]) for row in group] for group in problems], np.float64)


def _candidates(problems: Sequence[Sequence[dict]]) -> Candidates:
    return Candidates([[row["final_answer"] for row in group] for group in problems], _right(problems) > 0,
                      np.array([[row["aggregate"] for row in group] for group in problems]),
                      np.array([[row["tokens"] for row in group] for group in problems], np.float64))


def _predictions(rows: Sequence[dict]) -> StepPredictions:
    scored = [row for row in rows if row["scores"] is not None]
    kinds = [row["planted_kind"] for row in scored] if "planted_kind" in scored[0] else None
    return StepPredictions.from_solutions([parse_row(row)[0] for row in scored], [row["scores"] for row in scored], kinds,
                                          distinct=False)


def _policy_numbers(groups: Sequence[Sequence[dict]], mean) -> dict[str, Interval]:
    """pass@1, steps per solution, and the share of steps whose text an earlier step of the solution has already said."""
    def per_problem(value):
        return np.array([np.mean([value(row) for row in group]) for group in groups])

    def repeated(row):
        return 1 - len(set(row["steps"])) / len(row["steps"]) if row["steps"] else 0.0

    return {"pass_at_1": mean(_right(groups).mean(axis=1)), "mean_steps": mean(per_problem(lambda row: len(row["steps"]))),
            "repeated_steps": mean(per_problem(repeated)), "mean_tokens": mean(per_problem(lambda row: row["tokens"])),
            "unfinished": mean(per_problem(lambda row: not row["finished"])),
            "prm_score": mean(per_problem(lambda row: row["aggregate"]))}


def _agreement(path: Path, rollouts: int, key, resamples: int) -> Agreement:
    """Rollouts go on from a whole prefix, so their labels are compared with "every step up to here is right"."""
    estimated = list(read_solutions(path / "monte_carlo_labels.jsonl"))
    first_error = {item.id: item.labels.first_error for item in read_solutions(path / "labels.jsonl")}
    exact = [[float(first_error[item.id] < 0 or step < first_error[item.id]) for step in range(len(item.solution.steps))]
             for item in estimated]
    return label_agreement([item.labels.values for item in estimated], exact,
                           [item.solution.problem.id for item in estimated], key, threshold=0.5,
                           thresholds=[k / rollouts for k in range(1, rollouts + 1)], resamples=resamples)


def _details(config: Quickstart, path: Path, table: BestOfN, steps: StepEvaluation, planted: StepEvaluation,
             agreement: Agreement, numbers: dict[str, Interval], problems: Sequence[Sequence[dict]]) -> ReportDetails:
    model, beam = config.model, config.beam
    searched = curves.interval_curve(f"beam {beam.beam_width} x {beam.expansions}", [numbers["beam_policy_tokens"].mean],
                                     [numbers["beam_at_8"]])
    by_tokens = tuple(curve for curve in curves.accuracy_curves(table, by_tokens=True) if curve.name != "oracle")
    return ReportDetails(
        title="jaxprm quickstart", introduction=INTRODUCTION,
        settings={"task": f"chains of {config.task.min_steps} to {config.task.max_steps} operations modulo "
                          f"{config.task.modulus}",
                  "models": f"policy and PRM: {model.layers} layers, width {model.width}",
                  "PRM": f"{config.objective}, {config.head.kind} head, {config.label_problems} problems x "
                         f"{config.label_samples} solutions of the policy and {config.careless_solutions} careless ones",
                  "test": f"{len(problems)} problems ({config.test_part} part) x {config.samples} solutions",
                  "solution score": f"{config.aggregation} over step scores"},
        accuracy_by_samples=curves.accuracy_curves(table), accuracy_by_tokens=(*by_tokens, searched),
        reliability=curves.reliability(steps), auroc_by_position=curves.position_curve(steps),
        planted_errors=curves.kind_bars(planted), confusion=curves.confusion(agreement),
        agreement_by_threshold=curves.agreement_curve(agreement),
        training=tuple(_training(path / f"train_{name}", title, metric, label) for name, title, metric, label in (
            ("policy", "Policy", "loss", "loss per token (nats)"),
            ("reward_model", "Reward model", "loss",
             "loss per token, language model's included (nats)" if config.label_tokens else "loss per step (nats)"))),
        rl_curves=tuple(_reinforcement(path, metric, title, label) for metric, title, label in (
            ("outcome", "Right answers of the sampled solutions", "fraction of solutions"),
            ("worst_step", "Reward of the worst step", "reward in [-1, 1]"), ("steps", "Length", "steps per solution"))),
        examples=_examples(problems))


def _training(directory: Path, title: str, metric: str, label: str) -> Panel:
    lines = read_metrics(directory / "metrics.jsonl")
    return Panel(title, "optimiser step", label, (Curve(metric, [line["step"] for line in lines],
                                                        [line[metric] for line in lines]),))


def _reinforcement(path: Path, metric: str, title: str, label: str) -> Panel:
    runs = []
    for variant in RL_VARIANTS:
        lines = read_metrics(path / "reinforce" / variant / "metrics.jsonl")
        runs.append(Curve(RL_NAMES[variant], [line["step"] for line in lines], [line[metric] for line in lines]))
    return Panel(title, "policy update", label, tuple(runs))


def _examples(problems: Sequence[Sequence[dict]]) -> tuple[ScoredSolution, ...]:
    """The first problems on which the most common answer is wrong and the PRM's choice right, both shown; if there are
    none, the first problems' choices."""
    found, plain = [], []
    for group in problems:
        scored = [row for row in group if row["scores"] is not None]
        answers = [row["final_answer"] for row in scored if row["final_answer"] is not None]
        if not answers:
            continue
        common = max(answers, key=lambda answer: (answers.count(answer), -answers.index(answer)))
        majority = next(row for row in scored if row["final_answer"] == common)
        chosen = max(scored, key=lambda row: row["aggregate"])
        plain.append(_scored(chosen, "chosen by the PRM"))
        if chosen["final_correct"] and not majority["final_correct"]:
            votes = f"the majority's answer ({answers.count(common)} of {len(group)})"
            found += [_scored(majority, votes), _scored(chosen, "chosen by the PRM")]
    return tuple(found[:_EXAMPLES] or plain[:_EXAMPLES])


def _scored(row: dict, title: str) -> ScoredSolution:
    labels = [None if label is None else float(label > 0) for label in row["labels"]]
    return ScoredSolution(row["problem"], tuple(row["steps"]), tuple(row["scores"]), tuple(labels), row["first_error"],
                          row["final_answer"], row["answer"], row["final_correct"], row["aggregate"], title)
