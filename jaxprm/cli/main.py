"""The commands. Each resolves its config or options and calls one function of `jaxprm.pipelines`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import jaxprm
from jaxprm.cli.data import app as data_app
from jaxprm.cli.options import (
    AfterError, BaseOption, BatchTokensOption, ColumnsOption, ConfigArgument, Dtype, DtypeOption, FamilyOption, GinOption,
    MeshOption, Neutral, Overlong, ReferenceOption, RunOption, SeparatorOption, VariantOption, mesh_axes, mesh_of,
    model_choice, reading_settings,
)
from jaxprm.cli.running import cache_folder, prepare, run_config
from jaxprm.errors import Diverged, InputError, Stopped

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Process reward models in JAX: train them, score steps, measure.")
app.add_typer(data_app, name="data")


def _version(value: bool) -> bool:
    if value:
        print(jaxprm.__version__)
        raise typer.Exit
    return value


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                                   help="Print the version and exit.")] = False) -> None:
    pass


@app.command()
def quickstart(config: ConfigArgument = "quickstart", run: RunOption = None, gin: GinOption = None) -> None:
    """The whole loop on the embedded task; ends with a report you can open.

    Example: `jaxprm quickstart --run runs/seed1 --gin.Quickstart.seed=1`
    """
    report = run_config("jaxprm.pipelines.quickstart", "Quickstart", config, run, gin)
    print(f"report: {report.resolve()}")


@app.command()
def train(
    config: ConfigArgument, run: RunOption = None, gin: GinOption = None,
    profile: Annotated[str | None, typer.Option(metavar="START:COUNT", help=(
        "Trace COUNT steps with JAX's profiler, after START steps of this call, into RUN/profile (view with xprof)."))] = None,
    distributed: Annotated[str | None, typer.Option(envvar="JAXPRM_DISTRIBUTED", metavar="auto|HOST:PORT,COUNT,INDEX", help=(
        "Train in several processes, each with this command, the same files and the same RUN: `auto` where the machine says "
        "how many there are (TPU pods, SLURM), else the address of the first, their number and which this is."))] = None,
) -> None:
    """Train a process reward model from step labels.

    SIGTERM saves a checkpoint and ends with exit code 75; a loss that is not finite ends with 3 and keeps its batch. In any
    case the same command goes on from the last checkpoint.

    Example: `JAXPRM_DATA=../shared/data jaxprm train prm/prm800k --gin.TrainPRM.seed=1`

    Example: `jaxprm train prm/prm800k --gin.TrainPRM.mesh="(-1, 1, 1)" --distributed auto` (on every host)
    """
    if distributed is not None:
        from jaxprm.runtime import join_processes

        join_processes(distributed)
    options = {}
    if profile is not None:
        from jaxprm.training.profiling import ProfileWindow

        options["profile"] = ProfileWindow.parse(profile)
    run_config("jaxprm.pipelines.train_prm", "TrainPRM", config, run, gin, options)


@app.command()
def search(
    config: ConfigArgument, run: RunOption = None, gin: GinOption = None,
    input: Annotated[Path | None, typer.Option(metavar="FILE", help=(
        "Problems: JSONL rows with `problem` and, if known, `answer` [default: the config's]."))] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help=(
        "Also write rows here: chosen solutions, scores, trees [all are in RUN/searched.jsonl]."))] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help=(
        "Also write the page here: numbers, and trees to unfold [always in RUN/report.html]."))] = None,
    mesh: Annotated[str | None, typer.Option(metavar="DATA,FSDP,TENSOR", help=(
        "Search on several devices: problems are split over DATA and FSDP, weights over FSDP and TENSOR; -1 = the rest "
        "[default: the config's]."))] = None,
) -> None:
    """Search for solutions of problems, guided by a reward model: accuracy with intervals, costs, trees.

    The policy may be a model of our own, a published one, or an endpoint; what goes wrong on the way (steps that do not end, an
    endpoint that fails) is counted in the results. A run that was stopped goes on with the same command; problems that are done
    are not searched again.

    Example: `jaxprm search search/arithmetic --html trees.html` (after `jaxprm quickstart`)

    Example: `jaxprm search search/arithmetic --gin.Beam.expansions=8 --gin.Search.limit=400 --run runs/wider`

    Example: `jaxprm search search/published --input problems.jsonl --output solved.jsonl` (models of Hugging Face)

    Example: `jaxprm search search/endpoint --input problems.jsonl --gin.Endpoint.url="'http://gpu7:8000/v1'"`
    """
    gin = [*(gin or ()), *([] if input is None else [f"Search.input={str(input)!r}"]),
           *([] if mesh is None else [f"Search.mesh={mesh_axes(mesh)}"])]
    report = run_config("jaxprm.pipelines.search", "Search", config, run, gin, {"output": output, "html": html})
    print(f"report: {report.resolve()}")


@app.command()
def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, also of a run that is still under way.")]
           ) -> None:
    """Build RUN/report.html anew from what the run has written so far.

    Example: `jaxprm report runs/prm800k`
    """
    prepare()
    from jaxprm.pipelines import report as pipeline

    print(f"report: {pipeline.run(run).resolve()}")


@app.command()
def score(
    model: Annotated[str, typer.Option(metavar="DIR", help=(
        "A published model, `hf:ORG/NAME` to download it, a run directory, or an export."))],
    input: Annotated[Path, typer.Option(metavar="FILE", help="JSONL rows with `problem` and `steps`.")],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The same rows plus `scores` and `aggregate`.")],
    family: FamilyOption = None,
    reference: ReferenceOption = None,
    base: BaseOption = None,
    variant: VariantOption = None,
    separator: SeparatorOption = None,
    columns: ColumnsOption = None,
    dtype: DtypeOption = Dtype.float32,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also show the steps coloured by score.")] = None,
    drop_empty: Annotated[bool, typer.Option("--drop-empty", help=(
        "Do not refuse (or score) empty steps; their score is null."))] = False,
    batch_tokens: BatchTokensOption = 16384,
    mesh: MeshOption = None,
) -> None:
    """Score every step of every solution in a file.

    Scores are those of the model's family, one per step: a probability, or a value on its own scale (pqm, pure, implicit).

    Example: `jaxprm score --model runs/prm800k --input X.jsonl --output Y.jsonl --html Y.html`

    Example: `jaxprm score --model hf:peiyi9979/math-shepherd-mistral-7b-prm --family math-shepherd --dtype bfloat16 --input
    X.jsonl --output Y.jsonl`
    """
    progress = prepare()
    from jaxprm.pipelines import score as pipeline

    pipeline.run(model, input, output, family=family, reference=reference, base=base,
                 settings=reading_settings(variant, separator, columns), dtype=dtype.value, html=html, drop_empty=drop_empty,
                 batch_tokens=batch_tokens, mesh=mesh_of(mesh), progress=progress)


@app.command()
def bench(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Benchmark; `--list` describes them.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Describe the benchmarks, with data and citation, and stop.")] = False,
    model: Annotated[list[str] | None, typer.Option(metavar='"DIR [OPTION...]"', help=(
        "Trained, exported or published model; may be given more than once. In the same quotes may follow what `jaxprm score` "
        "takes to read it: --family, --reference, --base, --variant, --separator, --columns."))] = None,
    data: Annotated[list[Path] | None, typer.Option(metavar="FILE", help=(
        "Benchmark file; may be given more than once."))] = None,
    scores: Annotated[list[str] | None, typer.Option(metavar="[NAME=]FILE", help=(
        'Scores that someone else made, rows {"id", "scores": [one per step]}; may be given more than once.'))] = None,
    baselines_from: Annotated[list[Path] | None, typer.Option(metavar="FILE", help=(
        "Also fit the baselines (position and length, TF-IDF) on this file; may be given more than once."))] = None,
    twin: Annotated[int | None, typer.Option(metavar="N", min=1, help=(
        "Instead of files: a procedural benchmark of the same form with N problems."))] = None,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="Seed of the twin.")] = 0,
    threshold: Annotated[str | None, typer.Option(metavar="X|split:NAME|oracle", help=(
        "Threshold on step scores: a number, the best one on the subset NAME, or the best one of each subset on itself "
        "[default: 0.5]."))] = None,
    neutral: Annotated[Neutral | None, typer.Option(help=(
        "How a neutral rating counts [default: as in the model's training]."))] = None,
    after_error: Annotated[AfterError, typer.Option(help=(
        "What steps behind the first wrong one count as."))] = AfterError.keep,
    drop_empty: Annotated[bool, typer.Option("--drop-empty", help="Leave out empty steps, do not refuse.")] = False,
    overlong: Annotated[Overlong, typer.Option(help=(
        "What to do with solutions longer than the model's context; dropped ones are counted."))] = Overlong.error,
    dtype: DtypeOption = Dtype.float32,
    batch_tokens: BatchTokensOption = 16384,
    mesh: MeshOption = None,
    resamples: Annotated[int | None, typer.Option(metavar="N", min=1, help=(
        "Resamples behind intervals and p-values [default: 1000]."))] = None,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help=(
        "Folder of kept scores [default: scores beside the compilation cache]."))] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor keep scores.")] = False,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write every number here.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a page with curves here.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw the first two numbers here (PNG).")] = None,
) -> None:
    """Evaluate models on a benchmark: a table, with intervals and paired tests.

    Scores of models are kept, so that a second benchmark on the same solutions costs no forward pass.

    Example: `jaxprm bench steps --model runs/prm800k --data ../shared/data/dev_eval/parc.jsonl.gz`

    Example: `jaxprm bench processbench --scores mine=scores.jsonl --data gsm8k.json --data math.json --threshold split:gsm8k`

    Example: `jaxprm bench processbench --data math.json --dtype bfloat16 --mesh 1,1,-1 --model path/to/Qwen2.5-Math-PRM-7B
    --model "hf:peiyi9979/math-shepherd-mistral-7b-prm --family math-shepherd"`
    """
    if list_:
        from jaxprm.pipelines.bench_tables import print_benchmarks

        print_benchmarks()
        return
    if name is None:
        raise InputError("no benchmark", hint="give the name of one; --list describes them")
    if no_cache and cache is not None:
        raise InputError("cannot be given beside --no-cache", field="cache", value=str(cache))
    progress = prepare()
    from jaxprm.pipelines import bench as pipeline
    from jaxprm.pipelines.bench_models import Computing

    computing = Computing(dtype.value, mesh_of(mesh), batch_tokens)
    pipeline.run(name, list(map(model_choice, model or ())), data or (), scores=scores or (),
                 baselines_from=baselines_from or (), twin=twin, seed=seed, threshold=threshold,
                 neutral=neutral and neutral.value, after_error=after_error.value, drop_empty=drop_empty,
                 overlong=overlong.value, resamples=resamples, computing=computing, json_path=json, html=html, plot=plot,
                 cache=None if no_cache else cache or cache_folder() / "scores", progress=progress)


@app.command()
def calibrate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Rows that `jaxprm score` has written.")],
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help=(
        "The calibrator (JSON); with --use the rows with calibrated scores."))],
    use: Annotated[Path | None, typer.Option("--use", metavar="FILE", help="Calibrate with this one, do not fit.")] = None,
    kind: Annotated[str, typer.Option("--kind", metavar="temperature|platt|isotonic|quantile", help=(
        "What is fitted; all but temperature also take scores that are no probabilities."))] = "temperature",
    level: Annotated[str, typer.Option("--level", metavar="step|solution", help=(
        "Step scores by step labels, or aggregates by `final_correct`."))] = "step",
    share: Annotated[float, typer.Option("--share", metavar="X", help="Share of problems to fit on; others check it.")] = 0.5,
    bins: Annotated[int, typer.Option("--bins", metavar="N", min=1, help="Equal-width bins of the calibration error.")] = 10,
) -> None:
    """Make scores probabilities: fit on a share of the problems, measure on the others.

    Example: `jaxprm calibrate scored.jsonl --kind platt --output calibrator.json`

    Example: `jaxprm calibrate new.jsonl --use calibrator.json --output calibrated.jsonl`
    """
    from jaxprm.pipelines import calibrate as pipeline

    if use is not None:
        print(f"{pipeline.use(files, use, output):,} rows: {output}")
        return
    found = pipeline.fit(files, output, kind=kind, level=level, share=share, bins=bins)
    for name, (before, after) in ((f"calibration error ({bins} bins)", found.error), ("Brier score", found.brier)):
        print(f"{name:28} {'-' if before is None else f'{before:.4f}'} -> {after:.4f}")
    print(f"fitted on {found.fitted:,} {level}s, measured on {found.checked:,} of other problems: {output}")


@app.command()
def inspect(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Model or run directory, or `hf:ORG/NAME`.")],
    family: FamilyOption = None,
    base: BaseOption = None,
    variant: VariantOption = None,
    separator: SeparatorOption = None,
    columns: ColumnsOption = None,
) -> None:
    """What is in a model, how it reads steps, and what looks wrong.

    Example: `jaxprm inspect runs/prm800k`
    """
    prepare()
    from rich.console import Console
    from rich.table import Table

    from jaxprm.pipelines.inspect_model import describe

    table = Table(show_header=False, box=None)
    for name, value in describe(directory, family, settings=reading_settings(variant, separator, columns), base=base):
        table.add_row(name, value)
    Console(highlight=False, markup=False).print(table)


@app.command()
def export(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Hugging Face directory to write.")],
    run: Annotated[Path | None, typer.Option("--run", metavar="DIR", help="Run or model directory of our own.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="DIR", help="A published model, or `hf:ORG/NAME`.")] = None,
    family: FamilyOption = None,
    reference: ReferenceOption = None,
    base: BaseOption = None,
    variant: VariantOption = None,
    separator: SeparatorOption = None,
    columns: ColumnsOption = None,
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Type of the written weights.")] = Dtype.float32,
    shard_bytes: Annotated[int, typer.Option(metavar="N", min=1, help="Largest size of a file of weights.")] = 5 * 10**9,
) -> None:
    """Write a model as a directory that transformers, TRL and vLLM load, and that needs no options here.

    Linear heads become token classification with the labels (bad, good); a language model, or the policy of an implicit reward
    model, becomes a causal language model. Other heads carry their own code, for `trust_remote_code=True`.

    Example: `jaxprm export --run runs/prm800k --output exported`
    """
    progress = prepare()
    from jaxprm.pipelines import export as pipeline

    pipeline.run(output, run=run, model=model, family=family, reference=reference,
                 settings=reading_settings(variant, separator, columns), base=base, dtype=dtype.value, shard_bytes=shard_bytes,
                 progress=progress)


@app.command()
def plan(
    config: Annotated[str | None, typer.Argument(metavar="CONFIG", help=(
        "Name of a shipped training config, or a .gin file."))] = None,
    devices: Annotated[int, typer.Option(metavar="N", help="Devices to train on.")] = 1,
    mesh: Annotated[str | None, typer.Option(metavar="DATA,FSDP,TENSOR", help=(
        "Sizes of the mesh; -1 = the rest [default: the config's, or fsdp over all devices]."))] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help=(
        "Kind of device (h200, v5e, v5p, ...): also say what to change if it does not fit [default: compare all]."))] = None,
    table: Annotated[bool, typer.Option("--table", help=(
        "Instead of a config: 1.5B, 7B and 72B models on 1 x H200, v5e-16 and v5p-256, as Markdown."))] = False,
    gin: GinOption = None,
) -> None:
    """What a training step needs: memory per device, operations, and where it fits. Nothing is trained or compiled.

    Example: `jaxprm plan prm/prm800k --devices 8 --mesh 1,-1,2 --device v5e`
    """
    prepare()
    from jaxprm.pipelines import plan as pipeline

    if table and config is not None:
        raise InputError("is not read with --table", field="CONFIG", value=config, hint="leave one of them out")
    if config is None and not table:
        raise InputError("no config", hint="give the name of one, or --table")
    if config is None:
        print(*pipeline.table(), sep="\n")
        return
    from rich.console import Console
    from rich.table import Table

    from jaxprm.cli.config import resolve
    from jaxprm.pipelines.train_prm import TrainPRM

    setup = pipeline.setup(resolve(config, gin or (), TrainPRM).config, devices, mesh and mesh_axes(mesh))
    lines = Table(show_header=False, box=None)
    for name, value in pipeline.describe(setup, device):
        lines.add_row(name, value)
    Console(highlight=False, markup=False).print(lines)


@app.command()
def doctor() -> None:
    """What this machine offers: devices, cores, memory, versions, caches, data."""
    prepare()
    from jaxprm.cli.doctor import show

    show()


def spell_out_overrides(arguments: list[str]) -> list[str]:
    """``--gin.X=Y``, which no option parser knows, becomes ``--gin=X=Y``."""
    prefix = "--gin."
    return [f"--gin={item.removeprefix(prefix)}" if item.startswith(prefix) else item for item in arguments]


def main(arguments: list[str] | None = None) -> None:
    """The console script. What a user can mend ends in one line on standard error.

    Exit codes: 2 bad input, 3 a loss or gradient that is not finite, 75 stopped by SIGTERM with everything saved, 130
    interrupted.
    """
    arguments = spell_out_overrides(sys.argv[1:] if arguments is None else arguments)
    message = None
    try:
        # Not standalone, so that errors arrive here; it returns the exit code of --help (0) and of an interrupt (130).
        help_only = ["--help"] if arguments in ([], ["data"]) else []  # a group without a command shows what it has
        code = app(args=arguments + help_only, prog_name="jaxprm", standalone_mode=False) or 0
    except InputError as error:
        code, message = 2, str(error)
    except Diverged as error:
        code, message = 3, str(error)
    except Stopped as error:
        code, message = 75, str(error)
    except OSError as error:
        if error.filename is None:
            raise
        code, message = 2, f"{error.filename}: {error.strerror}"
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        # Wrong options. Their base class is click's or typer's own copy of it, by version; both have this method.
        if not hasattr(error, "format_message"):
            raise
        code, message = 2, f"{error.format_message().rstrip('.')}; see jaxprm --help"
    if code == 130:
        message = "interrupted; the same command goes on from the last checkpoint"
    if message:
        print("error: " + message.replace("\n", " "), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
