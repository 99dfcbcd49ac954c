"""Densities over a run have the values of their formulas, stay densities, and end exactly."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_sparse.methods.density_schedule import SHAPES, DensitySchedule, cubic, exponential, linear
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError

DENSITY = st.floats(1e-3, 1)


@pytest.mark.parametrize("shape", sorted(SHAPES))
@settings(max_examples=100, deadline=None)
@given(final=DENSITY, initial=DENSITY, progress=st.floats(0, 1))
def test_densities_lie_between_the_first_and_the_last(
    shape: str, final: float, initial: float, progress: float
) -> None:
    density = DensitySchedule(final, initial, shape).at(progress)
    assert min(final, initial) * (1 - 1e-12) <= density <= max(final, initial) * (1 + 1e-12)


@pytest.mark.parametrize("shape", sorted(SHAPES))
@settings(max_examples=50, deadline=None)
@given(final=DENSITY, initial=DENSITY)
def test_the_last_density_is_exactly_the_final_one(shape: str, final: float, initial: float) -> None:
    schedule = DensitySchedule(final, initial, shape)
    assert schedule.at(1.0) == schedule.at(1.5) == final


@pytest.mark.parametrize("shape", sorted(set(SHAPES) - {"constant"}))
def test_a_schedule_begins_with_its_initial_density(shape: str) -> None:
    assert DensitySchedule(0.1, 0.7, shape).at(0.0) == DensitySchedule(0.1, 0.7, shape).at(-1.0) == pytest.approx(0.7)


def test_shapes_have_the_values_of_their_formulas() -> None:
    assert 1 - cubic(0.5, 1.0, 0.1) == pytest.approx(0.7875)  # Zhu & Gupta 2017: sparsity 0 to 0.9, halfway
    assert linear(0.25, 0.9, 0.1) == pytest.approx(0.7)
    assert exponential(0.5, 1.0, 0.04) == pytest.approx(0.2)
    assert DensitySchedule(0.2, 1.0, "constant").at(0.01) == 0.2


@pytest.mark.parametrize("density", [0, 1.5, True, "0.5", float("nan"), None])
@pytest.mark.parametrize("which", ["final", "initial"])
def test_what_is_no_density_is_refused(which: str, density: Any) -> None:
    with pytest.raises(InvalidValueError, match=rf"{which} density in \(0, 1\]"):
        DensitySchedule(**{"final": 0.1, which: density})


@pytest.mark.parametrize("returned", [0.0, -0.1, 1.1, float("nan"), None])
def test_a_function_that_returns_no_density_is_refused_before_the_run(returned: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"density in .* from the schedule at progress 0.5"):
        DensitySchedule(0.1, shape=lambda *_: returned)


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="cubic"):
        DensitySchedule(0.1, shape="cube")
    with pytest.raises(InvalidTypeError, match="cubic"):
        DensitySchedule(0.1, shape=3)  # type: ignore[arg-type]  # on purpose
