"""Step labels: exact, and from rollouts."""

from jaxprm.labeling.monte_carlo import MonteCarloLabeler
from jaxprm.labeling.verifier import VerifierLabeler

__all__ = ["MonteCarloLabeler", "VerifierLabeler"]
