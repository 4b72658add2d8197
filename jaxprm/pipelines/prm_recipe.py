"""Which model, which examples and which loss an objective needs: what differs between the PRMs of the literature."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxprm.data.bundles import bundle_siblings, two_readings
from jaxprm.data.examples import Example, step_example
from jaxprm.data.windows import merged_windows
from jaxprm.errors import InputError
from jaxprm.models.config import TransformerConfig
from jaxprm.models.parameters import parameters
from jaxprm.models.reward_model import HeadConfig, PolicyRewardModel, RewardModel
from jaxprm.models.transformer import LanguageModel
from jaxprm.objectives import STEP_OBJECTIVES, accepts_outputs, outputs_in_words
from jaxprm.progress import Progress
from jaxprm.records import LabeledSolution
from jaxprm.scoring.implicit import ImplicitModel
from jaxprm.steps.format import StepEncoder
from jaxprm.steps.tokenizers import Tokenizer
from jaxprm.training.implicit import reference_log_probs, with_reference
from jaxprm.training.losses import LossFunction, implicit_loss, step_loss

_NOT_HYPERPARAMETERS = ("weights", "segments", "groups", "distance")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What an objective reads beside the labels of steps.

    Attributes:
      labels: "steps", or "outcome": every step is labelled with whether its solution's answer is right.
      siblings: which steps are compared by an objective that compares: those of one "solution" (or row: what the objective does
        by itself), of one "problem", or those that continue one "prefix" (the same problem and steps so far). The solutions of
        a problem then share rows.
      language_model_weight: of the cross-entropy of the tokens of right steps, see `step_loss`.
      value_weight: for a head with reward and value: weight of the value's loss, whose labels are the outcome; see `step_loss`.
      label_marks: for a head of kind lm_rows: the two tokens (wrong, right) whose rows it reads.
      window_share: share of the solutions of which a copy with two steps merged is learnt too, see `merged_windows`.
      keep_policy: keep the output matrix, so that the model stays a policy as well (`PolicyRewardModel`).
      backbone_gradient: factor on the gradient that the objective sends into the backbone, see `step_loss`.
    """

    labels: Literal["steps", "outcome"] = "steps"
    siblings: Literal["solution", "problem", "prefix"] = "solution"
    language_model_weight: float = 0.0
    value_weight: float | None = None
    label_marks: tuple[str, ...] = ()
    window_share: float = 0.0
    keep_policy: bool = False
    backbone_gradient: float = 1.0

    def __post_init__(self):
        if self.labels not in ("steps", "outcome"):
            raise InputError("must be one of steps, outcome", field="labels", value=self.labels)
        if self.siblings not in ("solution", "problem", "prefix"):
            raise InputError("must be one of solution, problem, prefix", field="siblings", value=self.siblings)
        for field in ("language_model_weight", "value_weight"):
            if (getattr(self, field) or 0) < 0:
                raise InputError("must not be negative", field=field, value=getattr(self, field))
        if self.label_marks and (len(self.label_marks) != 2 or self.label_marks[0] == self.label_marks[1]):
            raise InputError("must be two tokens, wrong before right", field="label_marks", value=self.label_marks)
        for field in ("window_share", "backbone_gradient"):
            if not 0 <= getattr(self, field) <= 1:
                raise InputError("must be in [0, 1]", field=field, value=getattr(self, field))


def is_implicit(objective: str) -> bool:
    """Whether an objective trains a language model against a reference instead of a head."""
    return objective.startswith("implicit_")


def is_plain(objective: str, head: HeadConfig, recipe: Recipe) -> bool:
    """Whether training reads nothing but single solutions with the labels of their steps."""
    plain = dataclasses.replace(recipe, label_marks=(), keep_policy=False, backbone_gradient=1.0)
    return plain == Recipe() and head.direction == "forward" and not is_implicit(objective)


def check_recipe(objective: str, hyperparameters: Mapping[str, Any], head: HeadConfig, recipe: Recipe, *,
                 initial_model: str | None, overlong: str) -> None:
    """Raises InputError where objective, head and recipe do not belong together; fields are those of `TrainPRM`."""
    if objective not in STEP_OBJECTIVES:
        raise InputError(f"must be one of {', '.join(STEP_OBJECTIVES)}", field="objective", value=objective)
    keywords = {name for name, parameter in inspect.signature(STEP_OBJECTIVES[objective]).parameters.items()
                if parameter.kind is parameter.KEYWORD_ONLY}
    known = sorted(keywords - set(_NOT_HYPERPARAMETERS))
    for name in hyperparameters:
        if name not in known:
            raise InputError(f"is not a hyperparameter of {objective} (known: {', '.join(known) or 'none'})",
                             field="hyperparameters", value=name)
    implicit = is_implicit(objective)
    if not implicit:
        _check_head(objective, head, recipe)
    else:
        if initial_model is None:
            raise InputError(f"{objective} needs the language model that it starts from, its reference", field="initial_model",
                             value=None)
        if head != HeadConfig():
            raise InputError(f"{objective} trains a language model, which has no head", field="head.kind", value=head.kind)
        for field in ("language_model_weight", "window_share", "keep_policy", "backbone_gradient"):
            if getattr(recipe, field) != getattr(Recipe(), field):
                raise InputError(f"is of no use to {objective}", field=f"recipe.{field}", value=getattr(recipe, field))
        if recipe.labels != "outcome":
            raise InputError(f"must be outcome: {objective} learns from whole responses", field="recipe.labels",
                             value=recipe.labels)
    if recipe.siblings != "solution" and "groups" not in keywords:
        raise InputError(f"must be solution: {objective} compares no siblings", field="recipe.siblings", value=recipe.siblings)
    if implicit and "groups" in keywords and recipe.siblings != "problem":
        raise InputError(f"must be problem: {objective} compares responses to one problem", field="recipe.siblings",
                         value=recipe.siblings)
    if overlong == "truncate" and (recipe.siblings != "solution" or head.direction != "forward" or implicit):
        raise InputError("must be error or drop: a cut solution has another outcome, and no other direction or siblings",
                         field="overlong", value=overlong)


