"""Histograms of class specialization are those of the channels, dense to the left and sparse to the right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from drawn import legend_texts, only, ys
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import StepPatch
from numpy.typing import NDArray

from lightning_sparse.analysis.pictures import plot_specialization

NAN = float("nan")


def histogram(axes: Axes, network: str, at: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how far the bars of a network's layer reach from its vertical line, and their edges."""
    patches = [each for each in axes.patches if each.get_label() == network]
    patch = patches[at]
    assert isinstance(patch, StepPatch)
    assert patch.orientation == "horizontal"
    values, edges, baseline = patch.get_data()
    assert baseline == at
    return np.asarray(values) - at, np.asarray(edges)


def means(axes: Axes) -> list[list[list[float]]]:
    """Return the segments that mark means."""
    marks = [each for each in axes.collections if isinstance(each, LineCollection) and each.get_label() == "mean"]
    return [np.asarray(each.get_segments()[0]).tolist() for each in marks]


DENSE = {"conv1": [0.2, 0.2, 0.4, NAN], "conv2": [0.5, 0.5]}
SPARSE = {"conv1": torch.tensor([0.1, 0.2]), "conv2": torch.tensor([0.3, 0.5], dtype=torch.float16)}


def test_dense_is_to_the_left_and_sparse_to_the_right_in_common_bins() -> None:
    axes = only(plot_specialization(DENSE, SPARSE, 10).axes)
    for at in (0, 1):
        left, edges = histogram(axes, "dense", at)
        right, same = histogram(axes, "sparse", at)
        np.testing.assert_array_equal(edges, same)
        assert max(left) <= 0 <= min(right)
        assert (edges[0], edges[-1]) == (0.1, 0.5)
    left, edges = histogram(axes, "dense", 0)
    right, _ = histogram(axes, "sparse", 0)
    counts = np.histogram([0.2, 0.2, 0.4], edges)[0]
    np.testing.assert_allclose(left, -0.46 * counts / 3 / (2 / 3))  # the longest bar has two thirds of the channels
    np.testing.assert_allclose(right, 0.46 * np.histogram([0.1, 0.2], edges)[0] / 2 / (2 / 3), rtol=1e-6)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["conv1", "conv2"]


def test_a_network_alone_is_to_the_right() -> None:
    axes = only(plot_specialization(DENSE, num_classes=10).axes)
    assert legend_texts(axes) == ["channels", "mean", "uniform, 1/10"]
    bars, edges = histogram(axes, "channels", 0)
    np.testing.assert_allclose(bars, 0.46 * np.histogram([0.2, 0.2, 0.4], edges)[0] / 2)
    np.testing.assert_allclose(means(axes), [[[0, 0.8 / 3], [0.46, 0.8 / 3]], [[1, 0.5], [1.46, 0.5]]], atol=1e-3)


def test_means_leave_nan_out_and_are_marked_on_their_side() -> None:
    segments = means(only(plot_specialization(DENSE, SPARSE, 10).axes))
    expected = [
        [[-0.46, 0.8 / 3], [0, 0.8 / 3]],
        [[0, 0.15], [0.46, 0.15]],
        [[0.54, 0.5], [1, 0.5]],
        [[1, 0.4], [1.46, 0.4]],
    ]
    np.testing.assert_allclose(segments, expected, atol=1e-3)


@pytest.mark.parametrize(("classes", "named"), [(10, ["uniform, 1/10"]), (None, [])])
def test_the_level_of_equal_activity_is_marked_if_the_number_of_classes_is_known(
    classes: int | None, named: list[str]
) -> None:
    axes = only(plot_specialization(DENSE, SPARSE, classes).axes)
    assert legend_texts(axes) == ["dense", "sparse", "mean", *named]
    assert [ys(axes, name).tolist() for name in named] == [[0.1, 0.1]] * len(named)
    assert len(axes.lines) == 2 + len(named)  # a vertical line for each layer


def test_a_layer_without_active_channels_is_left_blank() -> None:
    axes = only(plot_specialization({"a": [NAN], "b": [0.3]}, {"a": [], "b": [0.2]}).axes)
    assert not histogram(axes, "dense", 0)[0].any()
    assert not histogram(axes, "sparse", 0)[0].any()
    assert len(means(axes)) == 2


def test_channels_that_are_all_alike_are_drawn() -> None:
    axes = only(plot_specialization({"a": [0.1, 0.1]}, {"a": [0.1]}, 10).axes)
    np.testing.assert_allclose(histogram(axes, "dense", 0)[0].min(), -0.46)


@settings(max_examples=25)
@given(
    st.lists(st.floats(0.1, 1), min_size=1, max_size=30),
    st.lists(st.floats(0.1, 1), min_size=1, max_size=30),
)
def test_no_channel_is_outside_of_the_bins_and_layers_do_not_reach_each_other(
    dense: list[float], sparse: list[float]
) -> None:
    axes = only(plot_specialization({"a": dense}, {"a": sparse}, 10).axes)
    left, right = histogram(axes, "dense", 0)[0], histogram(axes, "sparse", 0)[0]
    assert max(-left.min(), right.max()) == pytest.approx(0.46)
    # Both have all of their channels: their areas are the same.
    assert -left.sum() == pytest.approx(right.sum())


@pytest.mark.parametrize(
    ("dense", "sparse", "classes", "came"),
    [
        ({}, {}, 10, "got none"),
        ({"a": [0.2]}, {"b": [0.2]}, 10, "got a, b in one"),
        ({"a": [NAN]}, {"a": []}, 10, "got none"),
        ({"a": [0.05]}, {"a": [0.2]}, 10, r"in \[0.1, 1\] in 'a'; got 0.05"),
        ({"a": [0.2]}, {"a": [1.5]}, None, "got 1.5"),
        ({"a": [0.2]}, {"a": [float("inf")]}, None, "got inf"),
        ({"a": [0.2]}, {"a": [0.2]}, 0, "got 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_cure(dense: Any, sparse: Any, classes: int | None, came: str) -> None:
    with pytest.raises(ValueError, match=rf"Expected .*{came}.* Cure: "):
        plot_specialization(dense, sparse, classes)
