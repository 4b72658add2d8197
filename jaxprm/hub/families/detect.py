"""Which family a checkpoint is of, from what its directory shows; where that is not enough, an error with the candidates."""

from __future__ import annotations

from pathlib import Path

from jaxprm.errors import InputError
from jaxprm.hub.families import FAMILIES, Evidence, Family


class UncertainFamily(InputError):
    """A checkpoint whose files fit no family, or several."""


def candidates(seen: Evidence) -> list[Family]:
    """Every family that the checkpoint may be of."""
    return [family for family in FAMILIES.values() if family.fits(seen)]


def detect(seen: Evidence, directory: Path) -> Family:
    """The family of a checkpoint.

    Raises:
      UncertainFamily: none fits, or several do; the error lists them.
    """
    found = candidates(seen)
    if len(found) == 1:
        return found[0]
    if not found:
        raise UncertainFamily(f"no published reward model has the architecture '{seen.architecture}' with such tensors",
                              file=directory, hint=f"choose one with --family: {', '.join(FAMILIES)}")
    names = [family.name for family in found]
    if seen.causal and not seen.adapter and not seen.reference:
        names.append("implicit (with --reference)")
    raise UncertainFamily(f"its files fit several families: {', '.join(names)}", file=directory,
                          hint="choose one with --family")


def family_named(name: str) -> Family:
    """The family of a name.

    Raises:
      InputError: there is none of that name.
    """
    if name not in FAMILIES:
        raise InputError(f"is not one of {', '.join(FAMILIES)}", field="family", value=name)
    return FAMILIES[name]
