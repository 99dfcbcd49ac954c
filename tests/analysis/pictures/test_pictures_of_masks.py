"""Dark cells of a mask are active weights, and bars are the empty channels."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from drawn import containers, legend_texts, only
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from lightning_sparse.analysis.pictures import plot_empty_channels, plot_input_connectivity, plot_mask


def image(axes: Axes) -> NDArray[np.float64]:
    """Return the numbers of the image in axes."""
    (shown,) = axes.images
    array = shown.get_array()
    assert array is not None
    return np.asarray(array, dtype=float)


def shades(axes: Axes, values: NDArray[Any]) -> NDArray[np.float64]:
    """Return red, green, blue and opacity that the image in axes has for values."""
    (drawn,) = axes.images
    return np.asarray(drawn.cmap(drawn.norm(values)))


def random_mask(*shape: int, density: float = 0.3) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density


def test_each_weight_of_a_linear_layer_is_a_cell_outputs_from_top_to_bottom() -> None:
    mask = random_mask(3, 5)
    axes = only(plot_mask(mask).axes)  # without a colour bar, as each cell is one weight
    np.testing.assert_array_equal(image(axes), mask.numpy())
    assert list(axes.images[0].get_extent()) == [0, 5, 3, 0]
    assert axes.images[0].origin == "upper"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("input", "output")
    assert axes.get_title() == f"{int(mask.sum())} of 15 weights active ({100 * mask.float().mean():.3g} %)"


def test_active_is_dark_and_nothing_is_white() -> None:
    axes = only(plot_mask(torch.tensor([[True, False]])).axes)
    dark, white = shades(axes, np.array([1, 0])).tolist()
    assert white == [1, 1, 1, 1]
    assert max(dark[:2]) < 0.2


def test_a_block_with_a_single_active_weight_is_not_white() -> None:
    mask = torch.ones(1024, 1024, dtype=torch.bool)
    mask[:2, :2] = torch.tensor([[True, False], [False, False]])
    axes = plot_mask(mask).axes[0]
    assert max(shades(axes, image(axes))[0, 0, :2]) < 0.9


def test_a_kernel_is_one_cell_with_the_number_of_its_active_weights() -> None:
    mask = random_mask(4, 3, 3, 3)
    axes, bar = plot_mask(mask).axes
    np.testing.assert_array_equal(image(axes), mask.sum(dim=(2, 3)).numpy())
    assert bar.get_ylabel() == "active weights of a 3 x 3 kernel"


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 3, 2, 2, 2)])
def test_kernels_of_other_dimensions_are_counted_too(shape: tuple[int, ...]) -> None:
    mask = random_mask(*shape)
    axes, bar = plot_mask(mask).axes
    np.testing.assert_array_equal(image(axes), mask.flatten(2).sum(dim=2).numpy())
    assert bar.get_ylabel() == f"active weights of a {' x '.join(map(str, shape[2:]))} kernel"


def test_blocks_of_a_large_layer_are_cells_with_their_density_smaller_ones_at_the_end_included() -> None:
    mask = random_mask(1030, 515)
    axes, bar = plot_mask(mask).axes
    shown = image(axes)
    assert shown.shape == (344, 258)  # blocks of 3 x 2, smaller in the last row and column
    assert shown[0, 0] == pytest.approx(100 * mask[:3, :2].float().mean().item())
    assert shown[-1, 0] == pytest.approx(100 * mask[1029:, :2].float().mean().item())
    assert shown[-1, -1] == pytest.approx(100 * mask[1029:, 514:].float().mean().item())
    assert bar.get_ylabel() == "active weights in blocks of 3 x 2 (%)"
    assert list(axes.images[0].get_extent()) == [0, 515, 1030, 0]


def test_blocks_of_kernels_have_their_density_too() -> None:
    mask = random_mask(600, 4, 3, 3)
    axes, _ = plot_mask(mask).axes
    assert image(axes)[0, 0] == pytest.approx(100 * mask[:2, :1].float().mean().item())


@settings(max_examples=25)
@given(st.tuples(st.integers(1, 1500), st.integers(1, 1500)), st.integers(0, 9))
def test_no_active_weight_is_lost_in_blocks(shape: tuple[int, int], seed: int) -> None:
    mask = np.random.default_rng(seed).random(shape) < 0.01
    shown = image(plot_mask(mask).axes[0])
    assert max(shown.shape) <= 512
    rows, columns = (-(-size // 512) for size in shape)
    heights = [min(rows, shape[0] - start) for start in range(0, shape[0], rows)]
    widths = [min(columns, shape[1] - start) for start in range(0, shape[1], columns)]
    percent = 100.0 if max(rows, columns) > 1 else 1.0
    assert (shown * np.outer(heights, widths) / percent).sum() == pytest.approx(mask.sum())


def test_a_layer_of_16_million_weights_is_drawn_in_seconds() -> None:
    mask = np.zeros((4096, 4096), dtype=bool)
    mask[::7] = True
    begin = time.perf_counter()
    image(plot_mask(mask).axes[0])
    assert time.perf_counter() - begin < 5


def test_thin_layers_are_stretched_and_others_not() -> None:
    assert only(plot_mask(random_mask(10, 100)).axes).get_aspect() == "auto"
    assert only(plot_mask(random_mask(100, 30)).axes).get_aspect() == 1


@pytest.mark.parametrize("empty", [torch.zeros(3, 4), torch.ones(3, 4)], ids=["nothing active", "all active"])
def test_masks_of_zeros_and_ones_are_masks(empty: Tensor) -> None:
    np.testing.assert_array_equal(image(plot_mask(empty).axes[0]), empty.numpy())


@pytest.mark.parametrize(
    ("mask", "came"),
    [
        (torch.ones(3, dtype=torch.bool), r"got shape \(3,\)"),
        (torch.ones(0, 3, dtype=torch.bool), r"got shape \(0, 3\)"),
        (torch.tensor([[0.5, 1.0]]), "got float32"),
        ([[2, 0]], "got int64"),
    ],
)
def test_what_is_no_mask_is_refused(mask: Any, came: str) -> None:
    for plot in (
        plot_mask,
        lambda mask: plot_input_connectivity(mask, (1, 3)),
        lambda mask: plot_empty_channels({"fc": mask}),
    ):
        with pytest.raises(ValueError, match=rf"Expected .*{came}.* Cure: "):
            plot(mask)


def test_pixels_have_the_number_of_their_active_connections() -> None:
    mask = random_mask(7, 12)
    axes, bar = plot_input_connectivity(mask, (3, 4)).axes
    np.testing.assert_array_equal(image(axes), mask.sum(dim=0).view(3, 4).numpy())
    assert bar.get_ylabel() == "active connections of the pixel"
    assert axes.get_title() == f"{int(mask.sum())} active connections"


def test_channels_of_a_pixel_are_counted_together() -> None:
    mask = random_mask(7, 24)
    axes, bar = plot_input_connectivity(mask, (2, 3, 4)).axes
    np.testing.assert_array_equal(image(axes), mask.sum(dim=0).view(2, 3, 4).sum(dim=0).numpy())
    assert "2 channels together" in bar.get_ylabel()
    assert "channels" not in plot_input_connectivity(mask, (1, 4, 6)).axes[1].get_ylabel()


@pytest.mark.parametrize(
    ("mask", "shape"),
    [(random_mask(7, 12), (4, 4)), (random_mask(7, 12), (12,)), (random_mask(7, 3, 2, 2), (1, 3))],
)
def test_images_of_another_size_than_the_layers_input_are_refused(mask: Tensor, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Expected .*as many pixels; got .* Cure: "):
        plot_input_connectivity(mask, shape)


def bars(axes: Axes) -> dict[str, list[float]]:
    """Return the lengths of bars from top to bottom, by label."""
    return {str(each.get_label()): [bar.get_width() for bar in each] for each in containers(axes)}


def test_empty_channels_are_bars_in_percent_the_first_layer_on_top() -> None:
    linear = torch.tensor([[True, False, False, True], [False, False, False, False]])  # 1 of 2 outputs, 2 of 4 inputs
    convolution = torch.zeros(5, 2, 3, 3)
    convolution[:4, 0, 1, 1] = 1
    axes = only(plot_empty_channels({"net.fc.weight": linear, "net.conv.weight": convolution}).axes)
    assert bars(axes) == {"input channels": [50, 50], "output channels": [50, pytest.approx(20)]}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fc", "conv"]
    assert axes.get_ylim() == (1.5, -0.5)
    assert legend_texts(axes) == ["input channels", "output channels"]
    assert "%" in axes.get_xlabel()


def test_a_picture_without_empty_channels_says_so() -> None:
    full = only(plot_empty_channels({"fc": torch.ones(2, 2)}).axes)
    assert bars(full) == {"input channels": [0], "output channels": [0]}
    assert [text.get_text() for text in full.texts] == ["no channel is empty"]
    assert len(only(plot_empty_channels({"fc": torch.eye(2, 3)}).axes).texts) == 0


def test_without_masks_there_is_no_picture_of_channels() -> None:
    with pytest.raises(ValueError, match=r"Expected at least one layer.*; got none.* Cure: "):
        plot_empty_channels({})
