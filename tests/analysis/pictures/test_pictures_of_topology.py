"""Pictures of densities and shares show the numbers passed to them."""

from __future__ import annotations

import numpy as np
import pytest
from drawn import legend_texts, line, marks, only, ys
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from numpy.typing import NDArray

from lightning_sparse.analysis.pictures import plot_layer_densities, plot_redistribution

NAN = float("nan")


def test_densities_are_drawn_in_percent_with_one_named_line_per_layer() -> None:
    axes = only(plot_layer_densities([0, 1, 3], {"fc1": [0.05, 0.1, 0.2], "fc2": [0.05, 0.01, 0.01]}).axes)
    assert [each.get_label() for each in axes.lines] == ["fc1", "fc2"]
    np.testing.assert_allclose(ys(axes, "fc1"), [5, 10, 20])
    assert list(line(axes, "fc1").get_xdata()) == [0, 1, 3]
    assert line(axes, "fc1").get_drawstyle() == "steps-post"
    assert "%" in axes.get_ylabel()
    assert axes.get_xlabel() == "epochs completed"
    assert len({(each.get_color(), each.get_linestyle()) for each in axes.lines}) == 2


def test_steps_may_stand_in_place_of_epochs() -> None:
    for plot in (plot_layer_densities, plot_redistribution):
        assert only(plot([1, 2], {"fc": [0.5, 0.5]}, xlabel="optimizer steps").axes).get_xlabel() == "optimizer steps"


@pytest.mark.parametrize(("lowest", "scale"), [(0.01, "log"), (0.05, "linear")])
def test_densities_that_differ_widely_have_a_logarithmic_scale(lowest: float, scale: str) -> None:
    axes = only(plot_layer_densities([0, 1], {"fc1": [0.2, 0.2], "fc2": [lowest, lowest]}).axes)
    assert axes.get_yscale() == scale


def test_a_layer_without_active_weights_is_marked_where_the_scale_cannot_show_it() -> None:
    axes = only(plot_layer_densities([0, 1, 2], {"fc1": [0.5, 0.5, 0.5], "fc2": [0.01, 0.0, 0.02]}).axes)
    ((x, y, colour),) = marks(axes, "no active weight")
    assert (x, colour) == (1, line(axes, "fc2").get_color().lower())
    assert y < 0.05  # of the height of the axes
    assert "no active weight" in legend_texts(axes)
    np.testing.assert_allclose(ys(axes, "fc2"), [1, NAN, 2])


def test_without_such_a_layer_nothing_is_marked() -> None:
    axes = only(plot_layer_densities([0, 1, 2], {"fc1": [0.5, 0.5, 0.5], "fc2": [0.01, NAN, 0.02]}).axes)
    assert len(axes.collections) == 0
    assert legend_texts(axes) == ["fc1", "fc2"]


def test_a_density_of_zero_is_seen_on_a_linear_scale() -> None:
    axes = only(plot_layer_densities([0, 1], {"fc1": [0.5, 0.5], "fc2": [0.0, 0.0]}).axes)
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] < 0
    np.testing.assert_allclose(ys(axes, "fc2"), [0, 0])


def test_a_single_epoch_is_seen_as_a_point() -> None:
    axes = only(plot_layer_densities([0], {"fc1": [0.5], "fc2": [0.2]}).axes)
    assert {each.get_marker() for each in axes.lines} == {"o"}
    several = only(plot_layer_densities([0, 1], {"fc1": [0.5, 0.5]}).axes)
    assert {each.get_marker() for each in several.lines} == {"None"}


def areas(axes: Axes) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    """Return heights, lower ends and edges of the areas of a picture, by layer."""
    drawn = {}
    for patch in axes.patches:
        assert isinstance(patch, StepPatch)
        tops, edges, bottoms = patch.get_data()
        drawn[str(patch.get_label())] = (np.asarray(tops) - bottoms, np.asarray(bottoms), np.asarray(edges))
    return drawn


