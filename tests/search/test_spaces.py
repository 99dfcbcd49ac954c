"""Spaces of densities: what their choices stand for, exactly."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_sparse.search.spaces import GRID, GroupDensities, LayerDensities, PowerLaw, Space, power_law

SIZES = {"fc1": 235200, "fc2": 30000, "fc3": 1000}
sizes = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(1, 10**6), min_size=1, max_size=8)


@given(sizes, st.sampled_from(GRID), st.floats(0, 1.5))
def test_a_power_law_has_the_density_of_the_whole_and_falls_with_size(
    layers: dict[str, int], density: float, exponent: float
) -> None:
    found = power_law(layers, density, exponent)
    assert list(found) == list(layers)
    assert all(0 < each <= 1 for each in found.values())
    active = sum(found[layer] * size for layer, size in layers.items())
    assert active == pytest.approx(density * sum(layers.values()))
    ordered = [found[layer] for layer in sorted(layers, key=layers.__getitem__)]
    assert all(first >= second - 1e-12 for first, second in pairwise(ordered))


def test_exponents_go_from_uniform_to_equal_numbers() -> None:
    assert list(power_law(SIZES, 0.2, 0).values()) == pytest.approx([0.2] * 3)
    equal = power_law({"a": 100, "b": 400}, 0.2, 1)
    assert (100 * equal["a"], 400 * equal["b"]) == pytest.approx((50, 50))


def test_layers_that_would_have_more_than_all_weights_leave_the_rest_to_others() -> None:
    found = power_law({"small": 10, "large": 1000}, 0.5, 1)
    assert found == {"small": 1.0, "large": pytest.approx(0.495)}
    assert power_law(SIZES, 1.0, 0.7) == dict.fromkeys(SIZES, 1.0)


def test_the_same_group_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"groups that differ.*Cure"):
        GroupDensities(SIZES, ("fc1", "fc1", "*"))


SPACES: list[Space] = [
    LayerDensities(SIZES),
    LayerDensities(SIZES, (0.1, 0.5)),
    GroupDensities(SIZES, ("fc1", "*")),
    PowerLaw(SIZES),
]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_every_genotype_stands_for_a_density_of_every_layer(space: Space) -> None:
    counts = [len(options) for options in space.choices.values()]
    for genotype in ([0] * len(counts), [count - 1 for count in counts], [count // 2 for count in counts]):
        densities = space.densities(tuple(genotype))
        assert list(densities) == list(SIZES)
        assert all(0 < density <= 1 for density in densities.values())


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_what_is_no_genotype_is_refused(space: Space) -> None:
    counts = [len(options) for options in space.choices.values()]
    for wrong in ((), tuple(counts), (-1,) * len(counts), (0,) * (len(counts) + 1)):
        with pytest.raises(ValueError, match=r"Expected an option for each of .*Cure: indices of the options"):
            space.densities(wrong)


def test_groups_share_a_density_and_the_first_pattern_counts() -> None:
    space = GroupDensities(SIZES, ("*3", "fc?"), (0.1, 0.2, 0.9))
    assert list(space.choices) == ["*3", "fc?"]
    assert space.densities((2, 0)) == {"fc1": 0.1, "fc2": 0.1, "fc3": 0.9}


def test_the_nearest_genotype_is_that_of_known_densities() -> None:
    space = LayerDensities(SIZES, (0.1, 0.2, 0.5, 1.0))
    assert space.nearest([0.14, 0.16, 0.9]) == (0, 1, 3)
    assert space.nearest([0.35, 0.0, 2.0]) == (1, 0, 3)
    for index in range(4):
        genotype = (index, 3 - index, index)
        assert space.nearest(list(space.densities(genotype).values())) == genotype


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LayerDensities({}), r"Expected layers with their numbers of weights; got \{\}. Cure"),
        (lambda: LayerDensities({"a": 0}), r"Expected layers with their numbers of weights.*Cure"),
        (lambda: LayerDensities(SIZES, (0.5, 0.1)), r"Expected densities in \(0, 1\], in ascending order.*Cure"),
        (lambda: LayerDensities(SIZES, ()), r"Expected densities in \(0, 1\], in ascending order; got \[\]. Cure"),
        (lambda: PowerLaw(SIZES, (0.0, 0.5)), r"Expected densities in \(0, 1\].*Cure"),
        (lambda: PowerLaw(SIZES, (0.5, 1.5)), r"Expected densities in \(0, 1\].*Cure"),
        (
            lambda: GroupDensities(SIZES, ("fc1", "fc2")),
            r"Expected a group for layer 'fc3'; got .*Cure: add",
        ),
        (lambda: GroupDensities(SIZES, ("*", "fc1")), r"Expected layers in every group.*; got none in fc1. Cure"),
    ],
)
def test_what_makes_no_space_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
