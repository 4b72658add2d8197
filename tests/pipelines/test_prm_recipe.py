"""Recipes: which examples, model and loss an objective gets, and what does not go together."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxprm.cli.config import resolve, shipped_configs
from jaxprm.data.pipeline import StepDataset
from jaxprm.errors import InputError
from jaxprm.hub import load_language_model, load_reward_model
from jaxprm.models import HeadConfig, PolicyRewardModel, RewardModel, parameters
from jaxprm.objectives import STEP_OBJECTIVES
from jaxprm.pipelines.plan import Setup
from jaxprm.pipelines.prm_recipe import Recipe, is_implicit, loss_of, recipe_examples
from jaxprm.data.examples import step_example
from jaxprm.progress import SilentProgress
from jaxprm.records import LabeledSolution, Problem, Solution, StepLabels
from jaxprm.steps import StepEncoder, StepFormat, train_sentencepiece
from jaxprm.testing import tiny_config
from jaxprm.testing.models import random_model
from jaxprm.models import LanguageModel
from flax import nnx

ENCODER = StepEncoder(StepFormat(separator="<step>"), train_sentencepiece(["so we have 3 - 4 + 5 oops", "Add 1 and 2 ."], 290,
                                                                          symbols=("<step>",)))


def item(problem, steps, labels, correct):
    problem = Problem(problem, problem, "5")
    return LabeledSolution(f"{problem.id}/{steps}", Solution(problem, steps, "5" if correct else "4", correct, "g"),
                           StepLabels(labels, None, "me"))


ITEMS = [item("Add 1", ("so", "we", "have"), (1.0, None, 0.0), False), item("Add 2", ("so",), (1.0,), True),
         item("Add 1", ("so", "oops"), (1.0, 0.0), False), item("Add 1", ("so", "we"), (1.0, 1.0), True)]


def made(objective="binary_cross_entropy", head=HeadConfig(), reference=None, place=Path("unused"), items=ITEMS, **recipe):
    plain = [step_example(*ENCODER.encode(one.solution.problem.prompt, one.solution.steps), one.labels) for one in items]
    return recipe_examples(plain, items, ENCODER, objective=objective, head=head, recipe=Recipe(**recipe), row_tokens=64,
                           row_steps=6, seed=0, reference=reference, place=place, progress=SilentProgress())


def test_outcomes_are_copied_to_every_step():
    examples = made(labels="outcome")
    assert [example["labels"].tolist() for example in examples] == [[0, 0, 0], [1], [0, 0], [1, 1]]
    assert all(example["label_mask"].all() for example in examples)
    unknown = dataclasses.replace(ITEMS[1], solution=dataclasses.replace(ITEMS[1].solution, correct=None))
    assert not made(items=[ITEMS[0], unknown], labels="outcome")[1]["label_mask"].any()
    with pytest.raises(InputError, match="field 'recipe.labels' = 'outcome': no step is labelled; outcomes need final_correct"):
        made(items=[unknown], labels="outcome")


def test_reward_keeps_its_labels_beside_the_value():
    examples = made(head=HeadConfig("two_head"), value_weight=1.0)
    assert [example["values"].tolist() for example in examples] == [[0, 0, 0], [1], [0, 0], [1, 1]]
    assert examples[0]["label_mask"].tolist() == [True, False, True]


def test_siblings_continue_the_same_prefix():
    bundles = made(siblings="prefix", objective="pairwise_ranking")
    groups = [tuple(bundle["groups"].tolist()) for bundle in bundles]  # six steps per row: 3 + 2, then 2
    # "Add 1": so we have | so oops | so we.  Groups: of the problem, behind "so", behind "so we".
    first = next(group for group in groups if len(group) == 5)
    start, so, so_we = first[:3]
    assert len({start, so, so_we}) == 3 and first == (start, so, so_we, start, so)
    assert (start, so) in groups
    (other,) = next(group for group in groups if len(group) == 1)
    assert other not in first
    by_problem = made(siblings="problem", objective="pairwise_ranking")
    assert sorted({len(set(bundle["groups"].tolist())) for bundle in by_problem}) == [1]


def test_a_row_too_small_for_all_siblings_keeps_them_apart():
    bundles = made(siblings="problem", objective="pairwise_ranking")  # six steps per row: 3 + 2, then 2
    assert sorted(len(bundle["step_ends"]) for bundle in bundles) == [1, 2, 5]
    assert len({bundle["groups"][0] for bundle in bundles}) == 2


def test_windows_are_added_with_the_weight_of_their_step():
    examples = made(window_share=1.0)
    assert len(examples) == len(ITEMS) + 3  # a solution of one step has none
    for example in examples[len(ITEMS) :]:
        assert example["label_mask"].sum() == 1 and (example["weights"] == 1).all()


def test_implicit_examples_bring_the_reference(tmp_path):
    config = tiny_config(vocab_size=ENCODER.tokenizer.vocab_size)
    reference = random_model(lambda: LanguageModel(config, rngs=nnx.Rngs(0)), 1)
    examples = made("implicit_cross_entropy", labels="outcome", reference=reference, place=tmp_path / "cache")
    for example, one in zip(examples, ITEMS):
        prompt = len(ENCODER.encode_prompt(one.solution.problem.prompt))
        assert example["step_starts"].tolist() == [prompt, *(example["step_ends"][:-1] + 1)]
        assert example["reference"].shape == example["step_ends"].shape and (example["reference"] < 0).all()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_both_directions_share_a_row():
    examples = made(head=HeadConfig(direction="mean"))
    (batch,) = StepDataset(examples, row_tokens=128, row_steps=32, batch_rows=1, seed=None, epochs=1)
    assert batch["label_mask"].sum() == 7 and batch["step_mask"].sum() == 16 and batch["segment_ids"].max() == 8
    ids, ends = ENCODER.encode("Add 1", ("have", "we", "so"))
    rows = [batch["tokens"][0][batch["segment_ids"][0] == segment].tolist() for segment in range(1, 9)]
    assert ids in rows


@pytest.mark.parametrize(("fields", "message"), [
    ({"objective": "implicit_x"}, "field 'objective' = 'implicit_x': must be one of"),
    ({"recipe": Recipe(siblings="problem")}, "field 'recipe.siblings' = 'problem': must be solution: binary_cross"),
    ({"objective": "implicit_cross_entropy", "model": None, "step_format": None, "initial_model": "x",
      "recipe": Recipe(labels="outcome", backbone_gradient=0.1)},
     "field 'recipe.backbone_gradient' = 0.1: is of no use to implicit_cross_entropy"),
    ({"recipe": Recipe(value_weight=1.0)}, "field 'recipe.value_weight' = 1.0: goes with a head of kind two_head"),
    ({"head": HeadConfig("two_head")}, "field 'recipe.value_weight' = None: goes with a head of kind two_head"),
    ({"head": HeadConfig("quantile")}, "field 'head.kind' = 'quantile'"),
    ({"head": HeadConfig("lm_rows"), "objective": "cross_entropy"}, r"field 'recipe.label_marks' = \(\): names the two rows"),
    ({"recipe": Recipe(label_marks=("-", "+"))}, "field 'recipe.label_marks' = .*: names the two rows"),
    ({"head": HeadConfig(direction="mean"), "overlong": "truncate"}, "field 'overlong' = 'truncate': must be error or drop"),
    ({"head": HeadConfig(direction="mean"), "recipe": Recipe(language_model_weight=1.0)}, "backwards there is no next step"),
])
def test_what_does_not_go_together(toy, fields, message):
    with pytest.raises(InputError, match=message):
        toy.config(["x.jsonl"], **fields)


@pytest.mark.parametrize(("field", "value"), [("labels", "x"), ("siblings", "x"), ("language_model_weight", -1.0),
                                              ("value_weight", -1.0), ("label_marks", ("+", "+")), ("window_share", 2.0),
                                              ("backbone_gradient", -0.5)])
def test_bad_recipes_are_refused(field, value, without_type_checks):
    with pytest.raises(InputError, match=f"field '{field}' = "):
        Recipe(**{field: value})


def outcome_rows(problems):
    """Half of the solutions end well; the last step says which."""
    rng = np.random.default_rng(1)
    rows = []
    for index in range(problems):
        for place in range(4):
            right = place % 2 == 0
            steps = [f"so we have {rng.integers(10)}", ("so maybe" if right else "oops maybe") + f" {rng.integers(10)}"]
            rows.append({"id": f"{index}-{place}", "problem": f"Add {index} .", "steps": steps,
                         "labels": [1, 1 if right else -1], "first_error": -1 if right else 1, "answer": "5",
                         "final_answer": "5" if right else "4", "final_correct": right})
    return rows


@pytest.fixture(scope="module")
def outcomes(toy, tmp_path_factory):
    return toy.write(tmp_path_factory.mktemp("outcomes") / "rows.jsonl", outcome_rows(16))


def results_of(path):
    return json.loads((path / "results.json").read_text())


def test_rows_of_a_policy_with_siblings_from_files(toy, outcomes, tmp_path):
    """Through `train_prm.run`: label marks become token ids, the model keeps its output matrix."""
    config = toy.config([outcomes], head=HeadConfig("lm_rows"), objective="cross_entropy", step_format=StepFormat(
        separator="<step>"), recipe=Recipe(label_marks=("<no>", "<yes>"), keep_policy=True, language_model_weight=0.1))
    run = toy.train(config, tmp_path / "run").path
    loaded = load_reward_model(run)
    assert type(loaded.model) is PolicyRewardModel
    assert loaded.model.head.config.rows == tuple(loaded.encoder.tokenizer.token_id(mark) for mark in ("<no>", "<yes>"))
    assert results_of(run)["step_auroc"]["mean"] > 0.9
    assert load_language_model(run).model.config == loaded.model.config
    with pytest.raises(InputError, match="field 'recipe.label_marks' = 'never': is not one token"):
        toy.train(dataclasses.replace(config, model=None, initial_model=str(run), step_format=None,
                                      recipe=Recipe(label_marks=("never", "<yes>"))), tmp_path / "other")


def test_two_directions_from_files(toy, outcomes, tmp_path):
    config = toy.config([outcomes], head=HeadConfig(direction="gate"))
    run = toy.train(config, tmp_path / "run").path
    loaded = load_reward_model(run)
    # Read backwards, the wrong last step comes first: the reading sees it before it scores the steps.
    assert results_of(run)["step_auroc"]["mean"] > 0.9 and loaded.model.head.config.direction == "gate"
    assert np.abs(parameters(loaded.model)["head.gate_kernel"]).max() > 0


EMBEDDED = [name for name in shipped_configs() if name.startswith("prm/") and name not in ("prm/prm800k", "prm/mixture")]


def test_every_objective_has_a_config():
    configs = [resolve(name).config for name in EMBEDDED]
    covered = {config.objective for config in configs}
    assert covered >= STEP_OBJECTIVES.keys()
    for name, config in zip(EMBEDDED, configs):
        assert config.initial_model == "runs/objectives/policy" and config.training.steps == 500, name
        assert (config.row_tokens, config.batch_rows) == (144, 8), f"{name}: equal batches"


@pytest.mark.parametrize("name", EMBEDDED)
def test_examples_and_loss_of_every_config(name, tmp_path):
    """What the config's examples hold is what its loss reads, for the model that it trains."""
    config = resolve(name).config
    head = config.head
    if config.recipe.label_marks:
        head = dataclasses.replace(head, rows=(3, 4))
    architecture = tiny_config(vocab_size=ENCODER.tokenizer.vocab_size, layers=1)
    kind = LanguageModel if is_implicit(config.objective) else PolicyRewardModel if config.recipe.keep_policy else RewardModel
    model = random_model(lambda: kind(architecture, *([] if kind is LanguageModel else [head]), rngs=nnx.Rngs(0)), 1)
    plain = [step_example(*ENCODER.encode(one.solution.problem.prompt, one.solution.steps), one.labels) for one in ITEMS]
    examples = recipe_examples(
        plain, ITEMS, ENCODER, objective=config.objective, head=head, recipe=config.recipe, row_tokens=config.row_tokens,
        row_steps=config.row_steps, seed=0, reference=model if kind is LanguageModel else None, place=tmp_path / "reference",
        progress=SilentProgress())
    batch = next(iter(StepDataset(examples, row_tokens=config.row_tokens, row_steps=config.row_steps, batch_rows=2, seed=0)))
    loss = loss_of(model, config.objective, config.hyperparameters, config.recipe)

    def mean(model, batch):
        return loss(model, batch).mean()

    batch = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in batch.items()}
    planned = Setup(architecture, config.head, config.objective, config.hyperparameters, config.recipe, rows=2,
                    tokens=config.row_tokens, steps=config.row_steps)
    assert planned.batch() == batch and planned.loss()
    gradient = parameters(jax.eval_shape(jax.grad(mean), model, batch))
    assert {name: value.shape for name, value in gradient.items()} == {
        name: value.shape for name, value in parameters(model).items()}
