"""Crops and flips of whole batches equal those of image after image, and all of them are equally likely."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_sparse.data import PadCropFlip, pad_crop_flip

SIDES = st.integers(1, 9)


def one_by_one(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int) -> Tensor:
    """Pad, crop and flip one image after the other with NumPy: slow and obvious."""
    _, _, height, width = images.shape
    results = []
    for image, row, column, flipped in zip(images.numpy(), top.tolist(), left.tolist(), flip.tolist(), strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
        crop = padded[:, row : row + height, column : column + width]
        results.append(torch.from_numpy((crop[:, :, ::-1] if flipped else crop).copy()))
    return torch.stack(results)


def random_images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


@given(st.integers(1, 5), st.integers(1, 4), SIDES, SIDES, st.data())
def test_a_batch_equals_the_images_one_by_one(
    count: int, channels: int, height: int, width: int, data: st.DataObject
) -> None:
    images = random_images(count, channels, height, width)
    padding = data.draw(st.integers(0, min(height, width) - 1))
    places = st.lists(st.integers(0, 2 * padding), min_size=count, max_size=count)
    top, left = torch.tensor(data.draw(places)), torch.tensor(data.draw(places))
    flip = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    expected = one_by_one(images, top, left, flip, padding)
    assert torch.equal(pad_crop_flip(images, top, left, flip, padding), expected)


def test_every_crop_of_a_cifar_image_equals_torchvisions() -> None:
    from torchvision.transforms import functional

    image = random_images(1, 3, 32, 32)
    padded = functional.pad(image, [4, 4, 4, 4], padding_mode="reflect")
    for top in range(9):
        for left in range(9):
            crop = functional.crop(padded, top, left, 32, 32)
            for flip, expected in ((False, crop), (True, functional.hflip(crop))):
                arguments = torch.tensor([top]), torch.tensor([left]), torch.tensor([flip])
                assert torch.equal(pad_crop_flip(image, *arguments, padding=4), expected)


def test_every_place_and_flip_is_as_likely_as_every_other() -> None:
    count, padding = 36_000, 1
    # Of a 5 x 5 image whose pixels all differ, the crop tells its place and flip.
    image = torch.arange(25, dtype=torch.uint8).view(1, 1, 5, 5)
    crops = PadCropFlip(padding)(image.expand(count, -1, -1, -1), torch.Generator().manual_seed(0))
    seen = Counter(map(tuple, crops.flatten(1).tolist()))
    expected = count / 18
    assert len(seen) == 18
    # Five standard deviations; chi-square with 17 degrees of freedom is above 40.8 once in a thousand.
    assert all(abs(number - expected) < 5 * expected**0.5 for number in seen.values())
    assert sum((number - expected) ** 2 / expected for number in seen.values()) < 40.8


@pytest.mark.parametrize("flip", [False, True])
def test_flips_happen_to_half_of_the_images_or_to_none(flip: bool) -> None:
    image = torch.tensor([[[[0, 1]]]], dtype=torch.uint8).expand(10_000, -1, -1, -1)
    flipped = PadCropFlip(padding=0, flip=flip)(image, torch.Generator().manual_seed(0))[:, 0, 0, 0].sum().item()
    assert abs(flipped - 5_000 * flip) < 250 * flip + 1


def test_without_padding_and_flips_nothing_changes() -> None:
    images = random_images(20, 3, 5, 4)
    assert torch.equal(PadCropFlip(padding=0, flip=False)(images, torch.Generator()), images)


def test_the_images_of_a_batch_have_places_of_their_own() -> None:
    images = random_images(1, 1, 32, 32).expand(50, -1, -1, -1)
    crops = PadCropFlip()(images, torch.Generator().manual_seed(0))
    assert len({tuple(crop.flatten().tolist()) for crop in crops}) > 30


def test_the_generator_alone_decides() -> None:
    images, augment = random_images(20, 3, 8, 8), PadCropFlip(2)
    before = torch.get_rng_state()
    first, again, other = (augment(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_images_keep_their_form_and_the_given_ones_their_pixels(dtype: torch.dtype) -> None:
    images = random_images(20, 3, 8, 8).to(dtype)
    before = images.clone()
    crops = PadCropFlip(2)(images, torch.Generator())
    assert (crops.shape, crops.dtype, crops.is_contiguous()) == (images.shape, dtype, True)
    assert torch.equal(images, before)


def test_images_in_another_memory_format_are_read_right() -> None:
    images = random_images(6, 3, 8, 8)
    crops = [PadCropFlip(2)(i, torch.Generator()) for i in (images, images.to(memory_format=torch.channels_last))]
    assert torch.equal(*crops)


def test_an_empty_batch_stays_empty() -> None:
    assert PadCropFlip(2)(random_images(0, 3, 8, 8), torch.Generator()).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("padding", [-1, 1.5, "4", True])
def test_a_padding_that_is_no_number_of_pixels_is_refused(padding: object) -> None:
    with pytest.raises(ValueError, match=r"Expected padding >= 0.*got.*Cure"):
        PadCropFlip(padding)  # type: ignore[arg-type]  # wrong on purpose


def test_images_too_small_for_the_padding_are_refused() -> None:
    with pytest.raises(ValueError, match=r"padding < 4.*got 4 for images of 4 x 9.*Cure"):
        PadCropFlip(4)(random_images(2, 3, 4, 9), torch.Generator())
