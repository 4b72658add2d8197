"""Sampling: the jitted sampler, local policies, and sampled rows."""

from jaxprm.generation.policy import LocalPolicy, SampledSolution, pad_prompts
from jaxprm.generation.rows import SolutionRows, solution_rows
from jaxprm.generation.sampler import Samples, SamplingConfig, filter_logits, generate, sample, start

__all__ = ["LocalPolicy", "SampledSolution", "Samples", "SamplingConfig", "SolutionRows", "filter_logits", "generate",
           "pad_prompts", "sample", "solution_rows", "start"]
