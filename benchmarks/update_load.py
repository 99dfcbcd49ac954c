"""Many topology updates in a row of a large network: does the budget stay exact, do memory and time stay flat?

    python benchmarks/update_load.py [--weights 100000000] [--updates 200] [--density 0.05] [--out FILE]

Convolutions and linear layers of mixed sizes, 100 million weights in all, with SGD and a momentum buffer for each.
Nothing is trained: before each update every momentum buffer is filled with other random values and the weights take a
step along it, so that every update of sparse momentum moves weights. One thread, CPU time of the updates alone;
resident memory after each (Linux). The results so far are written after every tenth update.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_sparse import SparseNetwork
from lightning_sparse.topology.recipes import SPARSE_MOMENTUM

PRUNE_RATE = 0.5
LEARNING_RATE = 0.1


@dataclass(frozen=True)
class Measured:
    """Cost and size of one update: CPU seconds, resident bytes after it, weights pruned (and as many grown)."""

    seconds: float
    resident: int
    moved: int


def layers(weights: int) -> nn.Sequential:
    """Return convolutions and linear layers with about this many weights; they don't fit together and never run."""
    # Width w makes 4,602 w^2 + 32,147 w of them.
    width = max(1, round(((32147**2 + 4 * 4602 * weights) ** 0.5 - 32147) / (2 * 4602)))
    channels = (width, 2 * width, 4 * width, 8 * width, 8 * width, 8 * width)
    convolutions = [nn.Conv2d(a, b, 3, bias=False) for a, b in pairwise(channels)]
    linear = [nn.Linear(32 * width, 32 * width, bias=False) for _ in range(3)]
    stem, head = nn.Conv2d(3, width, 7, bias=False), nn.Linear(32 * width, 1000, bias=False)
    return nn.Sequential(stem, *convolutions, *linear, head)


def sgd_with_momentum(model: nn.Module) -> torch.optim.SGD:
    """Return an optimizer that has a momentum buffer for every weight, as after a step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


@torch.no_grad()
def move(network: SparseNetwork, optimizer: torch.optim.SGD, noise: Tensor) -> None:
    """Fill each momentum buffer from a random place in the noise, at a scale of its own, and step along it."""
    for parameter, state in optimizer.state.items():
        start = int(torch.randint(noise.numel() - parameter.numel() + 1, ()))
        scale = float(torch.rand(())) + 0.5
        buffer = state["momentum_buffer"]
        torch.mul(noise[start : start + parameter.numel()].view_as(parameter), scale, out=buffer)
        parameter.add_(buffer, alpha=-LEARNING_RATE)
    network.enforce()


def check(network: SparseNetwork, budget: int) -> None:
    """Raise unless a recount of active weights equals the budget, and every inactive weight is zero."""
    active = sum(int(torch.count_nonzero(mask)) for mask in network.masks.values())
    nonzero = sum(int(torch.count_nonzero(parameter)) for parameter in network.model.parameters())
    if active != budget or nonzero > budget:
        raise AssertionError(f"Expected {budget} active weights; got {active}, and {nonzero} that are not zero.")


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def updates(network: SparseNetwork, budget: int, number: int) -> Iterator[Measured]:
    """Update the topology this many times; check and measure each time."""
    optimizer = sgd_with_momentum(network.model)
    network.attach(optimizer)
    # Twice the largest weight: enough places to start from that no two updates see the same.
    noise = torch.randn(2 * max(parameter.numel() for parameter in network.model.parameters()))
    for _ in range(number):
        move(network, optimizer, noise)
        start = time.process_time()
        changes = network.rewire(SPARSE_MOMENTUM, PRUNE_RATE)
        seconds = time.process_time() - start
        check(network, budget)
        yield Measured(seconds, resident(), sum(change.pruned for change in changes))


def tenths(found: list[Measured]) -> tuple[float, float]:
    """Return the mean resident bytes of the first and of the last tenth of the updates."""
    count = max(1, len(found) // 10)
    memory = [each.resident for each in found]
    return statistics.mean(memory[:count]), statistics.mean(memory[-count:])


def summary(network: SparseNetwork, budget: int, found: list[Measured]) -> str:
    """Return the results as text."""
    seconds, (first, last) = [each.seconds for each in found], tenths(found)
    layers = network.layers.values()
    return "\n".join(
        [
            f"updates                {len(found)}, each moved at least {min(each.moved for each in found):,} weights",
            f"weights                {sum(layer.size for layer in layers):,} in {len(layers)} layers",
            f"budget                 {budget:,} active weights, exact after every update",
            f"CPU time of an update  median {statistics.median(seconds):.3f} s, highest {max(seconds):.3f} s",
            f"resident memory        {first / 2**20:.1f} MiB in the first tenth, {last / 2**20:.1f} MiB in the last, "
            f"ratio {last / first:.4f}",
        ]
    )


def run(
    weights: int, number: int, density: float, after: Callable[[SparseNetwork, int, list[Measured]], object]
) -> list[Measured]:
    """Return the measurements of some updates; `after` is called with network, budget and the measurements so far."""
    torch.set_num_threads(1)
    model = layers(weights)
    budget = round(density * sum(parameter.numel() for parameter in model.parameters()))
    network = SparseNetwork(model, density, seed=0)
    found: list[Measured] = []
    for measured in updates(network, budget, number):
        found.append(measured)
        after(network, budget, found)
    return found


def main() -> None:
    """Read the options, measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=100_000_000)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "update_load.txt")
    options = parser.parse_args()
    torch.manual_seed(0)

    def write(network: SparseNetwork, budget: int, found: list[Measured]) -> None:
        if len(found) % 10 == 0 or len(found) == options.updates:
            options.out.write_text(summary(network, budget, found) + "\n")

    run(options.weights, options.updates, options.density, write)
    print(options.out.read_text(), end="")


if __name__ == "__main__":
    main()
