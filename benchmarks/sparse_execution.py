r"""Whole training steps with sparse kernels against PyTorch's dense layouts, on one thread.

    python benchmarks/sparse_execution.py [--networks lenet300 vgg16] [--densities 0.05 0.1 0.2] [--rounds 5]

A step is forward pass, backward pass, the optimizer's step (SGD with Nesterov momentum) and the masks, on ordinary
parameters. Each network runs dense as PyTorch has it by default, dense in the layout channels_last, and with
`execute(network, kernels="always")`, in turns; all of them are masked, uniformly. Printed is the CPU time of a step
(median of the rounds) and how many times the sparse step goes into the faster of the dense ones (median of the ratios
of each round, with the smallest and the largest).
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_sparse import SparseNetwork
from lightning_sparse.execution.network_execution import execute
from lightning_sparse.models.lenet import LeNet5Caffe, LeNet300100
from lightning_sparse.models.vgg import VGG16
from lightning_sparse.models.wide_resnet import WideResNet


def resnet18() -> nn.Module:
    """Return torchvision's ResNet-18 with the first layers that are usual on CIFAR."""
    from torchvision.models import resnet18 as torchvision_resnet18

    model: nn.Module = torchvision_resnet18(num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet300": (LeNet300100, (100, 1, 28, 28)),
    "lenet5": (LeNet5Caffe, (100, 1, 28, 28)),
    "wrn28_2": (lambda: WideResNet(28, 2, dropout=0.0), (64, 3, 32, 32)),
    "resnet18": (resnet18, (32, 3, 32, 32)),
    "vgg16": (VGG16, (64, 3, 32, 32)),
}


@dataclass
class Side:
    """One way to train a network.

    Attributes:
        step: Function that makes one step.
        seconds: CPU seconds of a step, by round.
    """

    step: Callable[[], None]
    seconds: list[float]


def training(model: nn.Module, inputs: Tensor, density: float, *, sparse: bool) -> Callable[[], None]:
    """Return a function that makes one step of a masked network."""
    network = SparseNetwork(model, density, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    network.attach(optimizer)
    if sparse:
        execute(network, kernels="always")
    labels = torch.arange(len(inputs)) % 10

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    return step


def measured(name: str, density: float, rounds: int) -> dict[str, float | str]:
    """Measure one network at one density, print a line, and return its figures."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model, inputs = make(), torch.randn(shape)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    sides = {
        "dense": Side(training(copy.deepcopy(model), inputs, density, sparse=False), []),
        "channels_last": Side(training(last, inputs.to(memory_format=torch.channels_last), density, sparse=False), []),
        "sparse": Side(training(model, inputs, density, sparse=True), []),
    }
    for _ in range(rounds + 1):
        for side in sides.values():
            began, steps = time.process_time(), 0
            while steps == 0 or time.process_time() - began < 0.3:
                side.step()
                steps += 1
            side.seconds.append((time.process_time() - began) / steps)
    rows = zip(*(side.seconds[1:] for side in sides.values()), strict=True)
    ratios = [min(dense, last) / sparse for dense, last, sparse in rows]
    medians = {f"{kind}_ms": 1000 * statistics.median(side.seconds[1:]) for kind, side in sides.items()}
    times = ", ".join(f"{kind.removesuffix('_ms')} {value:.4g} ms" for kind, value in medians.items())
    ratio = statistics.median(ratios)
    print(f"{name} at {density:g}: {times}; {ratio:.2f} times ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
    return {"network": name, "density": density, **medians, "ratio": ratio, "least": min(ratios), "most": max(ratios)}


def main() -> None:
    """Measure, and print a line for each network and density."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS), help="Networks.")
    parser.add_argument("--densities", nargs="+", type=float, default=[0.05, 0.1, 0.2], help="Densities in (0, 1].")
    parser.add_argument("--rounds", type=int, default=5, help="Rounds, after one that isn't counted.")
    parser.add_argument("--json", type=Path, help="File that the figures are written to.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [measured(name, density, options.rounds) for name in options.networks for density in options.densities]
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
