from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_sparse.topology.density import (
    DISTRIBUTIONS,
    allocate,
    erdos_renyi,
    erdos_renyi_kernel,
    uniform,
)

SHAPES = st.lists(
    st.sampled_from([(1, 1), (300, 784), (10, 100), (64, 3, 3, 3), (8, 8, 1, 1), (5, 2, 7)]), min_size=1, max_size=6
)


def size_of(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


@settings(max_examples=200, deadline=None)
@given(
    shapes=SHAPES, density=st.floats(0, 1), name=st.sampled_from(sorted(DISTRIBUTIONS)), min_active=st.integers(0, 5)
)
def test_the_total_is_allocated_exactly_between_the_minimum_and_the_size(
    shapes: list[tuple[int, ...]], density: float, name: str, min_active: int
) -> None:
    sizes = [size_of(shape) for shape in shapes]
    least = [min(min_active, size) for size in sizes]
    total = sum(least) + round(density * (sum(sizes) - sum(least)))
    counts = allocate(shapes, total, name, min_active)
    assert sum(counts) == total
    assert all(low <= count <= size for low, count, size in zip(least, counts, sizes, strict=True))


def test_uniform_is_the_same_density_everywhere_within_one_weight() -> None:
    shapes = [(300, 784), (100, 300), (10, 100), (7, 3, 3, 3)]
    sizes = [size_of(shape) for shape in shapes]
    total = round(0.0537 * sum(sizes))
    for count, size in zip(allocate(shapes, total), sizes, strict=True):
        assert abs(count - total * size / sum(sizes)) < 1


def test_erdos_renyi_makes_the_density_proportional_to_inputs_and_outputs_over_their_product() -> None:
    # 20 * (in + out) / (in * out), Mocanu's epsilon of 20: 784 x 1000 gives 20 * 1784 weights.
    assert 20 * erdos_renyi((1000, 784)) == 20 * 1784
    assert erdos_renyi((16, 8, 3, 3)) / uniform((16, 8, 3, 3)) == pytest.approx((16 + 8) / (16 * 8))


def test_erdos_renyi_kernel_counts_the_kernel_as_dimensions() -> None:
    assert erdos_renyi_kernel((16, 8, 3, 3)) == 16 + 8 + 3 + 3
    assert erdos_renyi_kernel((10, 100)) == erdos_renyi((10, 100)) == 110


def test_full_layers_pass_the_rest_on_in_proportion() -> None:
    # Claims 2, 8 and 10 of 17: 1.7, 6.8, 8.5. The first is full with 1, and 16 are left: 8/18 and 10/18 of them.
    assert allocate([(1, 1), (4, 4), (5, 5)], 17, "erdos_renyi_kernel") == [1, 7, 9]


def test_a_tiny_layer_keeps_the_minimum() -> None:
    assert allocate([(100, 100), (1, 2)], 100) == [99, 1]
    assert allocate([(100, 100), (1, 2)], 100, min_active=2) == [98, 2]
    assert allocate([(100, 100), (1, 2)], 100, min_active=0) == [100, 0]


def test_the_whole_network_can_be_active() -> None:
    for name in DISTRIBUTIONS:
        assert allocate([(3, 4), (5, 6)], 42, name) == [12, 30]


@pytest.mark.parametrize("total", [1, 43])
def test_a_total_out_of_reach_is_refused_with_the_range_and_its_density(total: int) -> None:
    with pytest.raises(ValueError, match=rf"between 2 and 42 .* from 0.0476 to 1; got {total}\. Cure"):
        allocate([(3, 4), (5, 6)], total)


def test_an_unknown_distribution_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="uniform, erdos_renyi, erdos_renyi_kernel; got 'even'"):
        allocate([(3, 4)], 6, "even")
