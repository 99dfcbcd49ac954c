"""Statistics of paired comparisons: exact with ties, of integer counts, whose differences have no rounding noise.

A pair is one configuration (a width and a seed) with both networks trained on the same batches; its difference is the
number of correctly classified test images of the sparse network minus that of the dense one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from math import inf, nan
from numbers import Integral

from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError


@dataclass(frozen=True)
class SignedRankTest:
    """Wilcoxon's signed-rank test of paired differences, one-sided: are they larger than zero?

    Attributes:
        pairs: Number of pairs, those without a difference included.
        wins: Number of differences > 0.
        ties: Number of differences of zero, which the test leaves out (Wilcoxon, 1945).
        losses: Number of differences < 0.
        positive: Sum of the ranks of the positive differences, W+; equal absolute differences share their mean rank.
        negative: Sum of the ranks of the negative differences, W-.
        p: Exact probability of a W+ at least as large if every sign were as likely as the other, in (0, 1]; 1 without
            any difference.
    """

    pairs: int
    wins: int
    ties: int
    losses: int
    positive: float
    negative: float
    p: float

    @property
    def rank_biserial(self) -> float:
        """Effect size in [-1, 1]: (W+ - W-) / (W+ + W-), the matched-pairs rank-biserial correlation (Kerby, 2014)."""
        whole = self.positive + self.negative
        return (self.positive - self.negative) / whole if whole else 0.0


def signed_rank_test(differences: Sequence[int]) -> SignedRankTest:
    """Return Wilcoxon's signed-rank test of integer differences against "not larger than zero".

    The distribution is counted over all 2^n assignments of signs to the ranks that occurred, so that it is exact with
    ties, too; ranks are doubled, which makes mean ranks integers.

    Args:
        differences: Integers, sparse minus dense.

    Raises:
        TypeError: If a difference is no integer.

    >>> signed_rank_test([3, 1, 4, 1, 5]).p
    0.03125
    """
    for difference in differences:
        if isinstance(difference, bool) or not isinstance(difference, Integral):
            raise InvalidTypeError(
                expected="integer differences, of which equal ones are exactly equal",
                got=repr(difference),
                cure="counts of correct images instead of accuracies",
            )
    present = [int(difference) for difference in differences if difference]
    ranks = _doubled_ranks([abs(difference) for difference in present])
    positive = sum(rank for rank, difference in zip(ranks, present, strict=True) if difference > 0)
    wins = sum(difference > 0 for difference in present)
    ways = _ways(ranks)
    return SignedRankTest(
        pairs=len(differences),
        wins=wins,
        ties=len(differences) - len(present),
        losses=len(present) - wins,
        positive=positive / 2,
        negative=(sum(ranks) - positive) / 2,
        p=float(Fraction(sum(ways[positive:]), 2 ** len(ranks))),
    )


def _doubled_ranks(sizes: Sequence[int]) -> list[int]:
    """Return twice the rank of each number; equal ones have the mean of the ranks that they take up."""
    doubled: dict[int, int] = {}
    before = 0
    for size, equal in groupby(sorted(sizes)):
        count = len(list(equal))
        doubled[size] = 2 * before + count + 1
        before += count
    return [doubled[size] for size in sizes]


def _ways(ranks: Sequence[int]) -> list[int]:
    """Return in how many ways the ranks can have signs such that those of positive ones sum to 0, 1, 2, ..."""
    ways = [1]
    for rank in ranks:
        longer = ways + [0] * rank
        for total, count in enumerate(ways):
            longer[total + rank] += count
        ways = longer
    return ways


@dataclass(frozen=True)
class Shift:
    """The Hodges-Lehmann estimate of a shift, with its interval.

    Attributes:
        estimate: Median of the means of all pairs of differences, each with itself included; NaN without any.
        low: Lower end of the interval; -inf if there are too few pairs for its level.
        high: Upper end of the interval; inf if there are too few pairs for its level.
    """

    estimate: float
    low: float
    high: float


def hodges_lehmann(differences: Sequence[float], level: float = 0.95) -> Shift:
    """Return by how much one side of pairs is larger than the other, with a distribution-free interval.

    The interval has at least the level if differences are symmetric about the shift; ties make it wider (Hollander,
    Wolfe & Chicken, Nonparametric Statistical Methods, 3rd ed., section 3.3).

    Args:
        differences: Differences of pairs.
        level: Level of the interval, in (0, 1).

    Raises:
        ValueError: If the level is out of range.

    >>> hodges_lehmann([1, 2, 3, 4, 5, 6])
    Shift(estimate=3.5, low=1.0, high=6.0)
    """
    if not 0 < level < 1:
        raise InvalidValueError(expected="a level in (0, 1)", got=level, cure="0.95")
    if not len(differences):
        return Shift(nan, -inf, inf)
    means = sorted((first + second) / 2 for index, first in enumerate(differences) for second in differences[index:])
    count, middle = len(means), len(means) // 2
    estimate = means[middle] if count % 2 else (means[middle - 1] + means[middle]) / 2
    left_out = _left_out(len(differences), level)
    if left_out < 0:
        return Shift(estimate, -inf, inf)
    return Shift(estimate, means[left_out], means[count - 1 - left_out])


def _left_out(pairs: int, level: float) -> int:
    """Return how many of the smallest (and of the largest) means lie outside of the interval; -1 if none can."""
    ways = _ways(list(range(1, pairs + 1)))
    allowed = Fraction(repr(1 - level)) / 2 * 2**pairs
    below, left_out = 0, -1
    while below + ways[left_out + 1] <= allowed:
        left_out += 1
        below += ways[left_out]
    return left_out


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected over their family by Holm's method (1979), which controls the family-wise error rate.

    Args:
        p_values: P-values by name, each in [0, 1].

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    corrected: dict[str, float] = {}
    highest = 0.0
    for index, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - index) * p_values[name]))
        corrected[name] = highest
    return {name: corrected[name] for name in p_values}
