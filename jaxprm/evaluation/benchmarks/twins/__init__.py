"""Procedural twins: for every benchmark, items of the same form on the embedded tasks, whose labels a verifier makes.

No download, no annotator, no contamination: a twin is a pure function of (seed, number of problems). Problems come from the
part that the quickstart tests on, in its size, so that no reward model trained there has seen them.
"""

from jaxprm.evaluation.benchmarks.twins.agents import agentprocessbench, webrewardbench
from jaxprm.evaluation.benchmarks.twins.pools import best_of_n, prm800k_best_of_n
from jaxprm.evaluation.benchmarks.twins.solutions import deltabench, mr_score, prmbench, processbench, steps

__all__ = [
    "agentprocessbench",
    "best_of_n",
    "deltabench",
    "mr_score",
    "prm800k_best_of_n",
    "prmbench",
    "processbench",
    "steps",
    "webrewardbench",
]
