"""Pictures of gradient flow show the numbers passed to them, and mark flags, zeros and non-finite values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from drawn import containers, legend_texts, line, marks, only, ys
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from lightning_sparse.analysis.pictures import plot_gradient_flow, plot_layer_gradient_flow

NAN, INF = float("nan"), float("inf")


def curve(axes: Axes, name: str) -> Any:
    """Return a line and its error bars."""
    (container,) = [drawn for drawn in containers(axes) if drawn.get_label() == name]
    return container


def points(axes: Axes, name: str) -> Any:
    return np.asarray(curve(axes, name).lines[0].get_xydata())


def test_each_measure_is_a_named_line_on_an_axis_that_is_linear_near_zero() -> None:
    axes = only(plot_gradient_flow([0, 50, 99], {"egf_l1": [3.0, 1.0, 0.0], "l2": [20.0, 5.0, 0.02]}).axes)
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_xlabel()) == ("linear", "symlog", "epoch")
    assert points(axes, "egf_l1").tolist() == [[0, 3], [50, 1], [99, 0]]
    assert points(axes, "l2").tolist() == [[0, 20], [50, 5], [99, 0.02]]
    assert legend_texts(axes) == ["egf_l1", "l2"]
    assert axes.get_ylim()[0] < 0  # the mark at zero is not cut off
    looks = {(each.lines[0].get_color(), each.lines[0].get_linestyle()) for each in containers(axes)}
    assert len(looks) == 2


@pytest.mark.parametrize(
    ("values", "threshold"),
    [
        ([20.0, 0.02], 0.01),  # the decade of the smallest
        ([0.0, 0.0], 1),
        ([NAN, INF], 1),
        ([100.0, 1e-30], 1e-4),  # at most six decades beyond the linear part
    ],
)
def test_the_linear_part_ends_below_the_smallest_number(values: list[float], threshold: float) -> None:
    axes = only(plot_gradient_flow([0, 1], {"l1": values}).axes)
    assert axes.yaxis.get_transform().linthresh == pytest.approx(threshold)  # type: ignore[attr-defined]  # of symlog


def test_standard_errors_are_drawn_as_bars_of_95_percent() -> None:
    axes = only(plot_gradient_flow([0, 1], {"l1": [(2.0, 0.1), (1.0, None)]}).axes)
    np.testing.assert_allclose(points(axes, "l1"), [[0, 2], [1, 1]])
    (bars,) = curve(axes, "l1").lines[2]
    np.testing.assert_allclose(bars.get_segments()[0][:, 1], [2 - 0.196, 2 + 0.196])
    np.testing.assert_allclose(bars.get_segments()[1][:, 1], [1, 1])


def test_without_standard_errors_there_are_no_bars() -> None:
    axes = only(plot_gradient_flow([0, 1], {"l1": [2.0, 1.0]}).axes)
    assert curve(axes, "l1").lines[2] == ()


def test_networks_have_a_colour_each_and_measures_a_line_style() -> None:
    both = {"l1": [2.0, 1.0], "l2": [1.0, 0.5]}
    axes = only(plot_gradient_flow([0, 1], {"dense": both, "sparse": both}, xlabel="step").axes)
    assert legend_texts(axes) == ["dense, l1", "dense, l2", "sparse, l1", "sparse, l2"]
    looks = [(each.lines[0].get_color(), each.lines[0].get_linestyle()) for each in containers(axes)]
    assert looks[0][0] == looks[1][0] != looks[2][0] == looks[3][0]
    assert looks[0][1] == looks[2][1] != looks[1][1] == looks[3][1]
    assert axes.get_xlabel() == "step"


def test_values_that_are_not_finite_are_gaps_and_marked_at_the_upper_edge() -> None:
    axes = only(plot_gradient_flow([0, 50, 99], {"l1": [3.0, NAN, 1.0], "l2": [2.0, 1.0, INF]}).axes)
    np.testing.assert_allclose(points(axes, "l1")[:, 1], [3, NAN, 1])
    np.testing.assert_allclose(points(axes, "l2")[:, 1], [2, 1, NAN])
    marked = marks(axes, "NaN or infinite")
    colours = [to_hex(curve(axes, name).lines[0].get_color()) for name in ("l1", "l2")]
    assert [(x, colour) for x, _, colour in marked] == [(50, colours[0]), (99, colours[1])]
    assert all(y > 0.95 for _, y, _ in marked)
    assert legend_texts(axes) == ["l1", "l2", "NaN or infinite"]


NORMS = {"net.0.weight": [1.0, 0.1, 0.01], "net.3.weight": [2.0, 1.0, 20.0]}


def test_each_layer_is_a_named_line_on_a_logarithmic_axis() -> None:
    axes = only(plot_layer_gradient_flow([0, 5, 10], NORMS, xlabel="step").axes)
    assert (axes.get_yscale(), axes.get_xlabel()) == ("log", "step")
    np.testing.assert_allclose(ys(axes, "net.0"), [1, 0.1, 0.01])
    np.testing.assert_allclose(ys(axes, "net.3"), [2, 1, 20])
    assert list(line(axes, "net.0").get_xdata()) == [0, 5, 10]
    assert len(axes.collections) == 0
    assert legend_texts(axes) == ["net.0", "net.3"]


def test_tensors_of_any_precision_are_drawn() -> None:
    norms: Any = {"fc": torch.tensor([1.0, 0.5], dtype=torch.bfloat16, requires_grad=True)}
    axes = only(plot_layer_gradient_flow([0, 1], norms).axes)
    np.testing.assert_allclose(ys(axes, "fc"), [1, 0.5])


def test_flags_are_marks_of_their_own_upon_the_line_and_named_with_their_layers() -> None:
    flags = {"net.0.weight": [None, "vanishing", "vanishing"], "net.3.weight": [None, None, "exploding"]}
    axes = only(plot_layer_gradient_flow([0, 5, 10], NORMS, flags).axes)
    own = {name: line(axes, name).get_color().lower() for name in ("net.0", "net.3")}
    assert marks(axes, "vanishing") == [(5, 0.1, own["net.0"]), (10, 0.01, own["net.0"])]
    assert marks(axes, "exploding") == [(10, 20, own["net.3"])]
    assert legend_texts(axes) == ["net.0", "net.3", "vanishing: net.0", "exploding: net.3"]
    paths = [np.asarray(each.get_paths()[0].vertices).tolist() for each in axes.collections]
    assert paths[0] != paths[1]


def test_many_flagged_layers_are_counted() -> None:
    names = [f"layer{index}" for index in range(6)]
    norms, flags = {name: [1.0] for name in names}, {name: ["exploding"] for name in names}
    axes = only(plot_layer_gradient_flow([0], norms, flags).axes)
    assert legend_texts(axes)[-1] == "exploding: layer0, layer1, layer2 and 3 more"


def test_zeros_and_values_that_are_not_finite_are_marked_at_the_edges_flagged_or_not() -> None:
    norms = {"a": [0.0, 1.0, 0.0], "b": [1.0, INF, NAN]}
    axes = only(plot_layer_gradient_flow([0, 5, 10], norms, {"a": ["vanishing", None, None]}).axes)
    assert [(x, y < 0.05) for x, y, _ in marks(axes, "vanishing: a")] == [(0, True)]
    assert [(x, y < 0.05) for x, y, _ in marks(axes, "zero: a")] == [(10, True)]
    assert [(x, y > 0.95) for x, y, _ in marks(axes, "non-finite: b")] == [(5, True), (10, True)]
    np.testing.assert_allclose(ys(axes, "a"), [NAN, 1, NAN])
    np.testing.assert_allclose(ys(axes, "b"), [1, NAN, NAN])
    assert legend_texts(axes) == ["a", "b", "vanishing: a", "non-finite: b", "zero: a"]


def test_a_network_without_any_gradient_is_drawn() -> None:
    axes = only(plot_layer_gradient_flow([0, 1], {"a": [0.0, 0.0], "b": [0.0, 0.0]}).axes)
    assert len(marks(axes, "zero: a, b")) == 4


@pytest.mark.parametrize(
    ("flags", "came"),
    [
        ({"c": [None]}, "got c"),
        ({"a": [None, None]}, "got 2"),
        ({"a": ["vanished"]}, "got 'vanished'"),
        ({"a": ["zero"]}, "got 'zero'"),
    ],
)
def test_unknown_layers_and_flags_are_refused(flags: dict[str, list[str | None]], came: str) -> None:
    with pytest.raises(ValueError, match=rf"Expected .*{came}.* Cure: "):
        plot_layer_gradient_flow([0], {"a": [1.0], "b": [1.0]}, flags)


@pytest.mark.parametrize("plot", [plot_gradient_flow, plot_layer_gradient_flow])
@pytest.mark.parametrize(
    ("steps", "series", "came"), [([0], {}, "got none"), ([], {"a": []}, "got none"), ([0, 1], {"a": [1.0]}, "got 1")]
)
def test_what_cannot_be_drawn_is_refused_with_the_cure(
    plot: Any, steps: list[float], series: dict[str, list[float]], came: str
) -> None:
    with pytest.raises(ValueError, match=rf"Expected .*{came}.* Cure: "):
        plot(steps, series)


def test_a_network_without_measures_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected at least one measure of 'sparse'.*; got none.* Cure: "):
        plot_gradient_flow([0], {"dense": {"l1": [1.0]}, "sparse": {}})
