"""Gin files to dataclasses: what resolves, what is refused (always in one line with file, line, field and value)."""

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxprm.cli.config import config_folders, find_config, resolve, shipped_configs
from jaxprm.errors import InputError
from jaxprm.models import RopeScaling, TransformerConfig

SPEC = importlib.util.spec_from_file_location("configs_for_tests", Path(__file__).with_name("configs_for_tests.py"))
parts = sys.modules["configs_for_tests"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(parts)

HEADER = "from __gin__ import dynamic_registration\nimport configs_for_tests as parts\n"
GOOD = HEADER + """
parts.Train:
  files = ("a.jsonl", 'b.jsonl')
  steps = %steps
  optimizer = @parts.Optimizer()
  stages = (@warm/parts.Optimizer(), @parts.Optimizer())
  mixture = {'math': 2, "logic": 0.5}
steps = 20  # a macro
parts.Optimizer.schedule = "constant"
warm/parts.Optimizer.learning_rate = 1.5
"""


@pytest.fixture
def config(tmp_path):
    def write(text, name="test.gin"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)
    return write


def test_resolves(config):
    resolved = resolve(config(GOOD), expected=parts.Train)
    constant = parts.Optimizer(schedule="constant")
    assert resolved.config == parts.Train(
        files=("a.jsonl", "b.jsonl"), steps=20, optimizer=constant,
        stages=(parts.Optimizer(1.5, "constant"), constant), mixture={"math": 2, "logic": 0.5})
    assert type(resolved.config) is parts.Train and type(resolved.config.optimizer) is parts.Optimizer
    assert resolved.name == "test"
    assert resolved.json["optimizer"] == {"class": "configs_for_tests.Optimizer", "learning_rate": 0.1,
                                          "schedule": "constant", "clip": None}
    canonical = json.dumps(resolved.json, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert resolved.sha256 == hashlib.sha256(canonical.encode()).hexdigest()


def test_the_operative_text_resolves_to_the_same(config):
    resolved = resolve(config(GOOD), ["parts.Train.seed=7"])
    assert "seed = 7" in resolved.text and "learning_rate = 0.1" in resolved.text
    again = resolve(config(resolved.text, "again.gin"))
    assert again.config == resolved.config and again.sha256 == resolved.sha256


ARCHITECTURE = """from __gin__ import dynamic_registration
from jaxprm.models import config as models
from jaxprm.models import rope
models.TransformerConfig:
  vocab_size = 20
  layers = 2
  windows = (4, 0)
  attention_softcap = 50
  rope_scaling = @rope.RopeScaling()
rope.RopeScaling.kind = "llama3"
rope.RopeScaling.factor = 8.0
rope.RopeScaling.original_context = %s
"""


def test_architectures_hold_tuples_and_parts(config, without_type_checks):
    resolved = resolve(config(ARCHITECTURE % 64))
    assert resolved.config == TransformerConfig(20, layers=2, windows=(4, 0), attention_softcap=50,
                                                rope_scaling=RopeScaling("llama3", 8.0, 64))
    assert resolve(config(resolved.text, "again.gin")).sha256 == resolved.sha256
    for text, message in [
            (ARCHITECTURE.replace("(4, 0)", "(4, 0, 0)") % 64, "must have one number for each of the 2 layers"),
            (ARCHITECTURE.replace("(4, 0)", "(4, 0.5)") % 64, "windows' = (4, 0.5): element 1 = 0.5 must be a whole"),
            (ARCHITECTURE % "None", "must be at least 1 for llama3 rope scaling"),
            (ARCHITECTURE % "'64'", "must be a whole number or None, not a text")]:
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            resolve(config(text))
        assert "\n" not in str(caught.value) and "test.gin" in str(caught.value)


def test_hash_depends_on_values_alone(config):
    plain = resolve(config(HEADER + "parts.Train.files = ('x',)"))
    same = resolve(config(HEADER + "# comment\nname = ('x',)\nparts.Train:\n  seed = 0\n  files = %name\n", "same.gin"))
    assert plain.sha256 == same.sha256
    assert resolve(config(HEADER + "parts.Train.files = ('y',)", "y.gin")).sha256 != plain.sha256
    whole = resolve(config(HEADER + "parts.Optimizer.clip = 1"), expected=parts.Optimizer)
    assert whole.sha256 == resolve(config(HEADER + "parts.Optimizer.clip = 1.0")).sha256


def test_overrides_come_last_and_may_leave_out_the_module(config):
    path = config(GOOD)
    assert resolve(path, ["parts.Train.seed=1", "parts.Train.seed=2"]).config.seed == 2
    assert resolve(path, ["Train.seed=3"]).config.seed == 3
    assert resolve(path, ["steps=30"]).config.steps == 30
    assert resolve(path, ["Optimizer.schedule='cosine'"]).config.optimizer.schedule == "cosine"
    assert resolve(path, ["warm/Optimizer.learning_rate=3.0"]).config.stages[0].learning_rate == 3.0
    assert resolve(path).config.seed == 0, "an override must not outlive its call"


def test_includes(config):
    config(GOOD, "base.gin")
    resolved = resolve(config("include 'base.gin'\n" + HEADER + "parts.Train.seed = 4\nparts.Train.files = ('c',)"))
    assert (resolved.config.seed, resolved.config.files, resolved.config.steps) == (4, ("c",), 20)
    with pytest.raises(InputError, match="includes itself"):
        resolve(config("include 'loop.gin'", "loop.gin"))
    with pytest.raises(InputError, match=r"test.gin:1: value 'absent.gin': no such file to include"):
        resolve(config("include 'absent.gin'"))


@pytest.mark.parametrize(("text", "message"), [
    ("parts.Train.files = ('a',)\nparts.Train.steps = 'seven'",
     "test.gin:4: field 'parts.Train.steps' = 'seven': must be a whole number, not a text"),
    ("parts.Train.files = ('a',)\nparts.Train.steps = True", "must be a whole number, not a truth value"),
    ("parts.Train.files = ('a',)\nparts.Train.steps = 2.5", "must be a whole number, not a number"),
    ("parts.Train.files = ('a')",
     "test.gin:3: field 'parts.Train.files' = 'a': must be a tuple (str, ...), not a text"),
    ("parts.Train.files = ('a', 3)", "element 1 = 3 must be a text, not a whole number"),
    ("parts.Train.files = ('a',)\nparts.Train.mixture = {'a': 'b'}", "entry 'a' = 'b' must be a number, not a text"),
    ("parts.Train.files = %files\nfiles = 3", "test.gin:3: field 'parts.Train.files' = 3: must be a tuple (str, ...)"),
    ("parts.Train.files = ('a',)\nparts.Train.optimizer = @parts.Other()",
     "test.gin:4: field 'Train.optimizer' = Other(width=1): must be Optimizer, not a Other"),
    ("parts.Train.stepz = 7",
     "test.gin:3: field 'parts.Train.stepz': Train has no field 'stepz'; did you mean 'steps'?"),
    ("parts.Trian.steps = 7", "test.gin:3: field 'parts.Trian.steps': 'configs_for_tests' has no 'Trian'; "
                              "did you mean 'Train'?"),
    ("part.Train.steps = 7", "test.gin:3: field 'part.Train.steps': 'part' is not imported; did you mean 'parts'?"),
    ("parts.function.width = 7", "parts.function is not a dataclass"),
    ("parts.Train.files = ('a',)\nparts.Train.optimizer = @parts.Optimizer", "must be built, with () behind its name"),
    ("parts.Train.steps = 7", "test.gin: field 'Train.files': must be set"),
    ("parts.Train.files = %file", "there is no macro %file"),
    ("parts.Train.files = ('a',)\nstep = 3", "test.gin:4: field 'step': is a macro that nothing uses"),
    ("parts.Train.files = ('a',)\nparts.Optimizer.clip = 1.0",
     "test.gin:4: field 'parts.Optimizer.clip': nothing uses Optimizer, and the config already binds Train"),
    ("parts.Train.files = ('a',)\nparts.Train.seed = 1\nparts.Train.seed = 2",
     "test.gin:5: field 'parts.Train.seed' = 2: is bound twice (first in line 4)"),
    ("parts.Optimizer.schedule = 'linear'", "must be one of 'constant', 'cosine'"),
    ("parts.Optimizer.learning_rate = -1.0",
     "test.gin:3: field 'learning_rate' = -1.0: must be positive"),
    ("parts.Train.files = ('a',", "syntax error: "),
    ("parts.Train.files = a.jsonl", "test.gin:3: syntax error: cannot read a; a text needs quotes"),
    ("parts.Train.files", "test.gin:3: syntax error: "),
    ("parts.Train.files = 'a", "syntax error"),
    ("parts.Train:\n  seed = 1\n seed = 2", "syntax error"),
    ("import no_such_module",
     "test.gin:3: value 'no_such_module': cannot be imported (No module named 'no_such_module')"),
    ("from __gin__ import magic", "unknown gin feature"),
    ("import json as parts\nparts.Train.seed = 1", "'parts' already names configs_for_tests"),
    ("", "test.gin: binds no config"),
])
def test_refuses_in_one_line(config, text, message):
    with pytest.raises(InputError) as caught:
        resolve(config(HEADER + text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and "configurable" not in str(caught.value)


@pytest.mark.parametrize(("override", "message"), [
    ("Train.steps", "--gin.Train.steps: must have the form part.Class.field=value"),
    ("Train.steps='x'", "--gin.Train.steps='x': field 'parts.Train.steps' = 'x': must be a whole number, not a text"),
    ("Train.stepz=3", "Train has no field 'stepz'; did you mean 'steps'?"),
    ("Nothing.stepz=3", "'Nothing' is not imported"),
    ("Optimizer.schedule=cosine", "--gin.Optimizer.schedule=cosine: syntax error: cannot read cosine; a text"),
    ("import json", "must have the form"),
    ("Optimizer.learning_rate=0", "--gin.Optimizer.learning_rate=0: field 'learning_rate' = 0: must be positive"),
])
def test_refuses_overrides(config, override, message):
    with pytest.raises(InputError) as caught:
        resolve(config(GOOD), [override])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_refuses_the_config_of_another_command(config):
    with pytest.raises(InputError, match="binds Train, but this command needs Other"):
        resolve(config(GOOD), expected=parts.Other)


def test_finds_configs_by_path_and_by_name_from_any_directory(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(config(GOOD)) == tmp_path / "test.gin"
    (tmp_path / "configs/prm").mkdir(parents=True)
    config(GOOD, "configs/prm/mine.gin")
    for name in ("prm/mine", "prm/mine.gin"):
        assert find_config(name).resolve() == tmp_path / "configs/prm/mine.gin"
    assert "prm/mine" in shipped_configs()
    with pytest.raises(InputError, match="'prm/absent': no such config file or name; shipped configs: .*prm/mine"):
        find_config("prm/absent")


def test_the_checkout_is_a_config_folder(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert repository / "configs" in config_folders()


def test_every_shipped_config_resolves(repository):
    for name in shipped_configs():
        resolved = resolve(name)
        assert len(resolved.sha256) == 64, name


def test_a_malformed_file_gives_one_line_in_a_fresh_process_too(config):
    """Without pytest's import hook, as a user runs it."""
    script = f"from jaxprm.cli.main import main; main(['train', {config(HEADER + 'parts.Train.files = (')!r}])"
    done = subprocess.run([sys.executable, "-c", "import sys, types; "
                           "sys.modules['jaxprm.pipelines.train_prm'] = types.SimpleNamespace(TrainPRM=int); "
                           "sys.modules['configs_for_tests'] = types.SimpleNamespace(__name__='x'); " + script],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and "test.gin" in done.stderr and "syntax error" in done.stderr