def _check_head(objective: str, head: HeadConfig, recipe: Recipe) -> None:
    count = head.outputs
    if (recipe.value_weight is None) != (head.kind != "two_head"):
        raise InputError("goes with a head of kind two_head, and only with it", field="recipe.value_weight",
                         value=recipe.value_weight)
    if head.kind == "two_head":
        count = 1  # the objective reads one of them at a time
    if not accepts_outputs(objective, count):
        raise InputError(f"{objective} reads {outputs_in_words(objective)} output(s) per step, this head has {head.outputs}",
                         field="head.kind", value=head.kind)
    for kind, name in (("quantile", "quantile"), ("buffer", "buffer_cross_entropy"), ("ensemble", "ensemble_anchor")):
        if (objective == name) != (head.kind == kind):
            raise InputError(f"a {kind} head and {name} belong together", field="head.kind", value=head.kind)
    if (head.kind == "lm_rows") != bool(recipe.label_marks or head.rows):
        raise InputError("names the two rows which a head of kind lm_rows reads, and only such a head",
                         field="recipe.label_marks", value=recipe.label_marks)
    if recipe.label_marks and head.rows:
        raise InputError("come from recipe.label_marks", field="head.rows", value=head.rows)
    if head.direction != "forward" and recipe.language_model_weight:
        raise InputError("must be 0: backwards there is no next step to predict", field="recipe.language_model_weight",
                         value=recipe.language_model_weight)


def head_of(head: HeadConfig, recipe: Recipe, tokenizer: Tokenizer) -> HeadConfig:
    """The head with the rows of its label marks.

    Raises:
      InputError: a mark is not one token.
    """
    if not recipe.label_marks:
        return head
    rows = tuple(tokenizer.token_id(mark) for mark in recipe.label_marks)
    for mark, row in zip(recipe.label_marks, rows):
        if row is None:
            raise InputError("is not one token of the tokenizer", field="recipe.label_marks", value=mark)
    return dataclasses.replace(head, rows=rows)


def untrained(architecture: TransformerConfig, objective: str, head: HeadConfig, recipe: Recipe,
              key: jax.Array) -> RewardModel | LanguageModel:
    """A new model of the class that the objective trains, in one compilation."""
    if is_implicit(objective):
        return jax.jit(lambda key: LanguageModel(architecture, rngs=nnx.Rngs(params=key)))(key)
    kind = PolicyRewardModel if recipe.keep_policy else RewardModel
    return jax.jit(lambda key: kind(architecture, head, rngs=nnx.Rngs(params=key)))(key)


def loss_of(model: RewardModel | LanguageModel, objective: str, hyperparameters: Mapping[str, Any],
            recipe: Recipe) -> LossFunction:
    """The loss that trains ``model``, which holds the initial parameters."""
    function = STEP_OBJECTIVES[objective]
    if is_implicit(objective):
        return implicit_loss(function, **hyperparameters)
    hyperparameters, anchor = dict(hyperparameters), None
    if objective == "ensemble_anchor":
        # A copy: the trainer gives the parameters themselves away.
        anchor = {name: jnp.array(value) for name, value in parameters(model).items() if name.startswith("head.")}
    if objective == "quantile":
        hyperparameters.setdefault("levels", model.head.config.levels)
    return step_loss(function, language_model=recipe.language_model_weight, value_weight=recipe.value_weight, anchor=anchor,
                     backbone_gradient=recipe.backbone_gradient, **hyperparameters)


def scoring_model(model: RewardModel | LanguageModel, start: RewardModel | LanguageModel, objective: str,
                  hyperparameters: Mapping[str, Any]) -> RewardModel | ImplicitModel:
    """What scores steps after training: the model itself, or policy and reference, read with the beta of training."""
    if not is_implicit(objective):
        return model
    default = inspect.signature(STEP_OBJECTIVES[objective]).parameters["beta"].default
    return ImplicitModel(model, start, float(hyperparameters.get("beta", default)))


