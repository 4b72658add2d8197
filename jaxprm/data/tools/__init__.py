"""What is done to data files before training: convert, count, check, split, deduplicate, compare, mix. All of it streams.

Every tool reads any format of `jaxprm.data.formats`. `convert` writes solutions; the others pass raw rows on as they are.
"""

from jaxprm.data.tools.convert import ConvertCounts, convert
from jaxprm.data.tools.dedup import DedupCounts, dedup
from jaxprm.data.tools.mix import MixCounts, mix
from jaxprm.data.tools.overlap import OverlapCounts, overlap
from jaxprm.data.tools.source import Errors, Source
from jaxprm.data.tools.split import split
from jaxprm.data.tools.stats import Statistics, statistics
from jaxprm.data.tools.validate import Validation, validate

__all__ = ["ConvertCounts", "DedupCounts", "Errors", "MixCounts", "OverlapCounts", "Source", "Statistics", "Validation",
           "convert", "dedup", "mix", "overlap", "split", "statistics", "validate"]
