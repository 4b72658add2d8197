"""Labelled solutions of the embedded task for the objectives study: one policy, one set of solutions, three kinds of labels.

    OUT/policy/                a small language model trained on derivations with misconceptions; every PRM starts from it
    OUT/exact.jsonl            its solutions and those of careless authors, labelled by the task's verifier
    OUT/monte_carlo.jsonl      the same solutions, each step labelled with the share of the policy's rollouts that end well
    OUT/entropic.jsonl         these shares r as (1 / eta) log E exp(eta outcome), the soft labels of ER-PRM
    OUT/development.jsonl      candidates of the policy and of careless authors for problems on which settings may be chosen
    OUT/test.jsonl             as many for the problems of the reported numbers

Each file is written once; what is there already is kept.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import jax
from flax import nnx

from jaxprm.data.examples import language_model_example
from jaxprm.data.pipeline import LanguageModelDataset
from jaxprm.generation.policy import LocalPolicy
from jaxprm.hub import load_language_model, save_model
from jaxprm.labeling import MonteCarloLabeler, VerifierLabeler
from jaxprm.models import LanguageModel, TransformerConfig
from jaxprm.pipelines.quickstart import MISCONCEPTIONS
from jaxprm.records import LabeledSolution, Problem, Solution, StepLabels, read_solutions, write_solutions
from jaxprm.steps import StepEncoder, StepFormat, train_sentencepiece
from jaxprm.tasks.arithmetic import ArithmeticTask
from jaxprm.tasks.base import Part
from jaxprm.tasks.misconceptions import careless, derive
from jaxprm.training import OptimizerConfig, TrainConfig, fit, language_model_loss

SEED = 0
TASK = ArithmeticTask(min_steps=3, max_steps=5, modulus=5, largest_operand=4)
PARTS = {"policy": Part("policy", 0.0, 0.5), "train": Part("train", 0.5, 0.7), "development": Part("development", 0.7, 0.8),
         "test": Part("test", 0.8, 1.0)}
MODEL = TransformerConfig(vocab_size=128, width=64, layers=3, heads=4, kv_heads=4, head_dim=16, mlp_dim=192, context=288)
POLICY = TrainConfig(steps=1500, log_every=100, checkpoint_every=500, optimizer=OptimizerConfig(learning_rate=3e-3))
CORPUS, PROBLEMS, SAMPLES, CARELESS, CARELESSNESS = 20_000, 700, 6, 4, 0.1
CANDIDATES, TEST_PROBLEMS, DEVELOPMENT_PROBLEMS = 8, 250, 100
ROLLOUTS, ETA, LIMIT = 8, 2.0, 56


def prepare(out: Path, progress) -> None:
    """Makes what is missing."""
    if not (out / "policy").is_dir():
        _train_policy(out, progress)
    loaded = load_language_model(out / "policy")
    policy = LocalPolicy(loaded.model, loaded.encoder, limit=LIMIT)
    if not (out / "exact.jsonl").exists():
        problems = _problems("train", 2 * PROBLEMS)
        sampled = _sampled(policy, "train", problems[:PROBLEMS], SAMPLES, progress)
        write_solutions(out / "exact.jsonl", [*sampled, *_careless("train", problems[PROBLEMS:], 0)])
    if not (out / "monte_carlo.jsonl").exists():
        items = list(read_solutions(out / "exact.jsonl"))
        labeler = MonteCarloLabeler(policy, lambda problem, steps: TASK.judge(problem, steps).correct, ROLLOUTS)
        solutions = [item.solution for item in items]
        with progress.stage("label by rollouts", None, "prefixes") as stage:
            labels = labeler(jax.random.key(SEED + 3), [solution.problem for solution in solutions], solutions,
                             lambda count, tokens: stage.advance(count, tokens=tokens))
        write_solutions(out / "monte_carlo.jsonl", [dataclasses.replace(item, labels=_without_first_error(label))
                                                    for item, label in zip(items, labels)])
    if not (out / "entropic.jsonl").exists():
        items = list(read_solutions(out / "monte_carlo.jsonl"))
        labels = [dataclasses.replace(item.labels, values=tuple(map(entropic, item.labels.values))) for item in items]
        write_solutions(out / "entropic.jsonl", [dataclasses.replace(item, labels=label) for item, label in zip(items, labels)])
    for number, (part, count) in enumerate((("development", DEVELOPMENT_PROBLEMS), ("test", TEST_PROBLEMS)), 1):
        if not (out / f"{part}.jsonl").exists():
            problems = _problems(part, count)
            items = [*_sampled(policy, part, problems, CANDIDATES, progress, number), *_careless(part, problems, number)]
            write_solutions(out / f"{part}.jsonl", items)


def entropic(share: float) -> float:
    """ER-PRM's label from the share of rollouts that end well (outcomes 0 and 1)."""
    return math.log(1 - share + share * math.exp(ETA)) / ETA


