"""What a run needs per device: the config's numbers, what fits, advice where it does not, and the command."""

import dataclasses

import pytest

from jaxprm.errors import InputError
from jaxprm.models import HeadConfig, TransformerConfig, make_mesh
from jaxprm.pipelines.plan import DEVICES, MODELS, Device, Setup, describe, find_device, setup, suggestion, table
from jaxprm.pipelines.prm_recipe import Recipe
from jaxprm.testing.compiled_step import compiled_memory
from jaxprm.training import LoraConfig, OptimizerConfig, TrainConfig

# More layers than are unrolled, and enough tokens that activations outweigh parameters, as they do in large models.
SMALL = TransformerConfig(256, width=64, layers=9, heads=4, kv_heads=2, head_dim=16, mlp_dim=192, context=256, remat="dots")
OUTCOMES = Recipe(labels="outcome")
ADAPTED = TrainConfig(10, lora=LoraConfig(4), ema=0.9, accumulate=2)
TWO_STAGES = TrainConfig(10, OptimizerConfig(freeze_backbone_steps=5))
EVERY_COLUMN = Recipe(labels="outcome", siblings="problem")


@pytest.mark.parametrize("mesh, fields", [
    ((1, 1, 1), {"model": dataclasses.replace(SMALL, remat="none")}),
    ((1, 1, 1), {"model": dataclasses.replace(SMALL, remat="full")}),
    ((2, 2, 2), {"objective": "implicit_dpo", "recipe": EVERY_COLUMN, "training": ADAPTED}),
    ((1, 1, 1), {"objective": "implicit_cross_entropy", "recipe": OUTCOMES,
                 "model": dataclasses.replace(SMALL, vocab_size=2**14, layers=2, tie_embeddings=False)}),
    ((2, 2, 2), {"training": TWO_STAGES, "objective": "mean_squared_error", "head": HeadConfig("two_head"),
                 "recipe": Recipe(value_weight=1.0)})], ids=("none", "full", "adapted", "implicit", "stages"))
def test_the_plan_is_what_xla_allocates(mesh, fields):
    devices = mesh[0] * mesh[1] * mesh[2]
    plan = Setup(**{"model": SMALL, "training": TrainConfig(10), "rows": 8, "tokens": 256, "steps": 16, "devices": devices,
                    "mesh": mesh} | fields)
    name, found = plan.stages()[0]
    expected = compiled_memory(plan, make_mesh(*mesh) if devices > 1 else None, head_alone="the head alone" in name)
    assert found.arguments + 4 == expected.argument_size_in_bytes  # the step counter is an int32
    # Measured with float32 on CPU: from 0.92 to 1.21, see experiments/performance/training/memory.md.
    assert 0.85 < found.temporary / expected.temp_size_in_bytes < 1.25


def test_a_config_becomes_the_setup_that_train_would_run(toy):
    config = toy.config(["absent.jsonl"], mesh=(2, -1, 1), head=HeadConfig("binary"), objective="cross_entropy")
    found = setup(config, 8)
    assert (found.mesh, found.devices, found.rows, found.tokens, found.steps) == ((2, 4, 1), 8, 8, 64, 16)
    assert found.model == config.model and found.training == config.training and found.head == config.head
    assert setup(dataclasses.replace(config, mesh=None), 4).mesh == (1, 4, 1)
    assert setup(config, 2, (1, 1, -1)).mesh == (1, 1, 2)
    memory = found.memory()
    # Weights over fsdp 4; rows over 8.
    assert found.memory() == dataclasses.replace(found, objective="cross_entropy").memory()
    assert memory.weights < setup(config, 8, (8, 1, 1)).memory().weights / 3


def test_a_saved_model_is_computed_as_the_config_says(toy, trained):
    saved = setup(toy.config(["absent.jsonl"], model=None, step_format=None, initial_model=str(trained)), 1).model
    config = toy.config(["absent.jsonl"], model=None, step_format=None, initial_model=str(trained), dtype="bfloat16",
                        remat="dots", attention="splash")
    assert setup(config, 1).model == dataclasses.replace(saved, dtype="bfloat16", remat="dots", attention="splash")
    assert dict(describe(setup(config, 1)))["model"] == "bfloat16, remat dots, attention splash"
    with pytest.raises(InputError, match="field 'dtype' = 'float32': must be bfloat16 for attention = 'cudnn'"):
        setup(dataclasses.replace(config, dtype=None, attention="cudnn"), 1)


@pytest.mark.parametrize("devices, mesh, message", [
    (0, None, "field 'devices' = 0: must be at least 1"), (-2, None, "field 'devices' = -2: must be at least 1"),
    (3, (2, 1, 1), r"field 'mesh' = \(2, 1, 1\): does not cover the 3 devices"),
    (8, (-1, -1, 1), "at most one size may be -1"), (3, None, "field 'batch_rows' = 8: is not a multiple of the mesh's data")])
def test_bad_devices(toy, devices, mesh, message):
    with pytest.raises(InputError, match=message):
        setup(toy.config(["absent.jsonl"]), devices, mesh).memory()


def test_shapes_of_qwen():
    """Parameters in matrix products, against the published counts without embeddings (1.31, 6.53 and 70 billion)."""
    found = {name: model.matmul_parameters / 1e9 for name, model in MODELS.items()}
    assert found == pytest.approx({"1.5B": 1.31, "7B": 6.53, "72B": 70.2}, abs=0.05)


