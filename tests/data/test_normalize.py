"""Normalization equals the textbook form and takes its statistics from the right place."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_sparse.data import Normalize

LABELS = torch.zeros(6, dtype=torch.int64)


def random_images(channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (6, channels, 5, 4), dtype=torch.uint8, generator=generator)


def test_equals_the_textbook_form_channel_by_channel() -> None:
    images, mean, std = random_images(), [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    normalized, _ = Normalize(mean, std)((images, LABELS))
    for channel in range(3):
        expected = (images[:, channel] / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(normalized[:, channel], expected)


def test_fitted_images_come_out_with_mean_0_and_standard_deviation_1() -> None:
    images = random_images()
    normalized, _ = Normalize.fit(images)((images, LABELS))
    torch.testing.assert_close(normalized.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalized.std(dim=(0, 2, 3), correction=0), torch.ones(3))


def test_white_is_the_stored_value_that_counts_as_one() -> None:
    normalized, _ = Normalize([0.0], [1.0], white=16.0)((torch.full((6, 1, 2, 2), 8.0), LABELS))
    assert torch.equal(normalized, torch.full((6, 1, 2, 2), 0.5))


def test_fitting_gives_statistics_in_units_of_white() -> None:
    images = torch.tensor([0, 16], dtype=torch.uint8).view(2, 1, 1, 1)
    fitted = Normalize.fit(images, white=16.0)
    assert (fitted.mean, fitted.std) == ((0.5,), (0.5,))


def test_a_constant_channel_becomes_zero() -> None:
    images = torch.full((6, 1, 2, 2), 7, dtype=torch.uint8)
    normalized, _ = Normalize.fit(images)((images, LABELS))
    torch.testing.assert_close(normalized, torch.zeros(6, 1, 2, 2))


def test_float_images_are_not_changed_in_place() -> None:
    images = torch.ones(6, 1, 2, 2)
    Normalize([0.0], [0.5], white=1.0)((images, LABELS))
    assert torch.equal(images, torch.ones(6, 1, 2, 2))


@pytest.mark.parametrize(
    "statistics",
    [
        {"mean": [0.1, 0.2], "std": [1.0]},
        {"mean": [], "std": []},
        {"mean": [0.1], "std": [0.0]},
        {"mean": [0.1], "std": [1.0], "white": 0.0},
    ],
    ids=str,
)
def test_statistics_that_make_no_sense_are_refused(statistics: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Expected .* got"):
        Normalize(**statistics)
