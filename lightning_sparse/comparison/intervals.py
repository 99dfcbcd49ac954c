"""Intervals of means."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

from scipy.stats import t

# A mean with the ends of its interval.
Interval = tuple[float, float, float]


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Return the mean and the ends of Student's interval for it; of one value, no interval is known: three times it.

    Args:
        values: Values, one at least.
        level: Probability of the interval, in (0, 1).

    >>> [round(each, 3) for each in mean_interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    mean = fmean(values)
    if len(values) < 2:
        return mean, mean, mean
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * stdev(values) / sqrt(len(values))
    return mean, mean - half, mean + half
