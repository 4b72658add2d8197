"""``jaxprm train``: a process reward model from step-labelled files.

Stages: load and split by problem, tokenizer, encode, train, evaluate on the held-out problems, save. Each can be
killed; the same command goes on and ends with the same numbers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from jaxprm.data.examples import Example, OverlongPolicy
from jaxprm.data.mixture import Part
from jaxprm.data.pipeline import StepDataset
from jaxprm.data.solutions import LoadCounts, SolutionFiles, label_statistics
from jaxprm.errors import InputError
from jaxprm.evaluation.results import number, to_json
from jaxprm.evaluation.steps import StepEvaluation, StepPredictions, evaluate_steps
from jaxprm.hub.directory import LoadedModel, load_language_model, load_reward_model, read_config, save_model
from jaxprm.metrics import best_threshold
from jaxprm.models.config import AttentionKernel, Dtype, Remat, TransformerConfig
from jaxprm.models.parameters import parameters, with_parameters
from jaxprm.models.reward_model import HeadConfig, RewardModel
from jaxprm.models.sharding import make_mesh
from jaxprm.models.transformer import LanguageModel
from jaxprm.pipelines import report
from jaxprm.pipelines.held_out import held_out_numbers
from jaxprm.pipelines.prm_recipe import (Recipe, check_recipe, head_of, is_implicit, is_plain, loss_of, probabilities,
                                         recipe_examples, scoring_model, untrained)
from jaxprm.pipelines.step_data import files_sha256, kept
from jaxprm.pipelines.train_data import (HeldOut, ReadSplit, TrainingData, describe, encode_split, in_words, read_split,
                                         stored_split)
from jaxprm.progress import Progress
from jaxprm.records import LabeledSolution, atomic_write
from jaxprm.reports.solutions import scored_solution
from jaxprm.run_directory import RunDirectory, config_sha256
from jaxprm.scoring.implicit import ImplicitModel
from jaxprm.scoring.scorer import StepScorer
from jaxprm.steps.format import StepEncoder, StepFormat
from jaxprm.steps.tokenizers import Tokenizer, load_tokenizer, train_sentencepiece
from jaxprm.training import ProfileWindow, TrainConfig, fit, on_one_device
from jaxprm.training.processes import first_process_first, share_of_rows


@dataclasses.dataclass(frozen=True)
class TrainPRM:
    """What to learn from, what to train, and how.

    Attributes:
      data: the labelled files, and what their ratings mean.
      model: architecture of a model from scratch. Its ``vocab_size`` is the size of the tokenizer that is trained.
      initial_model: model directory (reward or language model) to start from instead; architecture, tokenizer and step
        format come from there.
      dtype, remat, attention: how ``initial_model`` is computed, see `TransformerConfig`; None = as it was saved, with the
        attention kernel that runs everywhere. (With ``model`` they stand there.)
      tokenizer: tokenizer file or directory to use with ``model``; None trains one on the training problems.
      step_format: how text becomes tokens with ``model``; its ``neutral`` must be that of ``data``.
      head: what stands behind a step score.
      objective: one of `jaxprm.objectives.STEP_OBJECTIVES`.
      hyperparameters: of the objective, e.g. ``{"zeta": 4.0}`` for ``pqm_ranking``.
      encoded: folder for encoded training examples. The first run with these files, policies and tokenizer fills it, all
        later ones read it at random: nothing is tokenised twice, and the data may be larger than memory (held-out
        solutions and a count per distinct prefix do lie there). None = encode into memory. Needs a tokenizer that exists
        (``tokenizer`` or ``initial_model``), and a recipe that reads nothing but labels.
      recipe: what the objective reads beside the labels of steps, and how the model is kept.
      count_prefixes_once: whether a prefix that many rows share counts once, see `prefix_weights`.
      held_out: expected share of the problems that are kept from training for evaluation and for choosing a threshold.
      row_tokens, row_steps: size of a packed row; a solution must fit into one.
      batch_rows: rows per optimiser step.
      overlong: what to do with solutions that do not fit: "error", "drop", or "truncate" (keep the leading steps).
      training: how long, and the optimiser.
      seed: of initialisation and data order. The held-out problems do not depend on it.
      mesh: sizes of the mesh axes (data, fsdp, tensor), one of them -1 for the rest; None = one device.
    """

    data: SolutionFiles
    model: TransformerConfig | None = None
    initial_model: str | None = None
    dtype: Dtype | None = None
    remat: Remat | None = None
    attention: AttentionKernel | None = None
    tokenizer: str | None = None
    step_format: StepFormat | None = None
    head: HeadConfig = HeadConfig()
    objective: str = "binary_cross_entropy"
    hyperparameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    encoded: str | None = None
    recipe: Recipe = Recipe()
    count_prefixes_once: bool = True
    held_out: float = 0.1
    row_tokens: int = 512
    row_steps: int = 64
    batch_rows: int = 16
    overlong: OverlongPolicy = "error"
    training: TrainConfig = TrainConfig()
    seed: int = 0
    mesh: tuple[int, int, int] | None = None

    def __post_init__(self):
        if (self.model is None) == (self.initial_model is None):
            raise InputError("exactly one of model and initial_model must be set", field="model", value=self.model)
        for field in ("tokenizer", "step_format"):
            if self.initial_model is not None and getattr(self, field) is not None:
                raise InputError("comes from initial_model", field=field, value=getattr(self, field))
        for field, known in (("dtype", Dtype), ("remat", Remat), ("attention", AttentionKernel)):
            value = getattr(self, field)
            if value is not None and self.initial_model is None:
                raise InputError("says how initial_model is computed, but there is none", field=field, value=value,
                                 hint=f"set {field} of the model")
            if value is not None and value not in get_args(known):
                raise InputError(f"must be one of {', '.join(get_args(known))}", field=field, value=value)
        if self.encoded is not None and self.tokenizer is None and self.initial_model is None:
            raise InputError("needs a tokenizer that exists", field="encoded", value=self.encoded,
                             hint="set tokenizer, e.g. to RUN/tokenizer of an earlier run, or initial_model")
        if self.step_format is not None and self.step_format.neutral != self.data.neutral:
            raise InputError(f"step_format says {self.step_format.neutral}", field="data.neutral",
                             value=self.data.neutral, hint="a model reads ratings in one way: bind both to the same")
        check_recipe(self.objective, self.hyperparameters, self.head, self.recipe, initial_model=self.initial_model,
                     overlong=self.overlong)
        if self.encoded is not None and not is_plain(self.objective, self.head, self.recipe):
            raise InputError("holds single solutions with labels of steps; this recipe reads more", field="encoded",
                             value=self.encoded, hint="leave encoded unset")
        if not 0 <= self.held_out < 1:
            raise InputError("must be in [0, 1)", field="held_out", value=self.held_out)
        for field in ("row_tokens", "row_steps", "batch_rows"):
            if getattr(self, field) < 1:
                raise InputError("must be at least 1", field=field, value=getattr(self, field))
        if self.overlong not in ("error", "drop", "truncate"):
            raise InputError("must be one of error, drop, truncate", field="overlong", value=self.overlong)
        if self.model is not None and self.row_tokens > self.model.context:
            raise InputError(f"is more than the model's context {self.model.context}", field="row_tokens",
                             value=self.row_tokens)
        if not 0 <= self.seed < 2**32:
            raise InputError("must be in [0, 2**32)", field="seed", value=self.seed)


    def initial_architecture(self, saved: TransformerConfig) -> TransformerConfig:
        """The architecture that an initial model has in this run.

        Raises:
          InputError: a row is longer than its context, or the attention kernel does not suit it.
        """
        chosen = {field: getattr(self, field) for field in ("dtype", "remat", "attention") if getattr(self, field) is not None}
        architecture = dataclasses.replace(saved, **chosen)
        if architecture.context < self.row_tokens:
            raise InputError(f"is more than the initial model's context {architecture.context}", field="row_tokens",
                             value=self.row_tokens)
        return architecture


def run(config: TrainPRM, directory: RunDirectory, progress: Progress, profile: ProfileWindow | None = None) -> None:
    """Trains into a run directory: ``model/`` (see `jaxprm.hub`), ``metrics.jsonl``, ``results.json``, ``report.html``.

    Several processes (`jaxprm.runtime.join_processes`) call it together, on the same files: each reads its share of the rows
    of every batch, all evaluate the same, the first one writes. ``profile``: steps of training to trace.

    Raises:
      InputError: bad input, with file, row, field and value where they are known.
    """
    if directory.state == "finished":
        progress.log(f"{directory.path}: finished already")
        return
    mesh = None if config.mesh is None else make_mesh(*config.mesh)
    share, shares = share_of_rows(mesh)
    if config.batch_rows % shares:
        raise InputError(f"is not a multiple of the {shares} processes that share a batch", field="batch_rows",
                         value=config.batch_rows)
    shape = {"row_tokens": config.row_tokens, "row_steps": config.row_steps, "batch_rows": config.batch_rows // shares,
             "seed": config.seed, "overlong": config.overlong, "process_index": share, "process_count": shares}
    clock = _Clock(directory)
    with clock.stage("load"):
        files = files_sha256(config.data)
        split = read_split(config.data, config.held_out) if config.encoded is None else None
    if split is not None:
        progress.log(_read(split.counts, len(split.train), len(split.held_out)))
    with clock.stage("tokenizer"):
        model, encoder = _initial(config, directory.path / "tokenizer", [read.item for read in split.train] if split else [])
    with clock.stage("encode"):
        if split is not None:
            data = encode_split(split, encoder, config.data, config.count_prefixes_once)
        else:
            with first_process_first("encoded examples"):
                data = stored_split(Path(config.encoded), encoder, config.data, files, config.held_out,
                                    config.count_prefixes_once, progress)
            progress.log(_read(data.counts, sum(len(part.examples) for part in data.parts), len(data.held_out)))
        dataset = StepDataset(data.parts, **shape)
        held_out = data.fitting(config.row_tokens, config.row_steps, config.overlong)
        counts = describe(data, dataset, held_out, row_tokens=config.row_tokens, row_steps=config.row_steps,
                          batch_rows=config.batch_rows, steps=config.training.steps)
        if not is_plain(config.objective, config.head, config.recipe):
            dataset = StepDataset(_with_recipe(config, data, split, encoder, model, directory, progress), **shape)
    counts["held_out"] = dataclasses.asdict(label_statistics(held_out.items))
    directory.finish("data", **counts)
    progress.log(f"{counts['overlong']:,} solutions longer than a row: {counts['truncated']:,} cut, {counts['dropped']:,} left "
                 f"out, {counts['held_out_overlong']:,} not evaluated; one epoch is {counts['train_tokens']:,} tokens and "
                 f"{counts['train_weight']:,.0f} labels")
    for line in in_words(counts, config.row_tokens, config.row_steps):
        progress.log(line)

    identity = {"config": directory.config_sha256, "tokenizer": encoder.tokenizer.fingerprint,
                "data": config_sha256(files)}
    if shares > 1:  # each process keeps its own place in its own share of the data
        identity["shares"] = shares
    loss = loss_of(model, config.objective, config.hyperparameters, config.recipe)
    with clock.stage("train"):
        trained = fit(model, loss, dataset, config.training, directory.path, run=identity, name="train the PRM",
                      progress=progress, mesh=mesh,
                      evaluate=_evaluator(config, encoder, held_out, loss, model, directory, progress), profile=profile,
                      about={"config_text": directory.text, "step_format": json.dumps(dataclasses.asdict(encoder.format))})
        trained = with_parameters(trained, on_one_device(parameters(trained)))
        model = scoring_model(trained, model, config.objective, config.hyperparameters)
    with clock.stage("evaluate"):
        evaluation, threshold, scores = _evaluate(model, encoder, held_out, config.seed, progress)
    info = {"data": dataclasses.asdict(config.data) | {"sha256": files}, "counts": counts, "seed": config.seed,
            "objective": config.objective, "recipe": dataclasses.asdict(config.recipe),
            "config_sha256": directory.config_sha256, "held_out": config.held_out,
            "threshold": None if threshold is None else {"value": threshold, "chosen_on": report.HELD_OUT}}
    if jax.process_index():
        return  # the first process writes what all have computed
    save_model(directory.path / "model", model, encoder, info)
    _finish(directory, config, info, evaluation, held_out, scores, clock.seconds, progress)


_Trained = RewardModel | LanguageModel


def _initial(config: TrainPRM, place: Path, train: Sequence[LabeledSolution]) -> tuple[_Trained, StepEncoder]:
    """The untrained model and its encoder. The seed of the initial parameters is not that of the data order."""
    key = jax.random.fold_in(jax.random.key(config.seed), 1)

    def new(architecture: TransformerConfig, tokenizer: Tokenizer) -> _Trained:
        head = head_of(config.head, config.recipe, tokenizer)
        return untrained(architecture, config.objective, head, config.recipe, key)

    if config.initial_model is None:
        step_format = config.step_format or StepFormat(neutral=config.data.neutral)
        tokenizer = _tokenizer(config, step_format, place, train)
        if tokenizer.vocab_size > config.model.vocab_size:
            raise InputError(f"the tokenizer has {tokenizer.vocab_size} entries", field="model.vocab_size",
                             value=config.model.vocab_size)
        return new(config.model, tokenizer), StepEncoder(step_format, tokenizer)

    kind = read_config(config.initial_model).get("kind")
    loaded: LoadedModel = (load_language_model if kind == "language_model" else load_reward_model)(config.initial_model)
    architecture = config.initial_architecture(loaded.model.config)
    if is_implicit(config.objective) and kind != "language_model":
        raise InputError(f"{config.objective} starts from a language model", file=config.initial_model, field="kind",
                         value=kind)
    model, known = new(architecture, loaded.encoder.tokenizer), parameters(loaded.model)
    if kind != "language_model" and loaded.model.head.config != model.head.config:
        raise InputError(f"the initial model has a {loaded.model.head.config.kind} head", field="head.kind",
                         value=config.head.kind)
    # A language model brings its backbone, and its output matrix where that is kept; the step head starts at zero.
    values = {name: known.get(name, value) for name, value in parameters(model).items()}
    step_format = dataclasses.replace(loaded.encoder.format, neutral=config.data.neutral)
    return with_parameters(model, values), StepEncoder(step_format, loaded.encoder.tokenizer)


def _tokenizer(config: TrainPRM, step_format: StepFormat, place: Path, train: Sequence[LabeledSolution]) -> Tokenizer:
    if config.tokenizer is not None:
        return load_tokenizer(config.tokenizer)
    with first_process_first("tokenizer"):
        return _trained_tokenizer(config, step_format, place, train)


def _trained_tokenizer(config: TrainPRM, step_format: StepFormat, place: Path, train: Sequence[LabeledSolution]) -> Tokenizer:
    if place.is_dir():
        return load_tokenizer(place)
    # Each text once: a prefix that many rows repeat would fill the vocabulary with its phrases.
    prompts = dict.fromkeys(step_format.prompt_prefix + item.solution.problem.prompt + step_format.prompt_suffix
                            for item in train)
    steps = dict.fromkeys(step for item in train for step in item.solution.steps)
    symbols = ((step_format.separator,) if step_format.separator else ()) + config.recipe.label_marks
    tokenizer = train_sentencepiece([*prompts, *steps], config.model.vocab_size, symbols=symbols)
    temporary = place.with_name("tokenizer.tmp")
    temporary.mkdir(exist_ok=True)
    tokenizer.save(temporary)
    temporary.rename(place)
    return tokenizer


def _read(counts: LoadCounts, train: int, held_out: int) -> str:
    return (f"{counts.rows:,} rows, {counts.unlabeled:,} without a judged step, {counts.empty_steps:,} empty steps dropped; "
            f"{train:,} solutions to train on, {held_out:,} of other problems held out")


def _with_recipe(config: TrainPRM, data: TrainingData, split: ReadSplit, encoder: StepEncoder, model: _Trained,
                 directory: RunDirectory, progress: Progress) -> list[Part]:
    """The sources with what the objective reads beside labels; solutions that do not fit a row are left out first."""
    parts = []
    for index, part in enumerate(data.parts):
        items = [read.item for read in split.train if read.source == index]
        fits = np.array([config.overlong == "truncate" or len(example["tokens"]) <= config.row_tokens
                         and len(example["step_ends"]) <= config.row_steps for example in part.examples], bool)
        examples = _recipe(config, kept(part.examples, fits), kept(items, fits), encoder, model,
                           directory.path / "reference" / part.name, config.recipe, progress)
        parts.append(dataclasses.replace(part, examples=examples))
    return parts


def _recipe(config: TrainPRM, examples: Sequence[Example], items: Sequence[LabeledSolution], encoder: StepEncoder,
            model: _Trained, place: Path, recipe: Recipe, progress: Progress) -> list[Example]:
    # An implicit objective leaves a cache on disk, which the first process fills.
    implicit = is_implicit(config.objective)
    with first_process_first(f"reference {place.name}") if implicit else contextlib.nullcontext():
        return recipe_examples(examples, items, encoder, objective=config.objective, head=config.head, recipe=recipe,
                               row_tokens=config.row_tokens, row_steps=config.row_steps, seed=config.seed,
                               reference=model if implicit else None, place=place, progress=progress)


def _evaluator(config: TrainPRM, encoder: StepEncoder, held_out: HeldOut, loss, start: _Trained, directory: RunDirectory,
               progress: Progress):
    """What `fit` calls while it trains, if there is anything to evaluate."""
    if not held_out.items or not config.training.evaluate_every:
        return None
    examples = held_out.examples(config.count_prefixes_once)
    if not is_plain(config.objective, config.head, config.recipe):
        examples = _recipe(config, examples, held_out.items, encoder, start, directory.path / "reference" / "held out",
                           dataclasses.replace(config.recipe, window_share=0.0), progress)
    return held_out_numbers(
        lambda model: _scores(scoring_model(model, start, config.objective, config.hyperparameters), encoder, held_out),
        held_out.items, examples, loss, row_tokens=config.row_tokens, row_steps=config.row_steps,
        batch_rows=config.batch_rows)


def _scores(model: RewardModel | ImplicitModel, encoder: StepEncoder, held_out: HeldOut, on_batch=lambda count, tokens: None):
    """Scores in [0, 1] of the held-out solutions."""
    scorer = StepScorer(model, encoder)
    rows = [[row] for row in held_out.encoded]
    if scorer.encoder is not encoder:  # it reads rows of another form
        rows = [scorer.encode_rows(item.solution) for item in held_out.items]
    return probabilities(model, scorer.score_rows(rows, on_batch))


def _evaluate(model: RewardModel | ImplicitModel, encoder: StepEncoder, held_out: HeldOut, seed: int,
              progress: Progress) -> tuple[StepEvaluation | None, float | None, list[np.ndarray]]:
    """Scores of the held-out solutions, what they are worth, and the threshold that suits them best."""
    if not held_out.items:
        return None, None, []
    with progress.stage("evaluate held-out problems", len(held_out.items), "solutions") as stage:
        scores = _scores(model, encoder, held_out, lambda count, tokens: stage.advance(count, tokens=tokens))
    predictions = StepPredictions.from_solutions(held_out.items, scores)
    known = [row for row, first in enumerate(predictions.first_errors) if first is not None]
    threshold = best_threshold([scores[row] for row in known],
                               [predictions.first_errors[row] for row in known]) if known else None
    return evaluate_steps(predictions, (seed, 0)), threshold, scores


def _finish(directory: RunDirectory, config: TrainPRM, info: dict[str, Any], evaluation: StepEvaluation | None,
            held_out: HeldOut, scores: Sequence[np.ndarray], seconds: dict[str, float], progress: Progress) -> None:
    results: dict[str, Any] = {"counts": info["counts"], "threshold": info["threshold"]}
    if evaluation is not None:
        results |= {"step_auroc": number(evaluation.auroc), "ece": number(evaluation.ece),
                    "step_auroc_within_position": number(evaluation.auroc_within_position),
                    "first_error_f1": number(evaluation.first_error[0].f1), "held_out": to_json(evaluation)}
    results |= {"seconds": seconds, "seed": config.seed, "config_sha256": directory.config_sha256}
    with atomic_write(directory.results) as out:
        json.dump(results, out, indent=2, ensure_ascii=False, allow_nan=False)
        out.write("\n")

    # One solution per problem, the first ones with an error: chosen by the data's order, not by how well they look.
    shown: dict[str, int] = {}
    for row, item in enumerate(held_out.items):
        if item.labels.first_error not in (None, -1):
            shown.setdefault(item.solution.problem.prompt, row)
    examples = [scored_solution(held_out.items[row], scores[row].tolist()) for row in list(shown.values())[:8]]
    report.write_examples(directory.path, examples)
    report.write(directory)
    directory.finish_run()
    if evaluation is not None:
        auroc = evaluation.auroc
        progress.log(f"held-out step AUROC {auroc.mean:.3f} [{auroc.low:.3f}, {auroc.high:.3f}]")
    progress.log(f"model: {directory.path / 'model'}")


class _Clock:
    """Wall-clock seconds per stage, of the call that ended it first."""

    def __init__(self, directory: RunDirectory):
        self._directory = directory
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        if self._directory.finished(name) is None:
            self._directory.finish(name, seconds=round(time.monotonic() - start, 3))
        self.seconds[name] = self._directory.finished(name)["seconds"]
