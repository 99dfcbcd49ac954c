"""A data loader for images that fit in memory, which resumes in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from lightning_sparse.data.augment import PadCropFlip
from lightning_sparse.data.normalize import Batch
from lightning_sparse.data.resumable_loader import BatchPlan, ResumableLoader
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""Function of a batch of stored images and a generator on the CPU that returns randomly changed copies."""


# 16 batches of 128 images of CIFAR-10 are 6 million pixels.
_MOST_AT_ONCE, _MOST_PIXELS = 16, 10_000_000


class InMemoryLoader(ResumableLoader):
    """Loader of ``(images, labels)`` batches, each by one indexing operation, never image by image.

    The batches of an epoch are a pure function of ``seed``, the epoch's number and the process, augmentation
    included: a run that Lightning resumes at any step sees the batches of the uninterrupted run.

    Args:
        images: Images ``(images, channels, height, width)``, uint8 or floating point; batches are on the same device.
        labels: Labels ``(images,)``, int64.
        batch_size: Images per batch and process, >= 1.
        shuffle: Whether to shuffle the images in each epoch. Otherwise they come in the given order.
        seed: Seed for the orders and the augmentation; the same in all processes.
        drop_last: Whether to leave out a last batch that is smaller than the others.
        augment: Random augmentation of each batch of stored images, such as `PadCropFlip`, with a generator of the
            batch's own. Default: none.
        transform: Function applied to each batch last, such as `Normalize`. Default: batches as stored.
        rank: Rank of this process, 0 <= rank < world_size.
        world_size: Number of processes. Each gets an equal share of each epoch's images.
        even: Whether to repeat some images if they can't be divided evenly, so that all processes make the same
            number of steps. Otherwise no image comes twice, and some processes have one image less.

    Raises:
        ValueError: If the shapes or the options do not fit together.
        TypeError: If ``labels`` are not int64.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        drop_last: bool = False,
        augment: Augmentation | None = None,
        transform: Callable[[Batch], Batch] | None = None,
        rank: int = 0,
        world_size: int = 1,
        even: bool = True,
    ) -> None:
        _check_tensors(images, labels)
        super().__init__(
            len(images),
            batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
            even=even,
        )
        self.images, self.labels = images.contiguous(), labels.to(images.device).contiguous()
        self.augment, self.transform = augment, transform

    def _fetch(self, plans: Iterator[BatchPlan]) -> Iterator[Batch]:
        at_once = _batches_at_once(self.images, self.batch_size, self.augment)
        while planned := list(islice(plans, at_once)):
            index = planned[0].images if at_once == 1 else torch.cat([plan.images for plan in planned])
            images, labels = self.images.index_select(0, index), self.labels.index_select(0, index)
            if self.augment is not None:
                images = self._augmented(images, planned)
            for batch in [(images, labels)] if at_once == 1 else _split_into_batches(images, labels, planned):
                yield batch if self.transform is None else self.transform(batch)

    def _augmented(self, images: Tensor, planned: Sequence[BatchPlan]) -> Tensor:
        generators = [torch.Generator().manual_seed(plan.seed) for plan in planned]
        if type(self.augment) is PadCropFlip:
            draws = [self.augment.draw(len(p.images), g) for p, g in zip(planned, generators, strict=True)]
            return self.augment.apply(images, torch.cat(draws))
        return self.augment(images, generators[0])  # type: ignore[misc]  # not None, for a single batch

    def _order(self, epoch: int, seed: int) -> Tensor:
        return super()._order(epoch, seed).to(self.images.device)


def _split_into_batches(images: Tensor, labels: Tensor, planned: Sequence[BatchPlan]) -> Iterable[Batch]:
    sizes = [len(plan.images) for plan in planned]
    return zip(torch.split(images, sizes), torch.split(labels, sizes), strict=True)


def _batches_at_once(images: Tensor, batch_size: int, augment: Augmentation | None) -> int:
    """Return how many batches to make at once.

    For small batches, launching the many kernels of an augmentation takes a device longer than running them.
    """
    # A subclass may do more than draw and apply.
    if images.device.type == "cpu" or type(augment) is not PadCropFlip:
        return 1
    return max(1, min(_MOST_AT_ONCE, _MOST_PIXELS // (batch_size * images[0].numel())))


def _check_tensors(images: Tensor, labels: Tensor) -> None:
    if images.ndim != 4 or not len(images):
        raise InvalidValueError(
            expected="images of shape (images, channels, height, width), at least one",
            got=tuple(images.shape),
            cure="use images.unsqueeze(1) for images without a channel dimension",
        )
    if labels.dtype != torch.int64:
        raise InvalidTypeError(
            expected="int64 labels",
            got=labels.dtype,
            cure="use labels.long()",
        )
    if labels.shape != images.shape[:1]:
        raise InvalidValueError(
            expected=f"one label per image, shape ({len(images)},)",
            got=tuple(labels.shape),
            cure="check that images and labels belong together",
        )
