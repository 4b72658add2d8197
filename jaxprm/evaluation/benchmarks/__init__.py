"""Benchmarks: one small file each, behind one interface (`base.Benchmark`)."""

from jaxprm.evaluation.benchmarks.agentprocessbench import AGENTPROCESSBENCH
from jaxprm.evaluation.benchmarks.base import Benchmark, EvaluateOptions, Evaluation, Item, Line, ReadPolicies, read_labeled
from jaxprm.evaluation.benchmarks.best_of_n import BEST_OF_N
from jaxprm.evaluation.benchmarks.deltabench import DELTABENCH
from jaxprm.evaluation.benchmarks.mr_score import MR_SCORE
from jaxprm.evaluation.benchmarks.prm800k_best_of_n import PRM800K_BEST_OF_N
from jaxprm.evaluation.benchmarks.prmbench import PRMBENCH
from jaxprm.evaluation.benchmarks.processbench import PROCESSBENCH
from jaxprm.evaluation.benchmarks.selective import SELECTIVE
from jaxprm.evaluation.benchmarks.steps import STEPS
from jaxprm.evaluation.benchmarks.webrewardbench import WEBREWARDBENCH

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for benchmark in (
        STEPS, PROCESSBENCH, PRMBENCH, DELTABENCH, MR_SCORE, SELECTIVE, BEST_OF_N, PRM800K_BEST_OF_N, WEBREWARDBENCH,
        AGENTPROCESSBENCH)}

__all__ = ["BENCHMARKS", "Benchmark", "EvaluateOptions", "Evaluation", "Item", "Line", "ReadPolicies", "read_labeled"]
