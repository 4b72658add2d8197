"""How a command starts: jax with its caches, a config with its run directory."""

from __future__ import annotations

import importlib
import logging
import os
from pathlib import Path

from jaxprm.errors import InputError
from jaxprm.progress import Progress, SilentProgress, terminal_progress

CACHE_VARIABLE = "JAXPRM_CACHE"
"""Environment variable that names the folder of the persistent compilation cache; kept scores lie in its folder `scores`."""


def prepare() -> Progress:
    """Starts jax with a persistent compilation cache, unless the user has set one, and picks how to show progress."""
    from jaxprm.runtime import keep_freed_memory

    keep_freed_memory()
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns of what a single process does not need
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", os.environ.get(CACHE_VARIABLE) or str(cache_folder() / "xla"))
    return terminal_progress() if jax.process_index() == 0 else SilentProgress()


def cache_folder() -> Path:
    """The folder of what may be lost: compiled programs, kept scores."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else Path.home() / ".cache" / "jaxprm"


def run_config(module: str, root: str, config: str, run: Path | None, overrides: list[str] | None,
                options: dict | None = None) -> Path:
    """Resolves a config for the pipeline ``module``, runs it in its directory, and returns the path of the report."""
    progress = prepare()
    import jax

    from jaxprm.cli.config import resolve
    from jaxprm.run_directory import RunDirectory
    from jaxprm.training.processes import first_process_first

    pipeline = importlib.import_module(module)
    resolved = resolve(config, overrides or (), getattr(pipeline, root))
    with first_process_first("run directory"):
        directory = RunDirectory(run or Path("runs") / resolved.name, resolved.config, resolved.text,
                                 writes=jax.process_index() == 0)
    progress.log(f"{'resuming' if directory.resumed else 'starting'} {directory.path} "
                 f"(config {resolved.path}, sha256 {resolved.sha256[:12]})")
    try:
        pipeline.run(resolved.config, directory, progress, **(options or {}))
    except InputError:
        directory.discard_unused()
        raise
    return directory.report
