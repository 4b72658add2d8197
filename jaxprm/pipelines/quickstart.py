"""The whole loop on the embedded task, in minutes on a laptop: policy, labels, reward model, search, RL, report.

    corpus  -> tokenizer, policy      a policy learns to solve chains of arithmetic from texts with misconceptions
    labels  -> reward model           its solutions are labelled step by step; a process reward model learns from them
    test    -> best-of-N, beam        held-out problems: what does the reward model buy, at which cost?
    reinforce                         the reward model's scores become step rewards for the policy

Each stage writes files into the run directory and is skipped if they are complete; a killed stage goes on from its last
checkpoint. The numbers and the report are computed from the files alone (`jaxprm.pipelines.quickstart_report`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxprm.data.examples import language_model_example, step_example
from jaxprm.data.pipeline import LanguageModelDataset, StepDataset
from jaxprm.errors import InputError
from jaxprm.generation.policy import LocalPolicy, SampledSolution
from jaxprm.generation.sampler import SamplingConfig
from jaxprm.hub.directory import load_language_model, load_reward_model, save_model
from jaxprm.labeling.monte_carlo import MonteCarloLabeler
from jaxprm.labeling.tokens import token_labels
from jaxprm.labeling.verifier import AfterError, VerifierLabeler
from jaxprm.models.config import TransformerConfig
from jaxprm.models.parameters import parameters, with_parameters
from jaxprm.models.reward_model import HeadConfig, RewardModel
from jaxprm.models.transformer import LanguageModel
from jaxprm.objectives import STEP_OBJECTIVES, accepts_outputs, outputs_in_words
from jaxprm.pipelines import quickstart_report
from jaxprm.progress import Progress
from jaxprm.records import LabeledSolution, Problem, Solution, read_solutions, to_row, write_rows, write_solutions
from jaxprm.rl.loop import ReinforceConfig, reinforce
from jaxprm.run_directory import RunDirectory
from jaxprm.scoring.aggregation import Aggregation, aggregate
from jaxprm.scoring.scorer import StepScorer
from jaxprm.search.engine import search
from jaxprm.search.result import chosen_ids
from jaxprm.search.strategies.beam import Beam
from jaxprm.steps.format import StepEncoder, StepFormat
from jaxprm.steps.tokenizers import load_tokenizer, train_sentencepiece
from jaxprm.tasks.arithmetic import ArithmeticTask
from jaxprm.tasks.base import Part
from jaxprm.tasks.misconceptions import Misconception, careless, derive
from jaxprm.training.loop import TrainConfig, fit
from jaxprm.training.losses import language_model_loss, step_loss, token_loss
from jaxprm.training.optimizer import OptimizerConfig

# Each stage draws its problems from its own part of the family: disjoint by construction (see `Part`).
PARTS = {"policy": Part("policy", 0.0, 0.4), "labels": Part("labels", 0.4, 0.6), "reinforce": Part("reinforce", 0.6, 0.75),
         "development": Part("development", 0.75, 0.85), "test": Part("test", 0.85, 1.0)}
# Settings were chosen while looking at earlier draws of the development and test parts; reports are on draws from here on.
TEST_START = 20_000
# Misread operators, at rates that make the wrong answer the majority's on many problems; slips of other kinds are rare.
MISCONCEPTIONS = (
    Misconception("wrong_operator", 0.65, "*", "large_value"), Misconception("wrong_operator", 0.40, "*", "small_value"),
    Misconception("wrong_operator", 0.25, "-", "large_value"),
    Misconception("dropped_step", 0.02), Misconception("repeated_step", 0.02),
    *(Misconception(kind, 0.003) for kind in ("off_by_one", "swapped_operand", "wrong_carry", "wrong_result", "wrong_answer")))
RL_VARIANTS = ("outcome", "sum_form", "min_form")


@dataclasses.dataclass(frozen=True)
class Quickstart:
    """Sizes of the quickstart. The problems of the stages never overlap, whatever the seed.

    Attributes:
      seed: everything random follows from it.
      task: the problem family.
      misconceptions: what the authors of the policy's training texts get wrong, and how often.
      test_part: where the reported problems come from: "test", or "development" for choosing settings.
      model: architecture of policy and reward model; ``vocab_size`` is the most pieces the tokenizer may have.
      step_format: how solutions are written and where steps are read.
      row_tokens, row_steps, batch_rows: shape of a training batch (rows are packed).
      corpus: solutions in the policy's training text.
      policy: its training.
      label_problems, label_samples: problems, and policy solutions of each, that the reward model learns from.
      careless_solutions, carelessness: solutions of careless authors that it learns from as well, and the rate of every kind
        of error in them. The policy makes few kinds of error, and a reward model that has seen only these learns where the
        policy errs instead of checking the steps.
      label_tokens: whether every token of a step is a lesson, not only its end: is the step right up to here?
      language_model_weight: with ``label_tokens``, how much the reward model goes on learning language (see `token_loss`).
      after_error: what a step behind the first error is labelled; "local" asks whether it follows from what stands before it,
        so that every step is a lesson in checking.
      head, objective: of the reward model; it starts from the policy's weights.
      reward_model, reward_batch_rows: its training, and the rows of its batches: many small updates teach it to check sooner
        than few large ones.
      monte_carlo_solutions, rollouts: solutions also labelled by rollouts, for comparison, and rollouts per step.
      test_problems, samples: problems of every reported number, and candidates for each.
      planted_problems: test problems whose reference solutions get one planted error of each kind.
      limit: most tokens of a solution.
      aggregation: solution score from step scores, wherever one is needed.
      beam: beam search; its rows should equal ``samples`` for equal budgets.
      search_steps, search_step_tokens: most levels of the search, and most tokens of a step.
      reinforce: policy-gradient training, run once per kind of credit.
      resamples: of the bootstrap behind every interval.
    """

    seed: int = 0
    task: ArithmeticTask = ArithmeticTask(min_steps=3, max_steps=6, modulus=7, largest_operand=6)
    misconceptions: tuple[Misconception, ...] = MISCONCEPTIONS
    test_part: str = "test"
    model: TransformerConfig = TransformerConfig(vocab_size=128, layers=3, context=160)
    step_format: StepFormat = StepFormat()
    row_tokens: int = 96
    row_steps: int = 96
    batch_rows: int = 32
    corpus: int = 40_000
    policy: TrainConfig = TrainConfig(steps=600, optimizer=OptimizerConfig(learning_rate=3e-3))
    label_problems: int = 2000
    label_samples: int = 6
    careless_solutions: int = 20_000
    carelessness: float = 0.08
    label_tokens: bool = True
    language_model_weight: float = 1.0
    after_error: AfterError = "local"
    head: HeadConfig = HeadConfig("scalar")
    objective: str = "binary_cross_entropy"
    reward_model: TrainConfig = TrainConfig(steps=3600, optimizer=OptimizerConfig(learning_rate=1.5e-3))
    reward_batch_rows: int = 16
    monte_carlo_solutions: int = 150
    rollouts: int = 8
    test_problems: int = 400
    samples: int = 8
    planted_problems: int = 100
    limit: int = 56
    aggregation: Aggregation = "min"
    beam: Beam = Beam(beam_width=2, expansions=4)
    search_steps: int = 9
    search_step_tokens: int = 12
    reinforce: ReinforceConfig = ReinforceConfig(updates=12, problems=24, max_steps=9, optimizer=OptimizerConfig(
        learning_rate=5e-4, weight_decay=0.0))
    resamples: int = 1000

    def __post_init__(self):
        for field in ("corpus", "label_problems", "label_samples", "careless_solutions", "monte_carlo_solutions", "rollouts",
                      "test_problems", "planted_problems", "limit", "search_steps", "search_step_tokens", "resamples"):
            if getattr(self, field) < 1:
                raise InputError("must be at least 1", field=field, value=getattr(self, field))
        if not 0.0 <= self.carelessness <= 1.0:
            raise InputError("must be a probability", field="carelessness", value=self.carelessness)
        if self.label_tokens and self.after_error != "local":
            raise InputError("needs after_error 'local': a token is judged by what stands before it", field="label_tokens",
                             value=self.label_tokens)
        if self.samples < 8:
            raise InputError("must be at least 8: the report compares ways of choosing at N = 8", field="samples",
                             value=self.samples)
        if self.test_part not in ("test", "development"):
            raise InputError("must be test or development", field="test_part", value=self.test_part)
        if self.objective not in STEP_OBJECTIVES:
            raise InputError(f"must be one of {', '.join(STEP_OBJECTIVES)}", field="objective", value=self.objective)
        if not accepts_outputs(self.objective, self.head.outputs):
            raise InputError(f"needs a head with {outputs_in_words(self.objective)} outputs, {self.head.kind} has "
                             f"{self.head.outputs}", field="objective", value=self.objective)


def run(config: Quickstart, run_directory: RunDirectory, progress: Progress) -> Path:
    """Runs whatever is not finished yet and returns the path of ``report.html``."""
    work = _Work(config, run_directory, progress)
    stages: list[tuple[str, Callable[[], dict]]] = [
        ("policy", work.train_policy), ("labels", work.label), ("monte_carlo", work.label_by_rollouts),
        ("reward_model", work.train_reward_model), ("candidates", work.sample_candidates),
        ("planted", work.plant_errors), ("beam", work.search)]
    stages += [(f"reinforce_{variant}", lambda variant=variant: work.reinforce(variant)) for variant in RL_VARIANTS]
    for name, stage in stages:
        if run_directory.finished(name) is None:
            start = time.monotonic()
            facts = stage()
            run_directory.finish(name, seconds=time.monotonic() - start, **facts)
    progress.log("computing intervals and drawing the report ...")
    start = time.monotonic()
    seconds = {name: run_directory.finished(name)["seconds"] for name, _ in stages}
    quickstart_report.write(config, run_directory, seconds)
    run_directory.finish("report", seconds=time.monotonic() - start)
    run_directory.finish_run()
    return run_directory.report


class _Work:
    """The stages; each reads the files of earlier ones and writes its own."""

    def __init__(self, config: Quickstart, run_directory: RunDirectory, progress: Progress):
        self.config, self.path, self.progress = config, run_directory.path, progress
        self.run = {"config_sha256": run_directory.config_sha256}
        self.key = jax.random.key(config.seed)
        self.labeler = VerifierLabeler(config.task, config.after_error)

    # -- shared pieces ------------------------------------------------------------------------------------------------

    def problems(self, part: str, count: int, start: int = 0) -> list[Problem]:
        """Problems of a part; the same for every call."""
        task = self.config.task
        return [task.sample((self.config.seed, place), PARTS[part]) for place in range(start, start + count)]

    def test_problems(self, count: int) -> list[Problem]:
        """The problems of every reported number."""
        return self.problems(self.config.test_part, count, TEST_START)

    def stage_key(self, name: str) -> jax.Array:
        return jax.random.fold_in(self.key, int.from_bytes(name.encode(), "big") % (2**31 - 1))

    def policy(self, directory: str = "policy", temperature: float = 1.0) -> LocalPolicy:
        loaded = load_language_model(self.path / directory)
        return LocalPolicy(loaded.model, loaded.encoder, limit=self.config.limit, sampling=SamplingConfig(temperature))

    def verify(self, problem: Problem, steps: tuple[str, ...]) -> bool:
        return self.config.task.judge(problem, steps).correct

    def sample(self, name: str, policy: LocalPolicy, problems: Sequence[Problem], n: int) -> list[list[SampledSolution]]:
        with self.progress.stage(name, len(problems), "problems") as stage:
            return policy.sample(self.stage_key(name), [problem.prompt for problem in problems], n,
                                 lambda done, tokens: stage.advance(done, tokens=tokens))

    def labelled(self, name: str, problems: Sequence[Problem],
                 samples: Sequence[Sequence[SampledSolution]]) -> list[LabeledSolution]:
        """Samples with exact labels. A solution that did not end has no answer; samples with an empty step are kept out."""
        task, labeler, items = self.config.task, self.labeler, []
        for problem, group in zip(problems, samples, strict=True):
            for place, sample in enumerate(group):
                if not sample.steps or not all(step.strip() for step in sample.steps):
                    continue
                verdicts = task.judge(problem, sample.steps)
                answer = verdicts.answer if sample.finished else None
                solution = Solution(problem, sample.steps, answer, verdicts.correct and sample.finished, "policy")
                items.append(LabeledSolution(f"{name}/{problem.id}/{place}", solution, labeler.label(verdicts)))
        return items

    def example(self, item: LabeledSolution, encoder: StepEncoder) -> dict:
        """Labels at the step ends, or at every token of the steps."""
        problem, steps = item.solution.problem, item.solution.steps
        if not self.config.label_tokens:
            return step_example(*encoder.encode(problem.prompt, steps), item.labels)
        ids, labels = encoder.encode_prompt(problem.prompt), []
        prompt = len(ids)
        for step, expected in zip(steps, self.config.task.expected_steps(problem, steps), strict=True):
            written = encoder.encode_step(step)
            ids += written
            labels += token_labels(written, None if expected is None else encoder.encode_step(expected))
        return step_example(ids, range(prompt, len(ids)), labels)

    # -- stages -------------------------------------------------------------------------------------------------------

    def train_policy(self) -> dict:
        """Tokenizer and policy, from texts of authors with misconceptions."""
        config = self.config
        problems = self.problems("policy", config.corpus)
        solutions = [derive((config.seed, 1, place), problem, config.misconceptions).solution
                     for place, problem in enumerate(problems)]
        encoder = self._tokenizer(solutions)
        examples = []
        for solution in solutions:
            completion = [token for step in solution.steps for token in encoder.encode_step(step)]
            completion[-1] = encoder.end_id  # the end token closes the last step
            examples.append(language_model_example(encoder.encode_prompt(solution.problem.prompt), completion))
        model_config = dataclasses.replace(config.model, vocab_size=encoder.tokenizer.vocab_size)
        model = LanguageModel(model_config, rngs=nnx.Rngs(config.seed))
        dataset = LanguageModelDataset(examples, row_tokens=config.row_tokens, batch_rows=config.batch_rows, seed=config.seed)
        model = fit(model, language_model_loss, dataset, config.policy, self.path / "train_policy", run=self.run,
                    name="train the policy", progress=self.progress)
        save_model(self.path / "policy", model, encoder, self.run)
        return {"corpus_right": float(np.mean([solution.correct for solution in solutions]))}

    def _tokenizer(self, solutions: Sequence[Solution]) -> StepEncoder:
        place = self.path / "tokenizer"
        if not place.is_dir():
            texts = [text for solution in solutions[:5000] for text in (solution.problem.prompt, *solution.steps)]
            tokenizer = train_sentencepiece(texts, self.config.model.vocab_size, symbols=[self.config.step_format.separator],
                                            byte_fallback=False)
            partial = self.path / "tokenizer.tmp"
            partial.mkdir(exist_ok=True)
            tokenizer.save(partial)
            partial.rename(place)
        return StepEncoder(self.config.step_format, load_tokenizer(place))

    def label(self) -> dict:
        """Solutions of the policy and of careless authors, with exact labels from the verifier."""
        config = self.config
        problems = self.problems("labels", config.label_problems)
        samples = self.sample("sample solutions to label", self.policy(), problems, config.label_samples)
        items = self.labelled("labels", problems, samples)
        careless_items = [self.careless_solution(place) for place in range(config.careless_solutions)]
        write_solutions(self.path / "labels.jsonl", items)
        write_solutions(self.path / "careless_labels.jsonl", careless_items)
        return {"solutions": len(items), "left_out": config.label_problems * config.label_samples - len(items),
                "right_steps": _share_right(items), "careless_solutions": len(careless_items),
                "careless_right_steps": _share_right(careless_items)}

    def careless_solution(self, place: int) -> LabeledSolution:
        """A solution with errors of any kind at any step, labelled."""
        config, authors = self.config, 64
        problem = config.task.sample((config.seed, 4, place), PARTS["labels"])
        author = careless(place % authors, config.carelessness)
        solution = derive((config.seed, 5, place), problem, author).solution
        labels = self.labeler.label(config.task.judge(problem, solution.steps))
        return LabeledSolution(f"careless/{place}", solution, labels)

    def plant(self, problem: Problem, kind: str, key: tuple[int, ...]) -> LabeledSolution | None:
        """The reference solution with one error of a kind at a random step, labelled; None if the kind fits no step."""
        task = self.config.task
        reference = task.solve(problem)
        for step in np.random.default_rng(key).permutation(len(reference)):
            steps = task.corrupt(key, problem, reference, kind, int(step))
            if steps is not None:
                verdicts = task.judge(problem, steps)
                solution = Solution(problem, steps, verdicts.answer, verdicts.correct, f"corruptor {kind}")
                name = "/".join(map(str, key))
                return LabeledSolution(f"planted/{name}", solution, self.labeler.label(verdicts))
        return None

    def label_by_rollouts(self) -> dict:
        """Monte-Carlo labels of some of the same solutions; what they agree on is computed with the report."""
        config = self.config
        every = max(1, config.label_problems * config.label_samples // config.monte_carlo_solutions)
        items = list(read_solutions(self.path / "labels.jsonl"))[::every][: config.monte_carlo_solutions]
        labeler = MonteCarloLabeler(self.policy(), self.verify, config.rollouts)
        solutions = [item.solution for item in items]
        with self.progress.stage("label by rollouts", None, "prefixes") as stage:
            labels = labeler(self.stage_key("monte_carlo"), [solution.problem for solution in solutions], solutions,
                             lambda done, tokens: stage.advance(done, tokens=tokens))
        write_solutions(self.path / "monte_carlo_labels.jsonl",
                        [dataclasses.replace(item, labels=label) for item, label in zip(items, labels, strict=True)])
        return {"rollouts": sum(label.cost["rollouts"] for label in labels),
                "policy_tokens": sum(label.cost["policy_tokens"] for label in labels)}

    def train_reward_model(self) -> dict:
        """The process reward model, from the exact labels; its backbone starts as the policy's."""
        config, policy = self.config, load_language_model(self.path / "policy")
        items = [item for name in ("labels", "careless_labels") for item in read_solutions(self.path / f"{name}.jsonl")]
        examples = [self.example(item, policy.encoder) for item in items]
        model = RewardModel(policy.model.config, config.head, rngs=nnx.Rngs(config.seed))
        start = {name: value for name, value in parameters(policy.model).items() if name.startswith("backbone.")}
        model = with_parameters(model, parameters(model) | start)
        dataset = StepDataset(examples, row_tokens=config.row_tokens, row_steps=config.row_steps,
                              batch_rows=config.reward_batch_rows, seed=config.seed, overlong="drop")
        objective = STEP_OBJECTIVES[config.objective]
        loss = token_loss(objective, config.language_model_weight) if config.label_tokens else step_loss(objective)
        model = fit(model, loss, dataset, config.reward_model, self.path / "train_reward_model", run=self.run,
                    name="train the reward model", progress=self.progress)
        save_model(self.path / "reward_model", model, policy.encoder, self.run)
        return {"examples": dataset.counts.whole, "too_long": dataset.counts.dropped}

    def sample_candidates(self) -> dict:
        """Candidates for the test problems, each step scored."""
        config = self.config
        problems = self.test_problems(config.test_problems)
        samples = self.sample("sample test solutions", self.policy(), problems, config.samples)
        loaded = load_reward_model(self.path / "reward_model")
        rows = self._score_all(StepScorer(loaded.model, loaded.encoder), problems, samples)
        write_rows(self.path / "candidates.jsonl", rows)
        return {"policy_tokens": sum(row["tokens"] for row in rows), "problems": len(problems)}

    def _score_all(self, scorer: StepScorer, problems: Sequence[Problem],
                   samples: Sequence[Sequence[SampledSolution]]) -> list[dict]:
        """One row per sample: its text, exact labels, step scores and aggregate. A sample without steps, or with an empty
        one, cannot be scored: it has no scores, aggregate 0 and no answer."""
        rows, scored = [], []
        for problem, group in zip(problems, samples, strict=True):
            for place, sample in enumerate(group):
                item = self.labelled("test", [problem], [[sample]])
                if item:
                    row = to_row(dataclasses.replace(item[0], id=f"test/{problem.id}/{place}"))
                    scored.append((len(rows), item[0].solution))
                else:
                    row = {"id": f"test/{problem.id}/{place}", "problem": problem.prompt, "steps": list(sample.steps),
                           "labels": None, "first_error": None, "answer": problem.answer, "final_answer": None,
                           "final_correct": False, "problem_id": problem.id}
                rows.append(row | {"tokens": len(sample.ids), "finished": sample.finished, "scores": None, "aggregate": 0.0})
        with self.progress.stage("score test solutions", len(scored), "solutions") as stage:
            scores = scorer.score([solution for _, solution in scored],
                                  lambda done, tokens: stage.advance(done, tokens=tokens))
        how = self.config.aggregation
        for (place, _), values in zip(scored, scores, strict=True):
            total = aggregate(values[None], np.ones((1, len(values)), bool), how)[0]
            rows[place] |= {"scores": values.tolist(), "aggregate": float(total)}
        return rows

    def plant_errors(self) -> dict:
        """Reference solutions of test problems with one error of each kind at a random step, scored."""
        config = self.config
        items = [(kind, self.plant(problem, kind, (config.seed, 3, place, number)))
                 for place, problem in enumerate(self.test_problems(config.planted_problems))
                 for number, kind in enumerate(config.task.kinds)]
        items = [(kind, item) for kind, item in items if item is not None]
        loaded = load_reward_model(self.path / "reward_model")
        scores = StepScorer(loaded.model, loaded.encoder).score([item.solution for _, item in items])
        write_rows(self.path / "planted.jsonl", [to_row(item) | {"planted_kind": kind, "scores": values.tolist()}
                                                 for (kind, item), values in zip(items, scores, strict=True)])
        return {"solutions": len(items)}

    def search(self) -> dict:
        """Step-level beam search on the same problems, compiled end to end, a batch of problems per call."""
        config = self.config
        problems = self.test_problems(config.test_problems)
        policy, loaded = self.policy(), load_reward_model(self.path / "reward_model")
        encoder = loaded.encoder
        tokens, lengths = policy.prompts([problem.prompt for problem in problems])
        at_once, rows, levels = 64, [], 0
        key = self.stage_key("beam")
        with self.progress.stage("beam search", len(problems), "problems") as stage:
            for start in range(0, len(problems), at_once):
                members = np.minimum(np.arange(start, start + at_once), len(problems) - 1)  # the last batch is filled up
                result = search(
                    policy.model, loaded.model, jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(members)),
                    tokens[members], lengths[members], config.beam, max_steps=config.search_steps,
                    max_step_tokens=config.search_step_tokens, aggregation=config.aggregation,
                    separator_id=encoder.separator_id, end_id=encoder.end_id, read_back=encoder.read_back)
                costs, levels = result.costs, max(levels, int(result.levels.max()))
                for place, problem in enumerate(problems[start : start + at_once]):
                    steps, _ = encoder.decode_steps(chosen_ids(result, place))
                    finished = bool(result.finished[place])
                    rows.append({"problem_id": problem.id, "problem": problem.prompt, "steps": list(steps),
                                 "finished": finished, "value": float(result.value[place]),
                                 "correct": finished and self.verify(problem, steps),
                                 "policy_tokens": int(costs.policy_tokens[place]),
                                 "reward_tokens": int(costs.reward_tokens[place])})
                stage.advance(min(at_once, len(problems) - start), tokens=int(costs.policy_tokens.sum()))
        write_rows(self.path / "beam.jsonl", rows)
        return {"levels": levels, "policy_tokens": sum(row["policy_tokens"] for row in rows)}

    def reinforce(self, variant: str) -> dict:
        """The policy improved with one kind of credit, and its samples on the test problems."""
        config = self.config
        directory = self.path / "reinforce" / variant
        policy, rewards = self.policy(), load_reward_model(self.path / "reward_model")
        settings = dataclasses.replace(config.reinforce, credit=variant, limit=config.limit)
        model = reinforce(policy.model, rewards.model, rewards.encoder,
                          lambda index: self.problems("reinforce", settings.problems, index * settings.problems),
                          self.verify, settings, directory, self.stage_key("reinforce"), run=self.run | {"credit": variant},
                          name=f"reinforce ({variant})", progress=self.progress)
        save_model(directory / "policy", model, rewards.encoder, self.run)
        problems = self.test_problems(config.test_problems)
        improved = LocalPolicy(model, rewards.encoder, limit=config.limit)
        samples = self.sample(f"sample after {variant}", improved, problems, config.samples)
        rows = self._score_all(StepScorer(rewards.model, rewards.encoder), problems, samples)
        write_rows(directory / "samples.jsonl", rows)
        return {"updates": settings.updates}


def _share_right(items: Sequence[LabeledSolution]) -> float:
    return float(np.mean([value for item in items for value in item.labels.values]))
