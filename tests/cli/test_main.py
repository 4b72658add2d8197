"""The console script: which pipeline function gets what, exit codes, and never a traceback for bad input."""

import dataclasses
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest

import jaxprm
from jaxprm.cli.main import main, spell_out_overrides
from jaxprm.errors import Diverged, InputError, Stopped
from jaxprm.hub.families import Settings
from jaxprm.pipelines.bench_models import Computing, ModelChoice
from jaxprm.training import ProfileWindow


@dataclasses.dataclass(frozen=True)
class Small:
    seed: int = 0


def run_main(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


@pytest.fixture(autouse=True)
def own_compilation_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXPRM_CACHE", str(tmp_path / "cache"))
    yield
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture
def pipelines(monkeypatch, tmp_path):
    """Stands in for `jaxprm.pipelines`: every module records its calls; `calls.error` is raised if it is set."""
    calls = types.SimpleNamespace(seen=[], error=None)

    def run(*positional, **named):
        calls.seen.append((positional, named))
        if calls.error:
            raise calls.error

    package = types.ModuleType("jaxprm.pipelines")
    monkeypatch.setitem(sys.modules, "jaxprm.pipelines", package)
    monkeypatch.setattr(jaxprm, "pipelines", package, raising=False)
    monkeypatch.setitem(sys.modules, "small_configs", types.SimpleNamespace(Small=Small, __name__="small_configs"))
    for name in ("quickstart", "train_prm", "score", "bench"):
        module = types.ModuleType(f"jaxprm.pipelines.{name}")
        module.run, module.Quickstart, module.TrainPRM = run, Small, Small
        setattr(package, name, module)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    Path("small.gin").write_text("from __gin__ import dynamic_registration\nimport small_configs\n"
                                 "small_configs.Small.seed = 3\n")
    return calls


@pytest.mark.parametrize("command", ["train", "quickstart"])
def test_config_commands(pipelines, command, capsys):
    assert run_main(command, "small.gin", "--gin.Small.seed=5") == 0
    ((config, directory, progress), named), = pipelines.seen
    assert config == Small(5) and directory.path == Path("runs/small") and not named
    assert hasattr(progress, "stage")
    assert ("report: " in capsys.readouterr().out) == (command == "quickstart")
    assert run_main(command, "small.gin", "--gin.Small.seed=5") == 0 and pipelines.seen[1][0][1].resumed
    assert run_main(command, "small.gin") == 2
    assert "runs/small: holds another run" in capsys.readouterr().err
    assert run_main(command, "small.gin", "--run", "elsewhere") == 0 and Path("elsewhere/config.gin").is_file()


def test_a_profile_window_is_passed_on(pipelines):
    assert run_main("train", "small.gin", "--profile", "10:5") == 0
    (_, named), = pipelines.seen
    assert named == {"profile": ProfileWindow(10, 5)}


def test_score_and_bench(pipelines):
    assert run_main("score", "--model", "m", "--input", "x.jsonl", "--output", "y.jsonl", "--drop-empty",
                    "--batch-tokens", 512) == 0
    positional, named = pipelines.seen[0]
    assert positional == ("m", Path("x.jsonl"), Path("y.jsonl")) and named.pop("progress")
    assert named == {"family": None, "reference": None, "settings": Settings(), "base": None, "dtype": "float32", "html": None,
                     "drop_empty": True, "batch_tokens": 512, "mesh": None}
    assert run_main("score", "--model", "hf:a/b", "--family", "trl", "--separator", "\\n|", "--variant", "v", "--columns",
                    "a,b",
                    "--dtype", "bfloat16", "--reference", "r", "--base", "c", "--input", "x", "--output", "y") == 0
    positional, named = pipelines.seen.pop()
    assert positional[0] == "hf:a/b" and named["settings"] == Settings("v", "\n|", ("a", "b"))
    assert [named[name] for name in ("family", "reference", "base", "dtype")] == ["trl", "r", "c", "bfloat16"]
    assert run_main("bench", "steps", "--model", "m", "--model", "n", "--data", "a", "--json", "j") == 0
    positional, named = pipelines.seen[1]
    assert positional == ("steps", [ModelChoice("m", label="m"), ModelChoice("n", label="n")], [Path("a")])
    assert named["json_path"] == Path("j") and named["computing"] == Computing()
    published = "hf:a/b --family trl --separator= ки\\n --base=c --columns +,- --reference r --variant v"
    assert run_main("bench", "steps", "--model", published, "--data", "a", "--dtype", "bfloat16", "--batch-tokens", 64) == 0
    positional, named = pipelines.seen[2]
    assert positional[1] == [ModelChoice("hf:a/b", "trl", "r", "c", Settings("v", " ки\n", ("+", "-")), published)]
    assert named["computing"] == Computing("bfloat16", None, 64)


@pytest.mark.parametrize(("arguments", "message"), [
    (["bench", "steps", "--model", "dir --famly x"], "error: field 'model' = '--famly': is no option of a model; behind"),
    (["bench", "steps", "--model", "d --base x --base y"], "error: field 'model' = 'd --base x --base y': has an option twice"),
    (["bench", "steps", "--model", "dir --columns +"], "error: field 'columns' = '+': must be two tokens"),
    (["bench", "steps", "--model", "dir", "--mesh", "2,2"], "error: field 'mesh' = '2,2': must be three whole numbers"),
    (["train", "absent"], "error: value 'absent': no such config file or name"),
    (["train"], "error: Missing argument"),
    (["score", "--model", "m"], "error: Missing option '--input'"),
    (["score", "--modle", "m"], "error: No such option"),
    (["train", "small.gin", "--profile", "5"], "error: field 'profile' = '5': must be START:COUNT; such as 10:5"),
    (["bogus"], "error: No such command 'bogus'"),
    (["train", "small.gin", "--gin.Small.seed=x"], "error: --gin.Small.seed=x: syntax error: cannot read x"),
])
def test_bad_arguments_end_in_one_line(pipelines, capsys, arguments, message):
    assert run_main(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1
    assert not Path("runs").exists() and not pipelines.seen


@pytest.mark.parametrize(("error", "code", "message"), [
    (InputError("is wrong", file="f", row=2, field="x", value=1), 2, "error: f:2: field 'x' = 1: is wrong\n"),
    (PermissionError(13, "Permission denied", "out.jsonl"), 2, "error: out.jsonl: Permission denied\n"),
    (Diverged("train: loss is nan"), 3, "error: train: loss is nan\n"),
    (Stopped("train: stopped by SIGTERM"), 75, "error: train: stopped by SIGTERM\n"),
    (KeyboardInterrupt(), 130, "error: interrupted; the same command goes on from the last checkpoint\n"),
])
def test_exit_codes(pipelines, capsys, error, code, message):
    pipelines.error = error
    assert run_main("score", "--model", "m", "--input", "x", "--output", "y") == code
    assert capsys.readouterr().err == message


def test_a_bug_keeps_its_traceback(pipelines):
    pipelines.error = ZeroDivisionError("bug")
    with pytest.raises(ZeroDivisionError):
        main(["score", "--model", "m", "--input", "x", "--output", "y"])


def test_compilation_cache(pipelines, tmp_path):
    run_main("score", "--model", "m", "--input", "x", "--output", "y")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache")
    jax.config.update("jax_compilation_cache_dir", "the user's own")
    run_main("score", "--model", "m", "--input", "x", "--output", "y")
    assert jax.config.jax_compilation_cache_dir == "the user's own"


def test_spell_out_overrides():
    assert spell_out_overrides(["train", "--gin.A.b=c=d", "--run", "x"]) == ["train", "--gin=A.b=c=d", "--run", "x"]


def test_help_version_doctor(capsys):
    assert run_main() == 0 and "quickstart" in capsys.readouterr().out
    assert run_main("train", "--help") == 0 and "Example: JAXPRM_DATA" in capsys.readouterr().out
    assert run_main("--version") == 0 and capsys.readouterr().out.strip() == jaxprm.__version__
    assert run_main("doctor") == 0
    out = capsys.readouterr().out
    assert "8 x cpu (cpu)" in out and "GFLOP/s" in out and "JAXPRM_DATA" in out


def test_help_imports_neither_jax_nor_gin():
    script = "import sys; from jaxprm.cli import main; print([m for m in ('jax', 'gin', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
