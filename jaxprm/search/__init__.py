"""Test-time search guided by a process reward model."""

from jaxprm.search.budget import Budget
from jaxprm.search.engine import search
from jaxprm.search.result import STOPS, SearchCosts, SearchResult, SearchTree, chosen_ids, chosen_path, solutions, steps_of
from jaxprm.search.strategies import STRATEGIES, Beam, Greedy, Level, Selection, Strategy

__all__ = ["STOPS", "STRATEGIES", "Beam", "Budget", "Greedy", "Level", "SearchCosts", "SearchResult", "SearchTree", "Selection",
           "Strategy", "chosen_ids", "chosen_path", "search", "solutions", "steps_of"]
