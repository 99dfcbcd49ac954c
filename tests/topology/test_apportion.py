from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import floor

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lightning_sparse.topology import apportion

CLAIMS = st.sampled_from([0.0, 1.0, 1.0, 2.0, 3.0, 0.1, 1e-300, 5e-324, 1e300]) | st.floats(0, 1e6)


@dataclass(frozen=True)
class Problem:
    total: int
    claims: list[float]
    capacities: list[int]
    minimums: list[int]


@st.composite
def problems(draw: st.DrawFn, claims: st.SearchStrategy[float] = CLAIMS, most: int = 30) -> Problem:
    parties = draw(st.integers(1, 6))
    minimums = draw(st.lists(st.integers(0, 3), min_size=parties, max_size=parties))
    room = draw(st.lists(st.integers(0, most), min_size=parties, max_size=parties))
    capacities = [low + more for low, more in zip(minimums, room, strict=True)]
    return Problem(
        total=draw(st.integers(sum(minimums), sum(capacities))),
        claims=draw(st.lists(claims, min_size=parties, max_size=parties)),
        capacities=capacities,
        minimums=minimums,
    )


POSITIVE = st.sampled_from([1.0, 1.0, 2.0, 0.1, 1e-9, 1e9]) | st.floats(1e-3, 1e3)


def solve(problem: Problem, excess: str = "equal") -> list[int]:
    return apportion(problem.total, problem.claims, problem.capacities, problem.minimums, excess)  # type: ignore[arg-type]  # "equal" or "proportional"


@settings(max_examples=300, deadline=None)
@given(problem=problems())
def test_units_are_handed_out_exactly_and_within_bounds(problem: Problem) -> None:
    counts = solve(problem)
    assert sum(counts) == problem.total
    assert all(isinstance(count, int) for count in counts)
    assert all(low <= n <= cap for low, n, cap in zip(problem.minimums, counts, problem.capacities, strict=True))


@settings(max_examples=300, deadline=None)
@given(problem=problems(POSITIVE))
def test_units_are_handed_out_exactly_and_within_bounds_in_proportion_too(problem: Problem) -> None:
    counts = solve(problem, "proportional")
    assert sum(counts) == problem.total
    assert all(low <= n <= cap for low, n, cap in zip(problem.minimums, counts, problem.capacities, strict=True))


@pytest.mark.parametrize("excess", ["equal", "proportional"])
@settings(max_examples=200, deadline=None)
@given(problem=problems(POSITIVE), low=st.integers(0, 3), room=st.integers(0, 30))
def test_of_equally_bounded_parties_the_larger_claim_gets_no_less(
    excess: str, problem: Problem, low: int, room: int
) -> None:
    parties = len(problem.claims)
    total = min(max(problem.total, low * parties), (low + room) * parties)
    counts = solve(Problem(total, problem.claims, [low + room] * parties, [low] * parties), excess)
    for (claim, count), (other_claim, other_count) in product(zip(problem.claims, counts, strict=True), repeat=2):
        assert claim <= other_claim or count >= other_count


@settings(max_examples=200, deadline=None)
@given(problem=problems(), factor=st.sampled_from([2.0**-20, 0.5, 8.0]))
def test_the_scale_of_the_claims_does_not_matter(problem: Problem, factor: float) -> None:
    claims = [claim for claim in problem.claims if claim == 0 or 1e-6 < claim < 1e6]
    assume(len(claims) == len(problem.claims))
    scaled = Problem(problem.total, [claim * factor for claim in claims], problem.capacities, problem.minimums)
    assert solve(scaled) == solve(problem)


@settings(max_examples=200, deadline=None)
@given(problem=problems())
def test_without_bounds_everyone_gets_their_quota_rounded_up_or_down(problem: Problem) -> None:
    claims = problem.claims if any(problem.claims) else [1.0] * len(problem.claims)
    whole = sum(map(Fraction, claims))
    counts = apportion(problem.total, problem.claims, [problem.total] * len(claims))
    for count, claim in zip(counts, claims, strict=True):
        assert abs(count - problem.total * Fraction(claim) / whole) < 1


def spread_repeatedly(problem: Problem) -> list[int]:
    """Follow the paper to the letter: what is too much for one goes in equal parts to all with room, until it fits."""
    whole = sum(map(Fraction, problem.claims))
    amounts = [problem.total * Fraction(claim) / whole for claim in problem.claims]
    while True:
        over = sum(max(amount - cap, Fraction(0)) for amount, cap in zip(amounts, problem.capacities, strict=True))
        amounts = [min(amount, Fraction(cap)) for amount, cap in zip(amounts, problem.capacities, strict=True)]
        if not over:
            break
        roomy = [i for i, cap in enumerate(problem.capacities) if amounts[i] < cap]
        for i in roomy:
            amounts[i] += over / len(roomy)
    counts = [floor(amount) for amount in amounts]
    for i in sorted(range(len(counts)), key=lambda i: (counts[i] - amounts[i], i))[: problem.total - sum(counts)]:
        counts[i] += 1
    return counts


