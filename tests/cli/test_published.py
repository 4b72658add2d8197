"""``jaxprm score`` and ``inspect`` on published models: scores of the family, and one line for whatever is wrong."""

import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxprm.cli.main import main


@pytest.fixture(scope="module")
def prms(shared):
    return shared / "fixtures" / "hf" / "prm"


@pytest.fixture(autouse=True)
def own_compilation_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("JAXPRM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    yield
    jax.config.update("jax_compilation_cache_dir", None)


def call(*arguments) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


def expected(folder: Path, ids=("v5",)):
    rows = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["rows"]
    return [row for row in rows if row["id"].split("_")[0] in ids]


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps({"problem": row["problem"], "steps": row["steps"],
                                        "answer": row.get("reference") or None}) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("fixture, model, options", [
    ("math_shepherd", ".", ("--family", "math-shepherd")),
    ("universal_prm_assumed", ".", ()),
    ("trl_qwen3", ".", ("--separator", " ки\\n##")),
    ("implicit_prm_llama", "prm", ("--reference", "ref")),
])
def test_score(prms, tmp_path, fixture, model, options):
    folder = prms / fixture
    rows = expected(folder)
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    options = [folder / value if value == "ref" else value for value in options]
    # An empty step is scored, as the family's own code does.
    assert any(not step.strip() for row in rows for step in row["steps"])
    assert call("score", "--model", folder / model, *options, "--input", source, "--output", target) == 0
    scored = [json.loads(line) for line in target.read_text().splitlines()]
    for row, found in zip(rows, scored, strict=True):
        np.testing.assert_allclose(found["scores"], row["scores"], atol=5e-5 if "implicit" not in fixture else 1e-6, rtol=0)
        how = {"math_shepherd": min, "trl_qwen3": min, "implicit_prm_llama": min}.get(fixture, lambda scores: scores[-1])
        assert found["aggregate"] == pytest.approx(how(found["scores"]))


def test_a_mesh_gives_the_scores_of_one_device(prms, tmp_path):
    folder = prms / "rlhflow"
    rows = expected(folder, ("v0",))
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert call("score", "--model", folder, "--family", "rlhflow", "--mesh", "2,2,2", "--input", source, "--output",
                target) == 0
    np.testing.assert_allclose(json.loads(target.read_text())["scores"], rows[0]["scores"], atol=5e-5)


def test_a_benchmark_of_models_that_are_read_differently(prms, tmp_path):
    """Each with options of its own, on a mesh and in bfloat16: kept scores of one type are not taken for those of another."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.json"
    source.write_text(json.dumps({"problem": "1 + 1?", "steps": ["It is 2.", "So 3."], "labels": [1, -1]}) + "\n")
    models = [f"{prms / 'rlhflow'} --family rlhflow", f"{prms / 'math_shepherd'} --family math-shepherd"]
    arguments = ["bench", "steps", "--data", source, "--cache", tmp_path / "kept", "--resamples", "5", "--json", out,
                 "--model", models[0], "--model", models[1]]
    numbers = []
    for options in (("--mesh", "2,2,2"), (), ("--dtype", "bfloat16")):
        assert call(*arguments, *options, "--html", tmp_path / "page.html") == 0
        results = json.loads(out.read_text())
        assert list(results["models"]) == models
        assert [info["family"] for info in results["models"].values()] == ["rlhflow", "math-shepherd"]
        numbers.append([value["numbers"]["ECE"]["mean"] for value in results["sets"][str(source)]["systems"].values()])
        assert (results["mesh"], results["dtype"]) == (
            {"data": 2, "fsdp": 2, "tensor": 2} if numbers[1:] == [] else None, options[-1] if numbers[2:] else "float32")
    text = " ".join((tmp_path / "page.html").read_text().split())
    assert "type of the models" in text and "bfloat16" in text and models[0] in text
    assert numbers[1] == numbers[0]  # kept: the devices are not a part of the key
    np.testing.assert_allclose(numbers[2], numbers[0], atol=2e-2)
    assert all(half != full for half, full in zip(numbers[2], numbers[0]))


def one_error(capfd) -> str:
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


class RunsCode:
    def __reduce__(self):
        return os.system, ("touch it_ran",)


def pickled_code() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": RunsCode()}, protocol=2))
        archive.writestr("archive/version", "3\n")
    return data.getvalue()


def edit_config(folder: Path, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def cut(path: Path):
    path.write_bytes(path.read_bytes()[:-100])


def other_tokenizer(folder: Path, other: Path):
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(other / name, folder / name)


BAD = {
    "a separator that the tokenizer splits": (
        "math_shepherd", lambda folder, prms: None, ("--family", "versaprm"),
        "field 'separator' = ' \\n\\n\\n\\n': the tokenizer splits it into 6 tokens"),
    "a step mark that the tokenizer lacks": (
        "pure", lambda folder, prms: edit_config(folder, architectures=["Qwen2ForProcessRewardModel"]), (),
        "field 'separator' = '<extra_0>': is not in the tokenizer's vocabulary"),
    "a larger tokenizer": (
        "trl_llama", lambda folder, prms: other_tokenizer(folder, prms / "trl_qwen2"), (),
        "the tokenizer has 424 entries, the embedding table 416 rows"),
    "a smaller tokenizer": (
        "trl_qwen3", lambda folder, prms: other_tokenizer(folder, prms / "pqm" / "backbone"), (),
        "field 'eos_token_id' = 418: the tokenizer has only 402 entries"),
    "a truncated shard": (
        "qwen_math_prm", lambda folder, prms: cut(folder / "model-00002-of-00003.safetensors"), (),
        "model-00002-of-00003.safetensors"),
    "a missing shard": (
        "qwen_math_prm", lambda folder, prms: (folder / "model-00003-of-00003.safetensors").unlink(), (),
        "model-00003-of-00003.safetensors"),
    "an unknown architecture": (
        "skywork", lambda folder, prms: edit_config(folder, model_type="mamba", architectures=["MambaForCausalLM"]), (),
        "'MambaForCausalLM' is not known"),
    "a pickle that runs code": (
        "universal_prm_assumed", lambda folder, prms: (folder / "pytorch_model.bin").write_bytes(pickled_code()), (),
        "pytorch_model.bin"),
    "a head of another family": (
        "skywork", lambda folder, prms: None, ("--family", "qwen-math-prm"), "<extra_0>"),
    "a head that is not there": (
        "qwen_math_prm", lambda folder, prms: None, ("--family", "actprm"),
        "field 'score.model.nn1.weight': the weights have no such tensor"),
    "an uncertain family": (
        "versaprm", lambda folder, prms: None, (),
        "its files fit several families: rlhflow, versaprm, openrlhf, er-prm, implicit (with --reference); choose one"),
    "an unknown family": (
        "versaprm", lambda folder, prms: None, ("--family", "versa"), "field 'family' = 'versa': is not one of qwen-math-prm"),
    "an unknown variant": (
        "actprm", lambda folder, prms: None, ("--variant", "snippet"), "has no such variant (known: code_snippet)"),
    "a setting that the family lacks": (
        "skywork", lambda folder, prms: None, ("--separator", "|"), "field 'separator' = '|': the family skywork has a fixed"),
    "no reference": (
        "eurus_prm", lambda folder, prms: None, ("--family", "implicit"), "field 'reference': needs one; give it with"),
    "a needless reference": (
        "skywork", lambda folder, prms: None, ("--family", "skywork", "--reference", "."),
        "field 'reference': the family skywork has none"),
    "a reference with other ids": (
        "eurus_prm", lambda folder, prms: other_tokenizer(folder / "ref", prms / "versaprm"), ("--reference", "ref"),
        "gives other ids"),
    "an adapter without its base": (
        "openr_math_psa", lambda folder, prms: shutil.rmtree(folder / "base"), ("--family", "openr"),
        "field 'base_model_name_or_path' = '../base': the model that it adapts is not on this machine; name it with --base"),
    "bare weights without a config": (
        "pqm", lambda folder, prms: shutil.rmtree(folder / "backbone"), (),
        "holds no config.json; name the model it was made from with --base"),
    "no chat template": (
        "rlhflow", lambda folder, prms: other_tokenizer(folder, prms / "trl_llama"), ("--family", "rlhflow"),
        "field 'chat_template': the tokenizer has no chat template"),
    "wrong columns": (
        "openrlhf", lambda folder, prms: None, ("--family", "openrlhf", "--columns", "+"),
        "field 'columns' = '+': must be two tokens with a comma between them; such as +,-"),
    "a wrong mesh": (
        "actprm", lambda folder, prms: None, ("--mesh", "2,x"), "field 'mesh' = '2,x': must be three whole numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(prms, tmp_path, capfd, monkeypatch, name):
    fixture, spoil, options, message = BAD[name]
    folder = tmp_path / "model"
    shutil.copytree(prms / fixture, folder)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    spoil(folder, prms)
    monkeypatch.chdir(tmp_path)
    source, target = write(tmp_path / "in.jsonl", expected(prms / fixture, ("v8",))), tmp_path / "out.jsonl"
    options = [folder / value if value == "ref" else value for value in options]
    assert call("score", "--model", folder, *options, "--input", source, "--output", target) == 2
    assert message in one_error(capfd)
    assert not target.exists() and not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("fixture, family, steps, message", [
    ("qwen_math_prm", "qwen-math-prm", ["fine", "a<extra_0>b"],
     "in.jsonl:1: field 'steps[1]' = 'a<extra_0>b': contains the step mark '<extra_0>'"),
    ("reasoneval_34b", "reasoneval", ["a</s>b"], "in.jsonl:1: field 'steps[0]' = 'a</s>b': contains the separator '</s>'"),
    ("reasonflux_prm_15b", "reasonflux", ["word " * 1200], "in.jsonl:1: field 'steps': needs"),
])
def test_a_row_that_cannot_be_scored_is_named(prms, tmp_path, capfd, fixture, family, steps, message):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"problem": "x", "steps": steps}) + "\n")
    assert call("score", "--model", prms / fixture, "--family", family, "--input", source, "--output", target) == 2
    assert message in one_error(capfd) and not target.exists()


def test_dropped_empty_steps_do_not_shift_the_step_that_is_named(prms, tmp_path, capfd):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"problem": "x", "steps": ["", "fine", "a<extra_0>b"]}) + "\n")
    assert call("score", "--model", prms / "qwen_math_prm", "--drop-empty", "--input", source, "--output", target) == 2
    assert "field 'steps[2]'" in one_error(capfd)


@pytest.mark.parametrize("installed", [True, False])
def test_a_download_that_cannot_be_done_is_one_line(tmp_path, capfd, monkeypatch, installed):
    if installed:
        hub = type(sys)("huggingface_hub")
        hub.snapshot_download = lambda name, **_: (_ for _ in ()).throw(OSError(f"no route to host for {name}\nmore"))
        monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    else:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"problem": "x", "steps": ["a"]}) + "\n")
    assert call("score", "--model", "hf:some/model", "--input", source, "--output", tmp_path / "out.jsonl") == 2
    message = ("field 'model' = 'hf:some/model': cannot be downloaded (no route to host for some/model)" if installed else
               "field 'model' = 'hf:some/model': downloading needs the package huggingface_hub; pip install huggingface_hub")
    assert message in one_error(capfd)


def test_a_download_is_scored_like_a_directory(prms, tmp_path, monkeypatch):
    asked = []
    hub = type(sys)("huggingface_hub")
    hub.snapshot_download = lambda name, allow_patterns: asked.append(name) or str(prms / "trl_llama")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    rows = expected(prms / "trl_llama", ("v8",))
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert call("score", "--model", "hf:trl-lib/some-prm", "--separator", "\\n\\n", "--input", source, "--output", target) == 0
    np.testing.assert_allclose(json.loads(target.read_text())["scores"], rows[0]["scores"], atol=5e-5)
    assert asked == ["trl-lib/some-prm"]


def test_inspect(prms, tmp_path, capfd):
    assert call("inspect", prms / "rlhflow", "--family", "rlhflow") == 0
    said = capfd.readouterr().out
    for words in ("LlamaForCausalLM", "42,144 in 21 tensors", "1 token before the mark", "good '+'", "mean"):
        assert words in said
    assert call("inspect", prms / "versaprm") == 0
    assert "not certain" in capfd.readouterr().out
    folder = tmp_path / "doubled"
    shutil.copytree(prms / "trl_llama", folder)
    other_tokenizer(folder, prms / "trl_qwen2")
    assert call("inspect", folder) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "the tokenizer has 424 entries, the embedding table 416 rows" in said
    assert "does not store the separator" in said and "eos_token_id is [" in said
