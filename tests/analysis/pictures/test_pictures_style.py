"""All pictures are legible with any colour vision, in print, and with two to fifty layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from drawn import BY_LAYER, OTHERS, illegible, layers, legend_texts
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lightning_sparse.analysis.pictures.inputs import short_names
from lightning_sparse.analysis.pictures.style import (
    COLOURS,
    colour,
    layer_area,
    layer_colour,
    layer_line,
    marker,
    style,
)

# Part of red, green and blue light that is perceived (Machado, Oliveira & Fernandes 2009, severity 1).
VISIONS = {
    "usual": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.95030]])


def light(of: Any) -> NDArray[np.float64]:
    """Return red, green and blue light of a colour, in [0, 1]."""
    values = np.array(to_rgb(of))
    return np.asarray(np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4))


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a colour in CIELAB, where distances are those of perception."""
    x, y, z = np.cbrt(np.clip(TO_XYZ @ rgb / TO_XYZ.sum(axis=1), 0.008856, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def closest(palette: Sequence[str], vision: str) -> float:
    """Return the smallest distance between two colours of a palette."""
    seen = [lab(np.clip(np.array(VISIONS[vision]) @ light(each), 0, 1)) for each in palette]
    return min(float(np.linalg.norm(first - second)) for first, second in combinations(seen, 2))


def contrast_with_white(of: Any) -> float:
    """Return the contrast ratio of WCAG 2, from 1 to 21."""
    return float(1.05 / (TO_XYZ[1] @ light(of) + 0.05))


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_are_distinct_with_any_colour_vision(vision: str) -> None:
    assert closest(COLOURS, vision) > 15


def test_red_and_green_are_not_distinct_with_any_colour_vision() -> None:
    assert closest(("#FF0000", "#00AA00"), "usual") > 100
    assert closest(("#FF0000", "#00AA00"), "no green") < 15


def test_colours_are_seen_on_white() -> None:
    assert min(map(contrast_with_white, COLOURS)) > 2
    assert contrast_with_white("#F0E442") < 2  # the yellow that was left out


def test_colours_style_and_marks_together_repeat_late() -> None:
    for kind in (style, marker):
        assert len({(colour(index), kind(index)) for index in range(28)}) == 28
    assert len({(layer_area(index, 10)["facecolor"], layer_area(index, 10)["hatch"]) for index in range(10)}) == 10


@pytest.mark.parametrize("count", [11, 50, 200])
def test_many_layers_get_lighter_with_depth_also_in_print(count: int) -> None:
    colours = [layer_colour(index, count) for index in range(count)]
    brightness = [float(TO_XYZ[1] @ light(each)) for each in colours]
    assert all(first < second for first, second in pairwise(brightness))
    assert contrast_with_white(colours[-1]) > 1.5
    assert {layer_line(index, count, 100)["linestyle"] for index in range(count)} == {"-"}


@pytest.mark.parametrize("count", [2, 8, 10])
@pytest.mark.parametrize("picture", ["densities", "redistribution", "layer gradient flow"])
def test_a_few_layers_are_named_in_a_legend(picture: str, count: int) -> None:
    (axes,) = BY_LAYER[picture](count).axes
    names = short_names(layers(count))
    assert [text for text in legend_texts(axes) if text in names] == names


@pytest.mark.parametrize("count", [11, 50])
@pytest.mark.parametrize("picture", ["densities", "redistribution", "layer gradient flow"])
def test_many_layers_are_named_along_a_bar_of_their_colours(picture: str, count: int) -> None:
    figure = BY_LAYER[picture](count)
    axes, bar = figure.axes
    names = short_names(layers(count))
    labels = [label.get_text() for label in bar.get_yticklabels()]
    assert [names[round(at)] for at in bar.get_yticks()] == labels
    assert (labels[0], labels[-1]) == (names[0], names[-1])
    assert len(labels) <= 16
    assert bar.get_ylim()[0] > bar.get_ylim()[1]  # the first layer is on top
    assert not set(names) & set(legend_texts(axes))
    assert "order of the model" in bar.get_ylabel()


@pytest.mark.parametrize("count", [2, 8, 50])
@pytest.mark.parametrize("picture", BY_LAYER)
def test_no_text_of_a_picture_by_layer_is_cut_off_or_overlaps(picture: str, count: int) -> None:
    assert illegible(BY_LAYER[picture](count)) == []


@pytest.mark.parametrize("picture", OTHERS)
def test_no_text_of_another_picture_is_cut_off_or_overlaps(picture: str) -> None:
    assert illegible(OTHERS[picture]()) == []


def test_illegible_texts_are_found() -> None:
    figure = Figure(layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel="label", xlim=(0, 1), ylabel="label", yticks=[0, 1])
    assert illegible(figure) == []
    axes.set_xticks([0.5, 0.51], ["long name", "other long name"])
    axes.text(3, 0.5, "far away").set_in_layout(False)
    assert illegible(figure) == ["'far away' is cut off", "'long name' overlaps 'other long name'"]


def with_two_layers(picture: str) -> Callable[..., Figure]:
    return lambda ax=None: BY_LAYER[picture](2, ax) if picture in BY_LAYER else OTHERS[picture](ax)


@pytest.mark.parametrize("picture", [*BY_LAYER, *OTHERS])
def test_given_axes_are_drawn_into_whatever_figure_they_are_of(picture: str) -> None:
    figure = Figure(layout="constrained")
    parts: Any = figure.subfigures(1, 2)
    left, right = parts
    axes, untouched = left.add_subplot(), right.add_subplot()
    assert with_two_layers(picture)(axes) is figure
    assert axes.has_data()
    assert not untouched.has_data()


@pytest.mark.parametrize("picture", [*BY_LAYER, *OTHERS])
def test_axes_are_labelled_and_titled(picture: str) -> None:
    axes = with_two_layers(picture)().axes[0]
    assert axes.get_title() or axes.get_title(loc="left")
    # An axis of layers has their names instead of a label.
    by_layer = {"specialization": ["y"], "empty channels": ["x"]}
    assert all(getattr(axes, f"get_{axis}label")() for axis in by_layer.get(picture, ["x", "y"]))


NAMES = st.lists(st.text("ab.0", min_size=1, max_size=40), min_size=1, max_size=5, unique=True)


@given(NAMES)
def test_short_names_of_different_layers_differ(names: list[str]) -> None:
    short = short_names(names)
    assert len(set(short)) == len(names)
    assert all(len(after) <= len(before) for before, after in zip(names, short, strict=True))


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["model.fc1.weight", "model.fc2.weight"], ["fc1", "fc2"]),
        (["net.0.weight", "net.3.weight"], ["net.0", "net.3"]),
        (["a.features.0.weight", "a.classifier.0.weight"], ["features.0", "classifier.0"]),
        (["rnn.weight_ih_l0", "rnn.weight_hh_l0"], ["weight_ih_l0", "weight_hh_l0"]),
        (["weight"], ["weight"]),
        (["fc.weight", "fc.bias"], ["weight", "bias"]),
    ],
)
def test_names_lose_their_common_parts(names: list[str], short: list[str]) -> None:
    assert short_names(names) == short


def test_long_names_lose_their_middle_unless_they_would_be_equal() -> None:
    long = "encoder.layers.10.attention.self.query.weight"
    assert short_names([long, "head.weight"]) == ["encoder.…ention.self.query", "head"]
    twin = long.replace("10", "11")
    assert short_names([long, twin, "x.weight"]) == [long[:-7], twin[:-7], "x"]
