"""Scaled widths are rounded, and unchanged at one."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lightning_sparse.models.sizes import scaled


@given(st.integers(1, 10_000))
def test_width_one_changes_nothing(units: int) -> None:
    assert scaled(units, 1.0) == scaled(units, 1) == units


@given(st.integers(1, 10_000), st.floats(0.01, 10))
def test_units_are_within_a_half_of_the_scaled_ones(units: int, width: float) -> None:
    assume(units * width > 0.5)
    assert abs(scaled(units, width) - units * width) <= 0.5


@given(st.integers(1, 10_000), st.floats(0, 0.5, exclude_min=True))
def test_a_width_that_leaves_a_layer_no_units_is_refused(units: int, product: float) -> None:
    width = product / units
    assume(0 < units * width <= 0.5)
    with pytest.raises(ValueError, match=rf"leaves a layer of {units} units none\. Cure: a width above"):
        scaled(units, width)


def test_the_width_that_the_cure_names_is_a_cure() -> None:
    with pytest.raises(ValueError, match=r"Cure: a width above 0\.0312") as caught:
        scaled(16, 0.03)
    assert scaled(16, 1.01 * float(str(caught.value).split()[-1].rstrip("."))) == 1
