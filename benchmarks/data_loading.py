"""Augmented CIFAR-10 batches: images per CPU second of our loader and of torchvision's per-image pipeline.

    python benchmarks/data_loading.py [--data PATH] [--rounds 5]

Both shuffle 50,000 images into batches of 128, pad by reflection and crop at random, flip, and normalize to float32.
The first is CIFAR10DataModule's training loader; the second is RandomCrop, RandomHorizontalFlip, ToTensor and Normalize
on one PIL image after the other, in a DataLoader without workers. PATH is the folder of torchvision's CIFAR-10, or an
.npz file with the same images; without it, random images of the same size are used. One thread, CPU time, whole epochs
interleaved. Exits with 1 below the limit, a ratio of 5.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import paired, ratio
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from lightning_sparse.data import ArrayDataModule, CIFAR10DataModule, InMemoryDataModule

LIMIT = 5.0
MEAN, STD = CIFAR10DataModule.customary_mean, CIFAR10DataModule.customary_std


class PerImage(Dataset[tuple[Tensor, int]]):
    """Array to PIL image to tensor, as torchvision's own data sets of arrays do it."""

    def __init__(self, images: np.ndarray, labels: list[int]) -> None:
        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image, augmented, and its label."""
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def random_images() -> InMemoryDataModule:
    """Return a stand-in for CIFAR-10."""
    images = torch.randint(256, (50_000, 32, 32, 3), dtype=torch.uint8)
    labels = torch.randint(10, (50_000,))
    options = {"val_fraction": 0, "batch_size": 128, "crop_padding": 4, "flip": True, "mean": MEAN, "std": STD}
    return ArrayDataModule(images, labels, images[:100], labels[:100], num_classes=10, **options)


def epoch(batches: Iterable[tuple[Tensor, Tensor]], count: int) -> None:
    """Iterate over an epoch, and check number, shape and type of its images."""
    shapes = [(tuple(images.shape[1:]), images.dtype, len(labels)) for images, labels in batches]
    if sum(size for _, _, size in shapes) != count or {shape[:2] for shape in shapes} != {((3, 32, 32), torch.float32)}:
        raise RuntimeError(f"Expected {count} float32 images of (3, 32, 32); got {set(shapes)}.")


def main() -> int:
    """Read the options, measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    data = CIFAR10DataModule(options.data, download=False, val_fraction=0) if options.data else random_images()
    data.setup("fit")
    ours = data.train_dataloader()
    count = len(ours.images)
    per_image = PerImage(ours.images.permute(0, 2, 3, 1).contiguous().numpy(), ours.labels.tolist())
    theirs = DataLoader(per_image, batch_size=128, shuffle=True, num_workers=0)

    versions = {"lightning_sparse": ours, "torchvision": theirs}
    seconds = paired({name: lambda b=batches: epoch(b, count) for name, batches in versions.items()}, options.rounds)
    print(f"{'CIFAR-10' if options.data else 'random images of the size of CIFAR-10'}: {count} images an epoch")
    for name, values in seconds.items():
        per_second = count / statistics.median(values)
        print(f"{name:<20} {per_second:10,.0f} images per CPU second, median of {len(values)} epochs")
    middle, low, high = ratio(seconds, "torchvision", "lightning_sparse")
    print(f"ratio lightning_sparse / torchvision: {middle:.4g} (rounds: {low:.4g} to {high:.4g}), limit {LIMIT:g}")
    return int(middle < LIMIT)


if __name__ == "__main__":
    sys.exit(main())
