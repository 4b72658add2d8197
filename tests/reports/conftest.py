"""A made-up run in which a model finds planted errors with a known strength: results and details of the right form."""

import numpy as np
import pytest

from jaxprm.evaluation import Candidates, StepPredictions, best_of_n, build_results, evaluate_steps, label_agreement
from jaxprm.metrics import Interval
from jaxprm.reports import Curve, Panel, ReportDetails, ScoredSolution, from_evaluation

KINDS = ("wrong_operator", "off_by_one", "swapped_operand", "repeated_step", "carried_value")


def make_run(problems: int = 120, resamples: int = 100):
    """(results, details)"""
    rng = np.random.default_rng(0)
    difficulty = rng.beta(1.2, 1.8, (problems, 1))
    correct = rng.random((problems, 8)) < difficulty
    answers = np.where(correct, 0, 1 + rng.integers(0, 3, (problems, 8)) * (rng.random((problems, 1)) < 0.4))
    scores = 1 / (1 + np.exp(-(2.4 * (correct - 0.5) + rng.normal(0, 1, (problems, 8)))))
    tokens = rng.integers(28, 44, (problems, 8))
    pool = best_of_n(Candidates(answers.astype(str).tolist(), correct, scores, tokens), 0, resamples=resamples)

    rows, labels, first_errors, names, kinds = [], [], [], [], []
    for problem in range(2 * problems):
        steps = int(rng.integers(5, 9))
        first = int(rng.integers(0, steps)) if rng.random() < 0.6 else -1
        label = np.ones(steps) if first < 0 else (np.arange(steps) < first).astype(float)
        kind = int(rng.integers(0, len(KINDS)))
        strength = 5.0 - 0.7 * kind
        rows.append(1 / (1 + np.exp(-(strength * (label - 0.5) + rng.normal(0, 1.2, steps)))))
        labels.append(label.tolist())
        first_errors.append(first)
        names.append(str(problem // 2))
        kinds.append(KINDS[kind] if first >= 0 else None)
    steps = evaluate_steps(StepPredictions(rows, labels, first_errors, names, kinds), 0, resamples=resamples)
    rollouts = [[rng.binomial(8, 0.55 if right else 0.12) / 8 for right in label] for label in labels]
    agreement = label_agreement(rollouts, labels, names, 0, threshold=0.25, thresholds=np.arange(1, 9) / 8,
                                resamples=resamples)

    beam = Interval(0.79, 0.75, 0.83)
    numbers = {"pass_at_1": pool.at("pass@1", 8), "majority_at_8": pool.at("majority", 8),
               "prm_best_at_8": pool.at("PRM best", 8), "prm_weighted_at_8": pool.at("PRM weighted", 8),
               "beam_at_8": beam, "oracle_at_8": pool.at("oracle", 8),
               "prm_best_minus_majority_at_8": pool.difference("PRM best", "majority", 8),
               "step_auroc": steps.auroc, "step_auroc_within_position": steps.auroc_within_position,
               "first_error_f1": steps.first_error[0].f1, "ece": steps.ece, "mc_agreement": agreement.agreement}
    rl = {name: {"pass_at_1": Interval(p, p - 0.03, p + 0.03),
                 "mean_steps": Interval(length, length - 0.1, length + 0.1),
                 "repeated_steps": Interval(repeat, repeat * 0.7, repeat * 1.4)}
          for name, p, length, repeat in (("start", 0.39, 6.1, 0.01), ("outcome", 0.52, 6.0, 0.012),
                                          ("sum_form", 0.41, 8.9, 0.21), ("min_form", 0.61, 6.1, 0.011))}
    seconds = {"tokenizer": 1.3, "policy": 141.0, "rollouts and labels": 62.5, "reward model": 118.2, "search": 41.9,
               "reinforcement learning": 133.4, "report": 6.1}
    results = build_results(numbers, rl, seconds=seconds, seed=0, config_sha256="9f86d081" * 8)

    updates = np.arange(0, 1500, 25)
    loss = 0.25 + 2.0 * np.exp(-updates / 300) + 0.03 * rng.normal(size=len(updates))
    reward_loss = 0.12 + 0.5 * np.exp(-updates / 400) + 0.02 * rng.normal(size=len(updates))
    rl_steps = np.arange(0, 61, 5)
    rl_panels = tuple(
        Panel(title, "policy updates", unit, tuple(Curve(name, rl_steps, start + gain * (1 - np.exp(-rl_steps / 20)))
                                                   for name, start, gain in curves))
        for title, unit, curves in (
            ("pass@1 during reinforcement learning", "problems solved (training batch)",
             (("outcome", 0.39, 0.14), ("sum_form", 0.39, 0.03), ("min_form", 0.39, 0.23))),
            ("Solution length", "steps per solution",
             (("outcome", 6.1, -0.1), ("sum_form", 6.1, 2.9), ("min_form", 6.1, 0.0)))))
    shown = ("1) 7 + 5 = 2", "2) 2 * 3 = 5", "3) 5 - 2 = 3", "Answer: 3")
    examples = (
        ScoredSolution("Start 7 ; 1) + 5 ; 2) * 3 ; 3) - 2 (mod 10)", shown, (0.981, 0.112, 0.073, 0.041),
                       (1.0, 0.0, 0.0, 0.0), 1, "3", "4", False, 0.041, "Chosen by the majority"),
        ScoredSolution("Start 7 ; 1) + 5 ; 2) * 3 ; 3) - 2 (mod 10)",
                       ("1) 7 + 5 = 2", "2) 2 * 3 = 6", "3) 6 - 2 = 4", "Answer: 4"), (0.987, 0.953, 0.914, 0.932),
                       (1.0, 1.0, 1.0, 1.0), -1, "4", "4", True, 0.914, "Chosen by the reward model"),
        ScoredSolution("Is <script>alert('1')</script> a step?", ("<script>alert('x')</script>", "a & b < c"),
                       (0.5, 0.71), (None, 1.0), None, "<b>", None, None, 0.5, "Texts stay <i>texts</i>"),
        ScoredSolution("A long step", ("word " * 60 + "unbreakable" * 12, "short"), (0.33, None), None))
    details = ReportDetails(
        title="jaxprm quickstart",
        introduction="A policy learns multi-step arithmetic from texts that contain planted misconceptions, so it is "
        "fluent and often wrong. A process reward model then learns to check single steps, and is used to choose among "
        "samples, to guide a search, and to improve the policy.",
        settings={"task": "arithmetic modulo 10, 4–8 steps", "policy": "2 layers, width 128, 412 k parameters",
                  "reward model": "2 layers, width 128, scalar head, BCE", "held-out problems": "300, 8 samples each",
                  "machine": "2 CPU cores, jax 0.10.2"},
        accuracy_by_samples=(*from_evaluation.accuracy_curves(pool),
                             Curve("beam search", (8,), (0.79,), (0.75,), (0.83,))),
        accuracy_by_tokens=(*from_evaluation.accuracy_curves(pool, by_tokens=True),
                            Curve("beam search", (255.0,), (0.79,), (0.75,), (0.83,))),
        reliability=from_evaluation.reliability(steps),
        auroc_by_position=from_evaluation.position_curve(steps, minimum=5),
        planted_errors=from_evaluation.kind_bars(steps), confusion=from_evaluation.confusion(agreement),
        agreement_by_threshold=from_evaluation.agreement_curve(agreement),
        training=(Panel("Policy (supervised)", "updates", "loss (nats per token)", (Curve("train", updates, loss),)),
                  Panel("Reward model", "updates", "loss (nats per step)",
                        (Curve("train", updates, reward_loss),
                         Curve("held-out", updates[::4], reward_loss[::4] + 0.03)))),
        rl_curves=rl_panels, examples=examples)
    return results, details


@pytest.fixture(scope="session")
def example_run():
    return make_run()