def test_shares_are_areas_in_percent_that_stack_up_from_the_last_layer_to_the_first() -> None:
    axes = only(plot_redistribution([1, 2, 4], {"fc1": [0.2, 0.5, 1.0], "fc2": [0.8, 0.5, 0.0]}).axes)
    drawn = areas(axes)
    assert list(drawn) == ["fc1", "fc2"]
    np.testing.assert_allclose(drawn["fc1"][0], [20, 50, 100])
    np.testing.assert_allclose(drawn["fc2"][0], [80, 50, 0])
    np.testing.assert_allclose(drawn["fc2"][1], 0, atol=1e-9)  # the last layer is at the bottom
    np.testing.assert_allclose(drawn["fc1"][1], drawn["fc2"][0])
    np.testing.assert_allclose(drawn["fc1"][2], [0.5, 1.5, 3, 5])
    assert axes.get_ylim() == (0, 100)
    assert axes.get_xlim() == (0.5, 5)
    assert "%" in axes.get_ylabel()


def test_a_single_update_has_a_width() -> None:
    drawn = areas(only(plot_redistribution([7], {"fc1": [0.25], "fc2": [0.75]}).axes))
    assert drawn["fc1"][2].tolist() == [6.5, 7.5]


def test_an_update_that_moved_nothing_is_a_gap_and_nan_counts_as_nothing() -> None:
    drawn = areas(only(plot_redistribution([1, 2], {"fc1": [0.0, NAN], "fc2": [0.0, 0.5]}).axes))
    np.testing.assert_allclose(drawn["fc1"][0], [0, 0])
    np.testing.assert_allclose(drawn["fc2"][0], [0, 50])


@settings(max_examples=25)
@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=12))
def test_areas_never_overlap_and_have_the_heights_of_the_shares(claims: list[list[float]]) -> None:
    array = np.array(claims) / max(1.0, np.sum(claims, axis=0).max() + 1e-9)
    names = [f"layer{index}" for index in range(len(claims))]
    drawn = areas(plot_redistribution([1, 2, 3], dict(zip(names, array.tolist(), strict=True))).axes[0])
    top = np.full(3, 100.0)
    for name, share in zip(names, array, strict=True):
        np.testing.assert_allclose(drawn[name][0], 100 * share, atol=1e-6)
        np.testing.assert_allclose(drawn[name][0] + drawn[name][1], top, atol=1e-6)
        top = drawn[name][1]
    assert top.min() > -1e-6


@pytest.mark.parametrize("plot", [plot_layer_densities, plot_redistribution])
@pytest.mark.parametrize(
    ("epochs", "series", "came"),
    [
        ([0], {}, "got none"),
        ([], {"fc": []}, "got none"),
        ([0, 1], {"fc": [0.5]}, "got 1"),
        ([0], {"fc": [5.0]}, r"in \[0, 1\] for 'fc'; got 5"),
        ([0], {"fc": [float("inf")]}, "got inf"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_cure(
    plot: object, epochs: list[float], series: dict[str, list[float]], came: str
) -> None:
    assert callable(plot)
    figure = Figure()
    with pytest.raises(ValueError, match=rf"Expected .*{came}.* Cure: "):
        plot(epochs, series, figure.add_subplot())
    assert not figure.axes[0].has_data()


@pytest.mark.parametrize(
    ("epochs", "series", "came"),
    [
        ([1, 1], {"fc": [0.5, 0.5]}, r"got \[1.0, 1.0\]"),
        ([1], {"fc1": [0.6], "fc2": [0.6]}, "got 1.2"),
    ],
)
def test_shares_that_do_not_stack_are_refused(epochs: list[float], series: dict[str, list[float]], came: str) -> None:
    with pytest.raises(ValueError, match=rf"Expected .*{came}.* Cure: "):
        plot_redistribution(epochs, series)
