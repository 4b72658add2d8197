"""Level strategies: which candidates of a level of the search go on. `STRATEGIES` names them."""

from jaxprm.search.strategies.base import STRATEGIES, Level, Selection, Strategy
from jaxprm.search.strategies.beam import Beam, Greedy

__all__ = ["STRATEGIES", "Beam", "Greedy", "Level", "Selection", "Strategy"]
