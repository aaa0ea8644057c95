"""Measuring cost: the paired sampler (needs a clock) and the verdicts over what it sampled (pure)."""

from bscheck.measure.sampler import Samples, paired_sample
from bscheck.measure.verdict import (
    Comparison,
    Cost,
    Estimate,
    PairedTimes,
    compare,
    estimate,
    fixed_and_per_example_cost,
    paired_times,
)

__all__ = [
    "Comparison",
    "Cost",
    "Estimate",
    "PairedTimes",
    "Samples",
    "compare",
    "estimate",
    "fixed_and_per_example_cost",
    "paired_sample",
    "paired_times",
]