def probabilities(model: RewardModel | ImplicitModel, scores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Scores in [0, 1] in the same order, for metrics: the sigmoid of values and log-ratios, differences moved."""
    if isinstance(model, ImplicitModel) or model.head.config.kind == "value":
        return [(1 / (1 + np.exp(-np.clip(row.astype(np.float64), -60, 60)))).astype(np.float32) for row in scores]
    if model.head.config.kind == "difference":
        return [(row + 1) / 2 for row in scores]
    return list(scores)


def more_columns(objective: str, head: HeadConfig, recipe: Recipe) -> list[str]:
    """The columns that `recipe_examples` adds to those that every step example has."""
    implicit = is_implicit(objective)
    wanted = {"values": recipe.value_weight is not None, "step_starts": recipe.language_model_weight or implicit,
              "reference": implicit, "partners": head.direction != "forward", "groups": recipe.siblings != "solution"}
    return [name for name, is_wanted in wanted.items() if is_wanted]


def recipe_examples(examples: Sequence[Example], items: Sequence[LabeledSolution], encoder: StepEncoder, *, objective: str,
                    head: HeadConfig, recipe: Recipe, row_tokens: int, row_steps: int, seed: int,
                    reference: LanguageModel | None, place: Path, progress: Progress,
                    numbers: dict[Any, int] | None = None) -> list[Example]:
    """Examples with the columns, copies and bundles that the objective reads.

    Args:
      examples: one per solution, with labels and weights of its steps.
      items: the solutions.
      encoder, objective, head, recipe: what the examples are for.
      row_tokens, row_steps: size of a row; bundles fit.
      seed: of the choice of windows.
      reference: the language model that an implicit objective is trained against.
      place: folder for the cache of its log-probabilities.
      progress: to report to.
      numbers: of the groups so far, where several parts are read into one data set; it is added to.
    """
    if is_plain(objective, head, recipe):
        return list(examples)
    examples, items = [dict(example) for example in examples], list(items)
    for index, window in merged_windows(items, recipe.window_share, (seed, 7)) if recipe.window_share else ():
        example = step_example(*encoder.encode(window.solution.problem.prompt, window.solution.steps), window.labels)
        if len(example["tokens"]) <= row_tokens:
            weight = examples[index]["weights"][int(np.argmax(example["label_mask"])) + 1]
            examples.append(example | {"weights": np.full_like(example["weights"], weight)})
            items.append(window)
    outcomes = [item.solution.correct for item in items]
    if recipe.labels == "outcome":
        examples = [_copied(example, "labels", outcome) for example, outcome in zip(examples, outcomes)]
    if recipe.value_weight is not None:
        if None in outcomes:
            raise InputError("is not known for every solution", field="final_correct", value=None,
                             hint="a value is learnt from outcomes: leave solutions without one out")
        examples = [_copied(example, "values", outcome) for example, outcome in zip(examples, outcomes)]
    if not any(example["label_mask"].any() for example in examples):
        raise InputError("no step is labelled", field="recipe.labels", value=recipe.labels,
                         hint="outcomes need final_correct in the files")
    if recipe.language_model_weight or is_implicit(objective):
        examples = [example | {"step_starts": _starts(example, len(encoder.encode_prompt(item.solution.problem.prompt)))}
                    for example, item in zip(examples, items)]
    if reference is not None:
        with progress.stage("log-probabilities of the reference", len(examples), "solutions") as stage:
            sums = reference_log_probs(reference, examples, place,
                                       on_batch=lambda count, tokens: stage.advance(count, tokens=tokens))
        examples = with_reference(examples, sums)
    if head.direction != "forward":
        backward = [encoder.encode(item.solution.problem.prompt, item.solution.steps[::-1]) for item in items]
        return [two_readings(example, *other) for example, other in zip(examples, backward)]
    if recipe.siblings == "solution":
        return examples
    problems = [item.solution.problem.prompt for item in items]
    numbers = {} if numbers is None else numbers
    for example, item in zip(examples, items):
        names = _prefixes(item) if recipe.siblings == "prefix" else [item.solution.problem.prompt] * len(item.solution.steps)
        example["groups"] = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int32)
    return bundle_siblings(examples, problems, row_tokens, row_steps)


def _copied(example: Example, column: str, outcome: bool | None) -> Example:
    """The example with its outcome in every entry of a column; as labels, they count where the outcome is known."""
    copied = example | {column: np.full_like(example["labels"], bool(outcome))}
    if column == "labels":
        copied["label_mask"] = np.full_like(example["label_mask"], outcome is not None)
    return copied


def _starts(example: Example, prompt: int) -> np.ndarray:
    """First token of each step: behind the prompt, then behind where the step before is read."""
    return np.append(prompt, example["step_ends"][:-1] + 1).astype(np.int32)


def _prefixes(item: LabeledSolution) -> list[bytes]:
    """What each step continues: the problem and the steps before it."""
    digest = hashlib.blake2b(item.solution.problem.prompt.encode(), digest_size=16)
    prefixes = []
    for step in item.solution.steps:
        prefixes.append(digest.digest())
        digest.update(b"\x1e" + step.encode())
    return prefixes
