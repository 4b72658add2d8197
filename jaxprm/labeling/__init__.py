"""Step labels: exact, by token, and from rollouts."""

from jaxprm.labeling.monte_carlo import MonteCarloLabeler
from jaxprm.labeling.tokens import token_labels
from jaxprm.labeling.verifier import VerifierLabeler

__all__ = ["MonteCarloLabeler", "VerifierLabeler", "token_labels"]
