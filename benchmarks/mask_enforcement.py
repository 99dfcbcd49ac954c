"""Enforcing masks: its share of a training step of VGG16 on CIFAR-sized images.

    python benchmarks/mask_enforcement.py [--batch 128] [--rounds 5]

Prints the CPU time of enforcing the masks of all layers once, as after every optimizer step, relative to that of a
whole step (forward, backward, SGD with momentum), interleaved in one run on one thread.
"""

from __future__ import annotations

import argparse

import torch
import torchvision
from timing import paired, report
from torch import nn

from lightning_sparse import SparseNetwork


def vgg16() -> nn.Module:
    """Return VGG16 with batch normalization for 32x32 images: 15 million weights, a 512-512-512-10 classifier."""
    features = torchvision.models.vgg16_bn().features
    head = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    return nn.Sequential(features, nn.Flatten(), head)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = vgg16()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    network = SparseNetwork(model, 0.05)
    images, labels = torch.randn(options.batch, 3, 32, 32), torch.randint(10, (options.batch,))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    report(
        paired({"training step": step, "mask enforcement": network.enforce}, options.rounds),
        "mask enforcement",
        "training step",
    )


if __name__ == "__main__":
    main()
