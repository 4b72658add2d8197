"""Test-time search guided by a process reward model."""

from jaxprm.search.budget import Budget
from jaxprm.search.engine import search
from jaxprm.search.result import STOPS, SearchCosts, SearchResult, SearchTree, chosen_ids, chosen_path, solutions, steps_of
from jaxprm.search.strategies import (DVTS, STRATEGIES, Beam, BestOfN, Distinct, EarlyRejection, EntropyBranching, Greedy,
                                      Level, Lookahead, Particle, Rebase, Selection, Strategy, ValueGuided)

__all__ = ["DVTS", "STOPS", "STRATEGIES", "Beam", "BestOfN", "Budget", "Distinct", "EarlyRejection", "EntropyBranching",
           "Greedy", "Level", "Lookahead", "Particle", "Rebase", "SearchCosts", "SearchResult", "SearchTree", "Selection",
           "Strategy", "ValueGuided", "chosen_ids", "chosen_path", "search", "solutions", "steps_of"]
