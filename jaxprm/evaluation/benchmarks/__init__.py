"""Benchmarks: one small file each, behind one interface (`base.Benchmark`)."""

from jaxprm.evaluation.benchmarks.base import Benchmark, EvaluateOptions, Evaluation, Item, Line, ReadPolicies, read_labeled
from jaxprm.evaluation.benchmarks.deltabench import DELTABENCH
from jaxprm.evaluation.benchmarks.mr_score import MR_SCORE
from jaxprm.evaluation.benchmarks.prmbench import PRMBENCH
from jaxprm.evaluation.benchmarks.processbench import PROCESSBENCH
from jaxprm.evaluation.benchmarks.selective import SELECTIVE
from jaxprm.evaluation.benchmarks.steps import STEPS

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for benchmark in (STEPS, PROCESSBENCH, PRMBENCH, DELTABENCH, MR_SCORE, SELECTIVE)}

__all__ = ["BENCHMARKS", "Benchmark", "EvaluateOptions", "Evaluation", "Item", "Line", "ReadPolicies", "read_labeled"]
