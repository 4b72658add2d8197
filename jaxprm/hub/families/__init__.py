"""Published PRM families, by the name that the command line knows them by."""

from collections.abc import Mapping

from jaxprm.hub.families.base import Evidence, Family, FamilyEncoder, Settings
from jaxprm.hub.families.chat import ACTPRM, QWEN_MATH_PRM, RLHFLOW
from jaxprm.hub.families.special import IMPLICIT, REASONEVAL, REASONFLUX, UNIVERSAL_PRM
from jaxprm.hub.families.stepwise import PURE, SKYWORK, TRL
from jaxprm.hub.families.tagged import ER_PRM, MATH_SHEPHERD, OPENR, OPENRLHF, PQM, VERSAPRM

FAMILIES: Mapping[str, Family] = {family.name: family for family in (
    QWEN_MATH_PRM, MATH_SHEPHERD, RLHFLOW, SKYWORK, TRL, PURE, PQM, REASONEVAL, OPENR, VERSAPRM, ACTPRM, UNIVERSAL_PRM,
    REASONFLUX, OPENRLHF, ER_PRM, IMPLICIT)}

__all__ = ["FAMILIES", "Evidence", "Family", "FamilyEncoder", "Settings"]
