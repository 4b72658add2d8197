"""Test-time search guided by a process reward model."""

from jaxprm.search.adaptive import prompt_success, run_by_width, widths_for
from jaxprm.search.budget import Budget
from jaxprm.search.engine import search
from jaxprm.search.nodes import NODE_STRATEGIES, NodeResult, NodeStrategy, NodeTree
from jaxprm.search.result import STOPS, SearchCosts, SearchResult, SearchTree, chosen_ids, chosen_path, solutions, steps_of
from jaxprm.search.rewind import ChunkReset, Refine, rewind_search
from jaxprm.search.stepwise import DualPhase, Pats, stepwise_search
from jaxprm.search.strategies import (DVTS, STRATEGIES, Beam, BestOfN, Distinct, EarlyRejection, EntropyBranching, Greedy,
                                      Level, Lookahead, Particle, Rebase, Selection, Strategy, ValueGuided)
from jaxprm.search.tree import Tree, TreeResult, tree_search
from jaxprm.search.variants import VARIANTS, TreeVariant

__all__ = ["DVTS", "NODE_STRATEGIES", "STOPS", "STRATEGIES", "VARIANTS", "Beam", "BestOfN", "Budget", "ChunkReset", "Distinct",
           "DualPhase", "EarlyRejection", "EntropyBranching", "Greedy", "Level", "Lookahead", "NodeResult", "NodeStrategy",
           "NodeTree", "Particle", "Pats", "Rebase", "Refine", "SearchCosts", "SearchResult", "SearchTree", "Selection",
           "Strategy", "Tree", "TreeResult", "TreeVariant", "ValueGuided", "chosen_ids", "chosen_path", "prompt_success",
           "rewind_search", "run_by_width", "search", "solutions", "steps_of", "stepwise_search", "tree_search", "widths_for"]
