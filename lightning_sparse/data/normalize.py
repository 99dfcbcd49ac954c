"""Normalization of stored pixels to float32 with about zero mean and unit variance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite

import torch
from torch import Tensor

from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.numbers import is_real
from lightning_sparse.validation.representation import ShowsOptions

Batch = tuple[Tensor, Tensor]
"""Images ``(batch, channels, height, width)`` and int64 labels ``(batch,)``."""


class Normalize(ShowsOptions):
    """Maps the images of a batch to float32: ``(pixel / white - mean) / std``, channel by channel.

    Args:
        mean: Mean per channel (or one for all), in units in which black is 0 and white is 1.
        std: Standard deviation per channel (or one for all), same units, each > 0.
        white: Stored value of a white pixel, > 0: 255 for uint8, 1 for floating-point images.

    Raises:
        ValueError: If the lengths differ, or a ``std`` or ``white`` is not positive.

    >>> to_unit_range = Normalize(mean=[0.0], std=[1.0])
    >>> images, _ = to_unit_range((torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8), torch.tensor([7])))
    >>> [round(value, 3) for value in images.flatten().tolist()]
    [0.0, 0.2, 1.0]
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], white: float = 255.0) -> None:
        _check_statistics(mean, std, white)
        self.mean, self.std, self.white = tuple(mean), tuple(std), white
        # x * scale + shift costs two passes over the batch; the textbook form would cost four.
        shape = (1, len(self.mean), 1, 1)
        self._scale = torch.tensor([1 / (white * s) for s in self.std]).view(shape)
        self._shift = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)]).view(shape)

    @classmethod
    def fit(cls, images: Tensor, white: float = 255.0) -> Normalize:
        """Compute the statistics of images, so that these get mean 0 and standard deviation 1.

        Args:
            images: Images ``(images, channels, height, width)`` of any real dtype.
            white: Stored value of a white pixel, > 0.
        """
        # Channel by channel, because a float copy of all of CIFAR-10 at once would take 600 MB.
        channels = [torch.std_mean(channel.float() / white, correction=0) for channel in images.unbind(1)]
        mean = [m.item() for _, m in channels]
        # 1 for a constant channel keeps it at zero instead of NaN.
        std = [s.item() if s > 0 else 1.0 for s, _ in channels]
        return cls(mean, std, white)

    def __call__(self, batch: Batch) -> Batch:
        """Normalize the images and return the labels unchanged."""
        images, labels = batch
        # Moved once: a copy for every batch would make the device wait for the host.
        self._scale, self._shift = self._scale.to(images.device), self._shift.to(images.device)
        # In place, on the new float32 copy.
        return images.to(torch.float32, copy=True).mul_(self._scale).add_(self._shift), labels

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean}, std={self.std}, white={self.white})"


def _check_statistics(mean: Sequence[float], std: Sequence[float], white: float) -> None:
    for name, values in (("mean", mean), ("std", std)):
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable) or not all(map(_is_finite, values)):
            raise InvalidValueError(
                expected=f"a list of finite numbers as {name}, one per channel",
                got=repr(values),
                cure="[0.5], for instance",
            )
    if not len(mean) or len(mean) != len(std):
        raise InvalidValueError(
            expected="as many values in mean as in std, one per channel",
            got=f"{len(mean)} and {len(std)}",
            cure="give one value of each per channel",
        )
    if min(std) <= 0 or white <= 0:
        raise InvalidValueError(
            expected="every std and white to be greater than 0",
            got=f"std={tuple(std)}, white={white}",
            cure="use 1.0 for a channel without scaling",
        )


def _is_finite(value: object) -> bool:
    return is_real(value) and isfinite(value)
