"""Step labels: exact, by token, from rollouts, from outcomes, and from an ensemble that knows when it is sure."""

from jaxprm.labeling.monte_carlo import MonteCarloLabeler
from jaxprm.labeling.tokens import token_labels
from jaxprm.labeling.trust import Trust, trust
from jaxprm.labeling.verifier import VerifierLabeler
from jaxprm.labeling.weak import entropic_value, outcome_labels

__all__ = ["MonteCarloLabeler", "Trust", "VerifierLabeler", "entropic_value", "outcome_labels", "token_labels", "trust"]
