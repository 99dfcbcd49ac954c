"""How gradient norms go together with what networks reach: Kendall's tau-b with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

RESAMPLES = 1000


@dataclass(frozen=True)
class Correlation:
    """A rank correlation with its interval.

    Attributes:
        tau: Kendall's tau-b in [-1, 1], which corrects for ties; NaN if one of both never changes.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        runs: Number of runs.
    """

    tau: float
    low: float
    high: float
    runs: int


def correlation(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Correlation:
    """Return how two numbers of the same runs go together, with a percentile bootstrap interval over the runs.

    Args:
        first: One number per run.
        second: Another number of each run.
        seed: Seed for drawing runs.

    >>> correlation([1, 2, 3], [4, 6, 9]).tau
    1.0
    """
    xs, ys = np.asarray(first, float), np.asarray(second, float)
    whole = _tau(xs, ys)
    if np.isnan(whole):
        return Correlation(whole, whole, whole, len(xs))
    source = np.random.default_rng(seed)
    drawn = [_tau(xs[chosen], ys[chosen]) for chosen in source.integers(0, len(xs), (RESAMPLES, len(xs)))]
    known = [tau for tau in drawn if not np.isnan(tau)]
    low, high = np.percentile(known, [2.5, 97.5]) if known else (np.nan, np.nan)
    return Correlation(whole, float(low), float(high), len(xs))


def _tau(xs: NDArray[np.float64], ys: NDArray[np.float64]) -> float:
    return float(kendalltau(xs, ys).statistic)