def test_advice(monkeypatch):
    plan = Setup(SMALL, rows=8, tokens=256, steps=16)
    memory = plan.memory()
    full = dataclasses.replace(plan, model=dataclasses.replace(SMALL, remat="full")).memory()
    assert full.total < memory.total

    def advice(plan, total):
        return suggestion(plan, plan.memory(), Device(total / 0.9, 1e12))

    assert advice(plan, full.total + 1).startswith('remat = "full" takes')
    parts = dataclasses.replace(plan.training, accumulate=8)
    least = dataclasses.replace(plan, model=dataclasses.replace(SMALL, remat="full"), training=parts).memory()
    assert advice(plan, least.total + 1).startswith('accumulate = 8 with remat = "full" takes')
    one_row = dataclasses.replace(plan, rows=1)
    too_much = dataclasses.replace(one_row, model=dataclasses.replace(SMALL, remat="full")).memory()
    assert advice(one_row, too_much.total - 1).startswith('LoRA of rank 16 with remat = "full" takes')
    assert "need 2 devices with fsdp" in advice(plan, 0.51 * (full.weights + full.gradients + full.optimizer))
    data = dataclasses.replace(plan, devices=4, mesh=(4, 1, 1))
    split = dataclasses.replace(data, mesh=(1, 4, 1), model=dataclasses.replace(SMALL, remat="full")).memory()
    assert 'remat = "full" with mesh = (1, 4, 1) takes' in advice(data, split.total + 1)


def test_lines_say_what_fits():
    plan = Setup(SMALL, rows=8, tokens=256, steps=16)
    lines = dict(describe(plan))
    assert lines["mesh"] == "1 device(s): data 1, fsdp 1, tensor 1" and lines["batch"] == "8 rows of 256 tokens"
    assert lines["model"] == "float32, remat dots, attention blocked"
    assert lines["trained"] == "binary_cross_entropy, adamw"
    assert {f"on {name}" for name in DEVICES} <= lines.keys() and lines["on h200"].startswith("fits (0% of 141 GB; ")
    huge = dict(describe(Setup(MODELS["7B"]), "v5e"))
    assert huge["  weights"] == "28.3 GB" and huge["  optimizer"] == "56.6 GB"
    assert huge["on v5e"].startswith("does not fit: weights, gradients and optimiser alone need 8 devices with fsdp")
    with pytest.raises(InputError, match="field 'device' = 'v9': is not known; one of h200, "):
        find_device("v9")


def test_lines_say_what_is_trained():
    plan = Setup(SMALL, rows=8, tokens=256, steps=16, objective="implicit_dpo", recipe=EVERY_COLUMN, training=ADAPTED)
    lines = dict(describe(plan, "v5e"))
    assert lines["trained"] == (
        "implicit_dpo, a language model without a head; the reference is read from disk, as a number per step, adapters of "
        "rank 4 on query, key, value, output, gate, up, down, a moving average of 0.9, adamw")
    assert lines["batch"] == "8 rows of 256 tokens, in 2 parts" and lines["  average"] != "0 MB"
    plan = dataclasses.replace(plan, objective="binary_cross_entropy", recipe=Recipe(), training=TWO_STAGES)
    stages = list(describe(plan, "v5e"))
    assert ("", "per device, steps 6 to 10, everything:") in stages
    first, second = (memory for _, memory in plan.stages())
    assert plan.memory() == second and first.gradients < second.gradients and first.arguments == second.arguments
    assert any(name == "" and value.startswith("steps 1 to 5, the head alone: ") for name, value in stages)


def test_every_optimiser_counts():
    plain = Setup(SMALL, rows=8, tokens=256, steps=16)
    unclipped = dataclasses.replace(plain, training=TrainConfig(optimizer=OptimizerConfig(clip=0.0)))
    assert plain.memory() == unclipped.memory() and plain.memory().optimizer > 2 * plain.memory().weights


def test_table(monkeypatch):
    monkeypatch.setattr("jaxprm.pipelines.plan.MODELS", {"7B": MODELS["7B"]})
    monkeypatch.setattr("jaxprm.pipelines.plan.MACHINES", ("v5e-16", "v5p-256"))
    first, second = list(table())[2:]
    assert first.startswith("| 7B | 16 x v5e (16 GB) | (1, 16, 1) | dots | 1.8 | 1.8 | 3.5 |")
    assert '| no: remat = "full" takes' in first
    assert second.startswith("| 7B | 128 x v5p (95 GB) | (1, 128, 1) | dots | 0.2 |") and "| yes |" in second


def test_command(toy, capsys):
    assert toy.call("plan", "prm/prm800k", "--devices", 8, "--mesh", "1,-1,2", "--device", "v5e") == 0
    out = capsys.readouterr().out
    assert "data 1, fsdp 4, tensor 2" in out and "activations" in out and "on v5e" in out and "fits (0% of 16 GB" in out
    assert toy.call("plan", "--help") == 0 and "Example: jaxprm plan prm/prm800k --devices 8" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, message", [
    (["prm/absent"], "error: value 'prm/absent': no such config file or name"), ([], "error: no config; give the name of one"),
    (["prm/prm800k", "--table"], "error: field 'CONFIG' = 'prm/prm800k': is not read with --table"),
    (["prm/prm800k", "--devices", "0"], "error: field 'devices' = 0: must be at least 1"),
    (["prm/prm800k", "--devices", "3"], "error: field 'batch_rows' = 8: is not a multiple of the mesh's data * fsdp = 3"),
    (["prm/prm800k", "--mesh", "1,2"], "error: field 'mesh' = '1,2': must be three whole numbers"),
    (["prm/prm800k", "--device", "abacus"], "error: field 'device' = 'abacus': is not known"),
    (["prm/prm800k", "--gin.TransformerConfig.layers=0"], "error: ")])
def test_bad_arguments_end_in_one_line(toy, capsys, arguments, message):
    assert toy.call("plan", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1