@settings(max_examples=300, deadline=None)
@given(problem=problems())
def test_excess_in_equal_parts_agrees_with_spreading_it_again_and_again(problem: Problem) -> None:
    assume(any(problem.claims))
    counts = apportion(problem.total, problem.claims, problem.capacities)
    assert counts == spread_repeatedly(problem)


def fill_the_full_first(problem: Problem) -> list[Fraction]:
    """Follow RigL's recipe: who would get more than they can take is filled, the others share the rest, and again."""
    amounts = [Fraction(0)] * len(problem.claims)
    full: set[int] = set()
    while True:
        rest = problem.total - sum(problem.capacities[i] for i in full)
        whole = sum(Fraction(claim) for i, claim in enumerate(problem.claims) if i not in full)
        for i, claim in enumerate(problem.claims):
            amounts[i] = Fraction(problem.capacities[i]) if i in full else rest * Fraction(claim) / whole
        overfull = {i for i, cap in enumerate(problem.capacities) if amounts[i] > cap}
        if not overfull:
            return amounts
        full |= overfull


@settings(max_examples=300, deadline=None)
@given(problem=problems(POSITIVE))
def test_excess_in_proportion_agrees_with_filling_full_parties_first(problem: Problem) -> None:
    counts = apportion(problem.total, problem.claims, problem.capacities, excess="proportional")
    for count, amount in zip(counts, fill_the_full_first(problem), strict=True):
        assert abs(count - amount) < 1


def squared_distance(counts: tuple[int, ...], quotas: list[Fraction]) -> Fraction:
    return sum(((count - quota) ** 2 for count, quota in zip(counts, quotas, strict=True)), Fraction(0))


@settings(max_examples=100, deadline=None)
@given(problem=problems(most=4))
def test_no_other_whole_numbers_within_the_bounds_are_closer_to_the_quotas(problem: Problem) -> None:
    # Equal excess is the projection of the quotas onto what is feasible: brute force finds no better integers.
    assume(any(problem.claims) and len(problem.claims) <= 4)
    whole = sum(map(Fraction, problem.claims))
    quotas = [problem.total * Fraction(claim) / whole for claim in problem.claims]
    ranges = [range(low, cap + 1) for low, cap in zip(problem.minimums, problem.capacities, strict=True)]
    best = min(squared_distance(counts, quotas) for counts in product(*ranges) if sum(counts) == problem.total)
    assert squared_distance(tuple(solve(problem)), quotas) == best


def test_equal_and_proportional_excess_differ_as_they_should() -> None:
    # Quotas of 14: 8, 4, 2. The first can take 2; the other 6 go 3 : 3 or 4 : 2.
    assert apportion(14, [4, 2, 1], [2, 99, 99], excess="equal") == [2, 7, 5]
    assert apportion(14, [4, 2, 1], [2, 99, 99], excess="proportional") == [2, 8, 4]


def test_claims_that_are_all_zero_count_as_equal() -> None:
    assert apportion(7, [0.0, 0.0, 0.0], [9, 9, 9]) == [3, 2, 2]


def test_a_claim_of_zero_gets_only_what_others_have_no_room_for() -> None:
    assert apportion(5, [1.0, 0.0], [9, 9]) == [5, 0]
    assert apportion(5, [1.0, 0.0], [3, 9]) == [3, 2]


def test_equal_remainders_go_to_the_lowest_index() -> None:
    assert apportion(5, [1.0, 1.0, 1.0], [9, 9, 9]) == [2, 2, 1]


def test_bounds_that_leave_no_choice_are_met() -> None:
    assert apportion(6, [1.0, 5.0], [4, 2]) == [4, 2]
    assert apportion(6, [1.0, 5.0], [9, 9], [5, 1]) == [5, 1]


def test_nobody_gets_anything_of_nothing() -> None:
    assert apportion(0, [1.0, 2.0], [3, 3]) == [0, 0]
    assert apportion(0, [], []) == []


def test_claims_of_extreme_sizes_are_exact() -> None:
    assert apportion(10, [5e-324, 5e-324], [9, 9]) == [5, 5]
    assert apportion(10, [1e308, 1e308, 1e-308], [9, 9, 9]) == [5, 5, 0]


@pytest.mark.parametrize("total", [1, 8])
def test_a_total_out_of_reach_is_refused_with_the_feasible_range(total: int) -> None:
    with pytest.raises(ValueError, match=f"between 2 and 7, .*; got {total}"):
        apportion(total, [1.0, 1.0], [3, 4], [1, 1])


@pytest.mark.parametrize("claim", [-1.0, float("nan"), float("inf")])
def test_an_unusable_claim_is_refused(claim: float) -> None:
    with pytest.raises(ValueError, match="finite claims >= 0"):
        apportion(2, [1.0, claim], [3, 3])


def test_a_claim_of_zero_is_refused_where_the_excess_goes_by_claims() -> None:
    with pytest.raises(ValueError, match="positive claims"):
        apportion(2, [1.0, 0.0], [3, 3], excess="proportional")