def _without_first_error(labels: StepLabels) -> StepLabels:
    """"No rollout got there" says too little to call a step the first error."""
    return dataclasses.replace(labels, first_error=None)


def _problems(part: str, count: int) -> list[Problem]:
    """Different ones: a small family repeats itself."""
    found: dict[str, Problem] = {}
    place = 0
    while len(found) < count:
        problem = TASK.sample((SEED, place), PARTS[part])
        found.setdefault(problem.prompt, problem)
        place += 1
    return list(found.values())


def _train_policy(out: Path, progress) -> None:
    problems = [TASK.sample((SEED, 1, place), PARTS["policy"]) for place in range(CORPUS)]
    solutions = [derive((SEED, 2, place), problem, MISCONCEPTIONS).solution for place, problem in enumerate(problems)]
    texts = [text for solution in solutions[:5000] for text in (solution.problem.prompt, *solution.steps)]
    step_format = StepFormat()
    tokenizer = train_sentencepiece([*texts, "+ -"], MODEL.vocab_size, symbols=[step_format.separator], byte_fallback=False)
    encoder = StepEncoder(step_format, tokenizer)
    examples = []
    for solution in solutions:
        completion = [token for step in solution.steps for token in encoder.encode_step(step)]
        completion[-1] = encoder.end_id  # the end token closes the last step
        examples.append(language_model_example(encoder.encode_prompt(solution.problem.prompt), completion))
    model = LanguageModel(dataclasses.replace(MODEL, vocab_size=tokenizer.vocab_size), rngs=nnx.Rngs(SEED))
    dataset = LanguageModelDataset(examples, row_tokens=96, batch_rows=32, seed=SEED)
    model = fit(model, language_model_loss, dataset, POLICY, out / "train_policy", run={"study": "objectives"},
                name="train the policy", progress=progress)
    save_model(out / "policy", model, encoder, {"study": "objectives"})


def _labelled(name: str, problem: Problem, steps: tuple[str, ...], finished: bool, generator: str) -> LabeledSolution:
    """Exact labels up to the first error: what counts behind it differs between the objectives."""
    verdicts = TASK.judge(problem, steps)
    labels = VerifierLabeler(TASK, "ignore").label(verdicts)
    answer = verdicts.answer if finished else None
    return LabeledSolution(name, Solution(problem, steps, answer, verdicts.correct and finished, generator), labels)


def _sampled(policy: LocalPolicy, part: str, problems: Sequence[Problem], samples: int, progress,
             key: int = 0) -> list[LabeledSolution]:
    with progress.stage(f"sample {part} solutions", len(problems), "problems") as stage:
        found = policy.sample(jax.random.key(SEED + 10 + key), [problem.prompt for problem in problems], samples,
                              lambda count, tokens: stage.advance(count, tokens=tokens))
    return [_labelled(f"{part}/{number}/{place}", problem, sample.steps, sample.finished, "policy")
            for number, (problem, group) in enumerate(zip(problems, found)) for place, sample in enumerate(group)
            if sample.steps and all(step.strip() for step in sample.steps)]


def _careless(part: str, problems: Sequence[Problem], key: int) -> list[LabeledSolution]:
    """Several authors per problem, who err in every way: the policy makes few kinds of error."""
    items = []
    for number, problem in enumerate(problems):
        for author in range(CARELESS):
            place = number * CARELESS + author
            solution = derive((SEED, 3 + key, place), problem, careless(place % 64, CARELESSNESS)).solution
            items.append(_labelled(f"{part}/careless/{place}", problem, solution.steps, True, f"careless author {place % 64}"))
    return items
