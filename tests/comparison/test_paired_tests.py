"""Statistics of pairs: exact with ties and zeros, against SciPy's permutations and published examples."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import permutation_test, rankdata
from statsmodels.stats.multitest import multipletests

from lightning_sparse.comparison import hodges_lehmann, holm, signed_rank_test

# Darwin's maize: heights of 15 pairs of crossed and self-fertilized plants, in eighths of an inch (Fisher, The Design
# of Experiments, 1935, section 17).
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def positive_ranks(differences: Any, axis: int = -1) -> Any:
    return np.where(differences > 0, rankdata(abs(differences), axis=axis), 0).sum(axis=axis)


@pytest.mark.parametrize(
    ("pairs", "spread"), [*product(range(2, 10), (2, 5, 1000)), *((pairs, 5) for pairs in range(10, 16))]
)
def test_p_is_that_of_all_permutations_of_signs(pairs: int, spread: int) -> None:
    differences = np.random.default_rng(pairs * spread).integers(-spread, spread + 2, pairs)
    differences[:2] = (1, -spread)  # not zeros only, which SciPy refuses
    ours = signed_rank_test(differences.tolist())
    present = differences[differences != 0]
    exact = permutation_test(
        (present,), positive_ranks, permutation_type="samples", alternative="greater", n_resamples=np.inf
    )
    assert ours.p == pytest.approx(exact.pvalue, rel=1e-12)
    assert ours.positive == exact.statistic


def test_p_is_that_of_a_published_example() -> None:
    test = signed_rank_test(DARWIN)
    # The example of SciPy's documentation of wilcoxon: 24 and a two-sided p of 0.041259765625.
    assert (test.positive, test.negative) == (96, 24)
    assert 2 * test.p == 0.041259765625
    assert (test.pairs, test.wins, test.ties, test.losses) == (15, 13, 0, 2)
    assert test.rank_biserial == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("differences", "p", "effect"),
    [
        ([], 1, 0),
        ([0, 0, 0], 1, 0),
        ([5], 1 / 2, 1),
        ([-5], 1, -1),
        ([3] * 5, 1 / 32, 1),
        ([3] * 60, 2.0**-60, 1),
        ([-3] * 60, 1, -1),
        ([1, -1], 3 / 4, 0),
        ([0, 2, 2, 0], 1 / 4, 1),
    ],
)
def test_edge_cases(differences: list[int], p: float, effect: float) -> None:
    test = signed_rank_test(differences)
    assert test.p == p
    assert test.rank_biserial == effect
    assert test.wins + test.ties + test.losses == test.pairs == len(differences)


def _ways_of(differences: list[int]) -> int:
    """Return how many assignments of signs have the sum of positive ranks that these differences have."""
    present = [each for each in differences if each]
    ranks = rankdata([abs(each) for each in present]) if present else []
    sums = [
        sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign)
        for signs in product((0, 1), repeat=len(present))
    ]
    return sums.count(sum(rank for rank, each in zip(ranks, present, strict=True) if each > 0))


@given(st.lists(st.integers(-4, 4), max_size=9))
def test_p_of_both_sides_add_up_to_one_and_the_chance_of_this_very_sum(differences: list[int]) -> None:
    greater, less = signed_rank_test(differences), signed_rank_test([-each for each in differences])
    assert 0 < greater.p <= 1
    here = Fraction(_ways_of(differences), 2 ** sum(map(bool, differences)))
    assert greater.p + less.p == pytest.approx(1 + float(here))
    assert greater.rank_biserial == -less.rank_biserial
    assert (greater.positive, greater.negative) == (less.negative, less.positive)


@given(st.lists(st.integers(-30, 30), min_size=1, max_size=12), st.integers(1, 9))
def test_p_depends_on_ranks_only(differences: list[int], factor: int) -> None:
    assert signed_rank_test(differences) == signed_rank_test([factor * each for each in differences])


@pytest.mark.parametrize("value", [0.5, True, "1"])
def test_differences_that_are_not_integers_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"Expected integer differences.*Cure: counts of correct images"):
        signed_rank_test([1, value])


# Hamilton's depression scale before and after therapy, in thousandths (Hollander & Wolfe, 1973, p. 29; the example of
# R's wilcox.test, which gives V = 40 and p = 0.01953).
DEPRESSION = [-952, 147, -1022, -430, -620, -590, -490, 80, -10]


def test_p_and_shift_are_those_of_another_published_example() -> None:
    test, shift = signed_rank_test([-each for each in DEPRESSION]), hodges_lehmann(DEPRESSION, level=0.96)
    assert (test.positive, test.p) == (40, 10 / 512)
    # Hollander, Wolfe & Chicken, examples 3.3 and 3.4: -0.460, and -0.786 to -0.010 at 96.1 %.
    assert (shift.estimate, shift.low, shift.high) == (-460, -786, -10)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=10), st.integers(-5, 5))
def test_a_shift_moves_with_the_differences_and_lies_in_its_interval(differences: list[int], by: int) -> None:
    shift, moved = hodges_lehmann(differences), hodges_lehmann([each + by for each in differences])
    assert moved.estimate == shift.estimate + by
    assert moved.low == shift.low + by
    assert shift.low <= shift.estimate <= shift.high


@pytest.mark.parametrize(("pairs", "is_finite"), [(5, False), (6, True)])
def test_too_few_pairs_have_no_interval(pairs: int, is_finite: bool) -> None:
    shift = hodges_lehmann(list(range(pairs)))
    assert math.isfinite(shift.low) is math.isfinite(shift.high) is is_finite


def test_an_interval_of_simulated_pairs_covers_the_shift_as_often_as_it_says() -> None:
    source = np.random.default_rng(0)
    covered = [
        shift.low <= 3 <= shift.high
        for shift in (hodges_lehmann((3 + source.normal(size=12)).tolist(), 0.9) for _ in range(400))
    ]
    assert 0.87 < np.mean(covered) < 0.95


def test_no_pair_has_no_shift() -> None:
    assert math.isnan(hodges_lehmann([]).estimate)


@pytest.mark.parametrize("level", [0, 1, -0.5, 95])
def test_a_level_out_of_range_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match=r"Expected a level in \(0, 1\); got .* Cure: 0.95"):
        hodges_lehmann([1, 2], level)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_corrected_values_are_those_of_statsmodels(p_values: list[float]) -> None:
    ours = holm({str(index): p for index, p in enumerate(p_values)})
    np.testing.assert_allclose(list(ours.values()), multipletests(p_values, method="holm")[1])
    assert list(ours) == [str(index) for index in range(len(p_values))]
