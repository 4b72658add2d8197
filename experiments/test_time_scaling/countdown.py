"""Policy and reward models of the countdown half of the study: the quickstart's recipe on "reach 24".

    OUT/policy/            a small language model, from texts of authors of whom only some find the way
    OUT/reward_model-0/    starts from it; learns from its solutions and from careless ones, with exact labels of every token.
                           One per seed, which decides the solutions, the head and the order of the batches

The quickstart itself is about chains of arithmetic (its authors have misconceptions about operators); what the two families
share are the losses, the loop, the formats and the samplers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxprm.data.examples import language_model_example, step_example
from jaxprm.data.pipeline import LanguageModelDataset, StepDataset
from jaxprm.generation.policy import LocalPolicy
from jaxprm.hub import load_language_model, save_model
from jaxprm.labeling.tokens import token_labels
from jaxprm.models import HeadConfig, LanguageModel, RewardModel, TransformerConfig, parameters, with_parameters
from jaxprm.objectives import STEP_OBJECTIVES
from jaxprm.progress import Progress
from jaxprm.records import Problem
from jaxprm.steps import StepEncoder, StepFormat, train_sentencepiece
from jaxprm.tasks.base import Part
from jaxprm.tasks.countdown import CountdownTask
from jaxprm.tasks.countdown_corruptions import Ledger
from jaxprm.tasks.countdown_solver import State, moves, reachable
from jaxprm.tasks.countdown_text import parse_line, parse_prompt, render_claim, render_move
from jaxprm.training import OptimizerConfig, TrainConfig, fit, language_model_loss
from jaxprm.training.losses import token_loss

TASK = CountdownTask(numbers=4, target=24, smallest=1, largest=20)
PARTS = {"policy": Part("policy", 0.0, 0.4), "labels": Part("labels", 0.4, 0.75),
         "development": Part("development", 0.75, 0.85), "test": Part("test", 0.85, 1.0)}
MODEL = TransformerConfig(vocab_size=192, layers=3, context=256)
POLICY = TrainConfig(steps=700, optimizer=OptimizerConfig(learning_rate=3e-3))
REWARD_MODEL = TrainConfig(steps=300, log_every=50, optimizer=OptimizerConfig(learning_rate=1.5e-3))
PROBLEMS, CORPUS, SAMPLES, CARELESS, LIMIT = 1500, 24_000, 4, 16_000, 96
RIGHT, DEAD_END = 0.4, 0.4  # authors who find the way; who take a step that leads nowhere; the others err in other ways
ROW_TOKENS, POLICY_ROWS, REWARD_ROWS = 160, 20, 10


@functools.cache
def problems(part: str, count: int) -> tuple[Problem, ...]:
    """The first different ones of a part; the same for every seed."""
    found: dict[str, Problem] = {}
    place = 0
    while len(found) < count:
        problem = TASK.sample((0, place), PARTS[part])
        found.setdefault(problem.prompt, problem)
        place += 1
    return tuple(found.values())


def prepare(out: Path, seeds: Sequence[int], progress: Progress) -> None:
    """Trains what is missing."""
    if not (out / "policy").is_dir():
        _train_policy(out, progress)
    for seed in seeds:
        if not (out / f"reward_model-{seed}").is_dir():
            _train_reward_model(out, seed, progress)


def _written(key: tuple[int, ...], problem: Problem, right: float) -> tuple[str, ...]:
    """A solution by one of many authors."""
    rng, reference = np.random.default_rng(key), TASK.solve(problem)
    choice = rng.random()
    if choice < right:
        return reference
    dead_end = choice < right + DEAD_END * (1 - right) / (1 - RIGHT)
    kind = "dead_end" if dead_end else str(rng.choice([kind for kind in TASK.kinds if kind != "dead_end"]))
    step = int(rng.integers(len(reference) - 1 if dead_end else len(reference)))
    return TASK.corrupt(key, problem, reference, kind, step) or reference


def _train_policy(out: Path, progress: Progress) -> None:
    asked = problems("policy", PROBLEMS)
    texts = [(asked[place % len(asked)], _written((0, 1, place), asked[place % len(asked)], RIGHT))
             for place in range(CORPUS)]
    step_format = StepFormat()
    tokenizer = train_sentencepiece([text for problem, steps in texts[:5000] for text in (problem.prompt, *steps)],
                                    MODEL.vocab_size, symbols=[step_format.separator], byte_fallback=False)
    encoder = StepEncoder(step_format, tokenizer)
    examples = []
    for problem, steps in texts:
        completion = [token for step in steps for token in encoder.encode_step(step)]
        completion[-1] = encoder.end_id  # the end token closes the last step
        examples.append(language_model_example(encoder.encode_prompt(problem.prompt), completion))
    model = LanguageModel(dataclasses.replace(MODEL, vocab_size=tokenizer.vocab_size), rngs=nnx.Rngs(0))
    dataset = LanguageModelDataset(examples, row_tokens=ROW_TOKENS, batch_rows=POLICY_ROWS, seed=0)
    model = fit(model, language_model_loss, dataset, POLICY, out / "train_policy", run={"study": "test_time_scaling"},
                name="countdown: train the policy", progress=progress)
    save_model(out / "policy", model, encoder, {"study": "test_time_scaling"})


def _train_reward_model(out: Path, seed: int, progress: Progress) -> None:
    loaded = load_language_model(out / "policy")
    asked = problems("labels", PROBLEMS)
    policy = LocalPolicy(loaded.model, loaded.encoder, limit=LIMIT)
    sampled = policy.sample(jax.random.key(seed), [problem.prompt for problem in asked], SAMPLES)
    solutions = [(problem, sample.steps) for problem, group in zip(asked, sampled) for sample in group]
    solutions += [(asked[place % len(asked)], _written((seed, 2, place), asked[place % len(asked)], 0.2))
                  for place in range(CARELESS)]
    examples = [_example(problem, steps, loaded.encoder) for problem, steps in solutions
                if steps and all(step.strip() for step in steps)]
    model = RewardModel(loaded.model.config, HeadConfig("scalar"), rngs=nnx.Rngs(seed))
    start = {name: value for name, value in parameters(loaded.model).items() if name.startswith("backbone.")}
    model = with_parameters(model, parameters(model) | start)
    dataset = StepDataset(examples, row_tokens=ROW_TOKENS, row_steps=ROW_TOKENS, batch_rows=REWARD_ROWS, seed=seed,
                          overlong="drop")
    model = fit(model, token_loss(STEP_OBJECTIVES["binary_cross_entropy"], 1.0), dataset, REWARD_MODEL,
                out / f"train_reward_model-{seed}", run={"study": "test_time_scaling"},
                name=f"countdown {seed}: train the reward model", progress=progress)
    save_model(out / f"reward_model-{seed}", model, loaded.encoder, {"study": "test_time_scaling"})


def right_steps(problem: Problem, steps: Sequence[str]) -> tuple[str, ...]:
    """Every step after which the target can still be reached, or the answer where one number is left; none behind an error."""
    if not all(TASK.judge(problem, tuple(steps)).right):
        return ()
    ledger = Ledger.start(parse_prompt(problem.prompt)[0])
    for line in (parse_line(step, TASK.style) for step in steps):
        ledger = ledger.after(line) if hasattr(line, "remaining") else ledger
    return _right_moves(ledger.state) or (render_claim(ledger.answer(TASK.style), TASK.style),)


@functools.lru_cache(maxsize=1 << 16)
def _right_moves(state: State) -> tuple[str, ...]:
    return tuple(render_move(move, TASK.style) for move in moves(state) if reachable(move.remaining, TASK.target))


def _example(problem: Problem, steps: Sequence[str], encoder: StepEncoder) -> dict:
    """A label for every token: can the solution still be right? Nothing is right behind the first wrong step."""
    right = TASK.judge(problem, tuple(steps)).right
    ids, labels = encoder.encode_prompt(problem.prompt), []
    prompt = len(ids)
    for place, step in enumerate(steps):
        written = encoder.encode_step(step)
        ids += written
        if all(right[: place + 1]):
            labels += [1.0] * len(written)
        elif all(right[:place]):
            expected = [encoder.encode_step(text) for text in right_steps(problem, steps[:place])]
            labels += max((token_labels(written, one) for one in expected), key=sum)
        else:
            labels += [0.0] * len(written)
    return step_example(ids, range(prompt, len(ids)), labels)
