"""Benchmarks: one small file each, behind one interface (`base.Benchmark`)."""

from jaxprm.evaluation.benchmarks.base import Benchmark, EvaluateOptions, Evaluation, Item, Line, ReadPolicies, read_labeled

BENCHMARKS: dict[str, Benchmark] = {}

__all__ = ["BENCHMARKS", "Benchmark", "EvaluateOptions", "Evaluation", "Item", "Line", "ReadPolicies", "read_labeled"]
