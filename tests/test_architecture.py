"""The house rules that a program can check."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAX_LINES = 450


def tracked_files(repository: Path) -> list[Path]:
    """Files of the checkout that git knows or would add; all of them where git is absent (a source archive)."""
    if shutil.which("git") and (repository / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=repository,
                                capture_output=True, text=True, check=True)
        names = [name for name in listed.stdout.split("\0") if name]
    else:
        names = [path.relative_to(repository).as_posix() for folder in ("jaxprm", "tests", "configs")
                 for path in (repository / folder).rglob("*") if "__pycache__" not in path.parts]
    return [repository / name for name in names if (repository / name).is_file()]


def test_rooms_import_only_downwards(repository):
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_stay_short(repository):
    long = {path.relative_to(repository).as_posix(): lines for path in tracked_files(repository)
            if path.suffix == ".py" and (lines := len(path.read_text().splitlines())) > MAX_LINES}
    assert not long


@pytest.mark.parametrize("module", ["jaxprm", "jaxprm.data.pipeline", "jaxprm.run_directory", "jaxprm.progress"])
def test_imports_stay_light(module):
    heavy = ("gin", "torch", "transformers", "tensorflow", "matplotlib", "typer")
    script = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_import_jaxprm_starts_nothing():
    script = "import sys, jaxprm; print([m for m in ('jax', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_machine_paths(repository):
    """A path of somebody's machine in a tracked text file."""
    pattern = re.compile(rb"(?<![\w.])/(?:home|Users|root|work)/[\w.-]+")
    found = {path.relative_to(repository).as_posix(): pattern.findall(path.read_bytes())[:3]
             for path in tracked_files(repository)
             if path.suffix in {".py", ".gin", ".md", ".toml", ".json", ".html", ".sh", ".yml", ".ipynb", ""}
             and pattern.search(path.read_bytes())}
    assert not found
