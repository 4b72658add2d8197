"""Level strategies: which candidates of a level of the search go on. `STRATEGIES` names them."""

from jaxprm.search.strategies.base import STRATEGIES, Level, Selection, Strategy
from jaxprm.search.strategies.beam import Beam, Greedy
from jaxprm.search.strategies.dvts import DVTS
from jaxprm.search.strategies.rebase import Rebase, apportion
from jaxprm.search.strategies.sampling import BestOfN, EntropyBranching, Particle, particle_weights
from jaxprm.search.strategies.wrappers import Distinct, EarlyRejection, Lookahead, ValueGuided

__all__ = ["DVTS", "STRATEGIES", "Beam", "BestOfN", "Distinct", "EarlyRejection", "EntropyBranching", "Greedy", "Level",
           "Lookahead", "Particle", "Rebase", "Selection", "Strategy", "ValueGuided", "apportion", "particle_weights"]
