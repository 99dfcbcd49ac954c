"""Random crops and flips of whole batches, different for each image, by one indexing operation."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.numbers import check_integer
from lightning_sparse.validation.representation import ShowsOptions


class PadCropFlip(ShowsOptions):
    """Pads each image with its own reflection, crops it back to its size at a random place, and flips half of them.

    The customary augmentation for CIFAR: padding 4 and flips, as in Dettmers & Zettlemoyer (2019), section 4. Each
    image has its own place, drawn uniformly, and is flipped left to right with probability 1/2.

    Args:
        padding: Pixels on each side, >= 0 and less than the images' height and width.
        flip: Whether to flip images at random.

    Raises:
        ValueError: If ``padding`` is not an integer >= 0.
    """

    def __init__(self, padding: int = 4, flip: bool = True) -> None:
        check_integer(padding, 0, expected="padding >= 0, an integer", cure="4 is customary for CIFAR")
        self.padding: int = padding
        self.flip: bool = flip

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment a batch.

        Args:
            images: ``(batch, channels, height, width)``, of any dtype and on any device.
            generator: Generator on the CPU, so that all devices get the same draws, one number per image.

        Returns:
            New images of the same shape and dtype.

        Raises:
            ValueError: If the images are too small for the padding.
        """
        return self.apply(images, self.draw(len(images), generator))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the crop and flip of each image.

        Args:
            count: Number of images.
            generator: Generator on the CPU.

        Returns:
            int64 ``(count,)`` on the CPU: the place of the crop and whether it is flipped, encoded in one number.
        """
        return torch.randint((2 * self.padding + 1) ** 2 * (1 + self.flip), (count,), generator=generator)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Crop and flip each image as drawn.

        Args:
            images: ``(batch, channels, height, width)``, of any dtype and on any device.
            draws: Numbers from `draw`, of one call or several concatenated, ``(batch,)``.

        Returns:
            New images of the same shape and dtype.

        Raises:
            ValueError: If the images are too small for the padding.
        """
        # A blocking copy would wait for all work queued on CUDA. On other devices a non-blocking copy may come too
        # late.
        draws, places = draws.to(images.device, non_blocking=images.is_cuda), 2 * self.padding + 1
        return pad_crop_flip(images, draws // places % places, draws % places, draws // places**2 == 1, self.padding)

    def __repr__(self) -> str:
        return f"PadCropFlip(padding={self.padding}, flip={self.flip})"


def pad_crop_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int) -> Tensor:
    """Crop each image out of its reflectively padded self, then flip it; the padded image is never built.

    Args:
        images: ``(batch, channels, height, width)``.
        top: int64 ``(batch,)``, the first row of the crop in the padded image, from 0 to ``2 * padding``.
        left: int64 ``(batch,)``, the first column of the crop, from 0 to ``2 * padding``.
        flip: bool ``(batch,)``, whether the crop is flipped left to right.
        padding: Pixels on each side, 0 <= padding < min(height, width).

    Returns:
        New images of the same shape, dtype and device.

    Raises:
        ValueError: If the images are too small for the padding.

    >>> image, one = torch.tensor([[[[1, 2], [3, 4]]]]), torch.tensor([1])
    >>> pad_crop_flip(image, top=one, left=0 * one, flip=one == 0, padding=1).tolist()
    [[[[2, 1], [4, 3]]]]
    """
    count, channels, height, width = images.shape
    check_padding(padding, height, width)
    column = torch.arange(width, device=images.device)
    columns = torch.where(flip[:, None], column.flip(0), column) + left[:, None]
    rows = torch.arange(height, device=images.device) + top[:, None]
    rows, columns = _reflect(rows - padding, height), _reflect(columns - padding, width)
    # Each pixel's source within its channel, the same in all channels: (batch, height * width). A gather of bytes by
    # this index is three to five times faster than indexing by row and column.
    source = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    pixels = images.flatten(2).gather(2, source[:, None].expand(-1, channels, -1))
    return pixels.view(count, channels, height, width)


def check_padding(padding: int, height: int, width: int) -> None:
    """Raise a ValueError unless images of this size can be padded by reflection: 0 <= padding < each side."""
    if not 0 <= padding < min(height, width):
        raise InvalidValueError(
            expected=f"0 <= padding < {min(height, width)}, less than the images' sides",
            got=f"{padding} for images of {height} x {width}",
            cure="lower the padding",
        )


def _reflect(position: Tensor, size: int) -> Tensor:
    """Map positions outside the image to the pixels they mirror: -1 to 1, -2 to 2; size to size - 2."""
    last = size - 1
    return last - (last - position.abs()).abs()
