"""Arguments and options that several commands share, and the choices that an option offers."""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import Annotated

import typer

from jaxprm.errors import InputError


class Dtype(enum.StrEnum):
    """Type of weights and activations."""

    float32, bfloat16 = "float32", "bfloat16"


class Neutral(enum.StrEnum):
    """How a neutral rating counts."""

    good, bad, ignore = "good", "bad", "ignore"


class AfterError(enum.StrEnum):
    """What the steps behind the first wrong one count as."""

    keep, ignore, bad = "keep", "ignore", "bad"


class Overlong(enum.StrEnum):
    """What to do with solutions that do not fit."""

    error, drop = "error", "drop"


ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="Name of a shipped config, or a .gin file.")]
RunOption = Annotated[Path | None, typer.Option("--run", metavar="DIR", help="Run directory [default: runs/CONFIG]. "
                                                                           "If it holds this run, the run goes on.")]
FamilyOption = Annotated[str | None, typer.Option("--family", metavar="NAME", help=(
    "How a published model reads text [default: what its directory says]; a wrong name lists all."))]
ReferenceOption = Annotated[str | None, typer.Option("--reference", metavar="DIR", help=(
    "Reference model of an implicit reward model; `hf:ORG/NAME` downloads it."))]
BaseOption = Annotated[str | None, typer.Option("--base", metavar="DIR", help=(
    "Model that an adapter or bare weights belong to; `hf:ORG/NAME` downloads it."))]
VariantOption = Annotated[str | None, typer.Option("--variant", metavar="NAME", help=(
    "A published variant of the family; a wrong name lists all."))]
SeparatorOption = Annotated[str | None, typer.Option("--separator", metavar="TEXT", help=(
    r"Text that closes a step, for families whose directory does not say (trl, openrlhf); `\n` is a line break."))]
ColumnsOption = Annotated[str | None, typer.Option("--columns", metavar="GOOD,BAD", help=(
    "Tokens whose logits are compared (openrlhf)."))]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Type of weights and activations.")]
MeshOption = Annotated[str | None, typer.Option("--mesh", metavar="DATA,FSDP,TENSOR", help=(
    "Score on several devices: rows are split over DATA and FSDP, weights over FSDP and TENSOR; -1 = the rest."))]
BatchTokensOption = Annotated[int, typer.Option("--batch-tokens", metavar="N", min=1, help="Tokens scored at a time.")]
GinOption = Annotated[list[str] | None, typer.Option("--gin", metavar="CLASS.FIELD=VALUE", help=(
    "Change a value of the config, also written `--gin.CLASS.FIELD=VALUE`; may be repeated. A text needs quotes: "
    "`--gin.TrainPRM.name='\"a\"'`."))]


def reading_settings(variant: str | None, separator: str | None, columns: str | None):
    """`jaxprm.hub.families.Settings` from their options; `\\n` and `\\t` in a separator are a line break and a tab."""
    from jaxprm.hub.families import Settings

    pair = None if columns is None else tuple(columns.split(","))
    if pair is not None and (len(pair) != 2 or not all(pair)):
        raise InputError("must be two tokens with a comma between them", field="columns", value=columns, hint="such as +,-")
    if separator is not None:
        separator = separator.replace("\\n", "\n").replace("\\t", "\t")
    return Settings(variant or "", separator, pair)


_OF_A_MODEL = ("family", "reference", "base", "variant", "separator", "columns")


def model_choice(text: str):
    """``DIR [--family NAME ...]`` -> `ModelChoice`; several models need options of their own."""
    from jaxprm.pipelines.bench_models import ModelChoice

    directory, *rest = re.split(rf"\s--({'|'.join(_OF_A_MODEL)})[\s=]", text)
    unknown = re.search(r"\s(--[\w-]+)", directory)
    if unknown is not None:
        raise InputError("is no option of a model", field="model", value=unknown[1],
                         hint=f"behind its directory may stand --{', --'.join(_OF_A_MODEL)}")
    found = dict(zip(rest[::2], rest[1::2]))
    if 2 * len(found) < len(rest):
        raise InputError("has an option twice", field="model", value=text)
    settings = reading_settings(*(found.pop(name, None) for name in ("variant", "separator", "columns")))
    named = {name: value.strip() for name, value in found.items()}
    return ModelChoice(directory.strip(), **named, settings=settings, label=text)


def mesh_of(sizes: str | None):
    """The mesh of `--mesh DATA,FSDP,TENSOR`, None without one."""
    if sizes is None:
        return None
    from jaxprm.models import make_mesh

    return make_mesh(*mesh_axes(sizes))


def mesh_axes(sizes: str) -> tuple[int, int, int]:
    """Three numbers from `DATA,FSDP,TENSOR`."""
    try:
        data, fsdp, tensor = (int(size) for size in sizes.split(","))
    except ValueError:
        raise InputError("must be three whole numbers with commas between them", field="mesh", value=sizes,
                         hint="such as 1,1,-1") from None
    return data, fsdp, tensor
