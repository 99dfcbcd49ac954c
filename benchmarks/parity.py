"""Agreement with the original authors' library: one topology update from the same state, and whole trainings.

    python benchmarks/parity.py --library PATH --data FOLDER [--seeds 3] [--epochs 20] [--density 0.05]

PATH is a checkout of github.com/TimDettmers/sparse_learning (it runs on the CPU: its calls of `.cuda()` return the
tensor itself), FOLDER has MNIST as `lightning-sparse reproduce` expects it. LeNet-300-100 is trained with their
protocol.

The update: after each of three epochs of their training, weights, masks and momentum are copied into a `SparseNetwork`,
and both sides update once at the same prune rate. Where they prune or grow a different number of weights in a layer,
the smaller choice must lie within the larger one. Their numbers differ because their library rounds differently,
smooths the rounding residual, fills no layer above 99 %, and chooses other layers to prune less because they grow: ours
those that regrow more than they prune, theirs those above 80 % density whose share of the regrowth is above the
average. So each update of ours is also made with their choice of layers: then each layer prunes as many weights as
theirs, to within one for rounding.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_sparse import SparseNetwork
from lightning_sparse.data import MNISTDataModule
from lightning_sparse.models import LeNet300100
from lightning_sparse.network.state import with_checksum
from lightning_sparse.topology import Recipe, plan
from lightning_sparse.topology.growth import momentum
from lightning_sparse.topology.packing import pack_mask
from lightning_sparse.topology.plan import LayerChange, LayerEvidence
from lightning_sparse.topology.pruning import magnitude
from lightning_sparse.topology.redistribution import mean_momentum
from lightning_sparse.topology.schedule import cosine

# Their code zeroes weights only after growth: one that is pruned and regrown keeps its value.
RECIPE = Recipe(magnitude, mean_momentum, momentum, keep_regrown=True)
PRUNE_RATE = 0.5
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
DECAY = partial(torch.optim.lr_scheduler.StepLR, step_size=25000, gamma=0.1)
Network = Callable[[], nn.Module]


class Theirs:
    """A network trained by their library."""

    def __init__(self, density: float, steps: int, network: Network = LeNet300100) -> None:
        from sparselearning.core import CosineDecay, Masking

        self.model = network()
        self.optimizer = SGD(self.model.parameters())
        self.masking: Any = Masking(self.optimizer, CosineDecay(PRUNE_RATE, steps), prune_rate=PRUNE_RATE)
        with contextlib.redirect_stdout(io.StringIO()):
            self.masking.add_module(self.model, density=density)
        self.step = self.masking.step  # also steps the optimizer

    def update(self, epoch: int, epochs: int) -> None:
        """End an epoch."""
        if epoch < epochs:
            with contextlib.redirect_stdout(io.StringIO()):
                self.masking.at_end_of_epoch()


class Ours:
    """A network trained with a `SparseNetwork`; the prune rate reaches zero at the last update."""

    def __init__(self, density: float, steps: int, network: Network = LeNet300100) -> None:
        self.model = network()
        self.optimizer = SGD(self.model.parameters())
        self.network = SparseNetwork(self.model, density)
        self.network.attach(self.optimizer)
        self.step = self.optimizer.step

    def update(self, epoch: int, epochs: int) -> None:
        """End an epoch; the last update moves nothing."""
        if epoch < epochs:
            self.network.rewire(RECIPE, self.rate(epoch, epochs))

    def rate(self, epoch: int, epochs: int) -> float:
        """Return the prune rate after an epoch."""
        return PRUNE_RATE * cosine((epoch - 1) / max(1, epochs - 2))


class OursAtTheirRates(Ours):
    """The same at the prune rates of their library, which end at 0.005 after the last epoch."""

    def rate(self, epoch: int, epochs: int) -> float:
        """Return the prune rate after an epoch."""
        return 0.005 + (PRUNE_RATE - 0.005) * cosine(epoch / epochs)


def use_library(path: Path) -> None:
    """Let their library be imported from a checkout, and run on the CPU."""
    sys.path.insert(0, str(path))
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]  # there may be no device


def train_epoch(run: Theirs | Ours, data: MNISTDataModule, schedule: Any) -> None:
    """Train one epoch."""
    for images, labels in data.train_dataloader():
        run.optimizer.zero_grad()
        cross_entropy(run.model(images), labels).backward()
        run.step()
        schedule.step()


def test_error(model: nn.Module, data: MNISTDataModule) -> float:
    """Return the test error in percent."""
    with torch.no_grad():
        wrong = sum(int((model(images).argmax(1) != labels).sum()) for images, labels in data.test_dataloader())
    return wrong / 100


def train(kind: type[Theirs | Ours], folder: Path, seed: int, density: float, epochs: int) -> float:
    """Train with one of the two and return the test error in percent."""
    torch.manual_seed(seed)
    data = mnist(folder)
    run = kind(density, epochs * len(data.train_dataloader()))
    schedule = DECAY(run.optimizer)
    loader = data.train_dataloader()
    data.train_dataloader = lambda: loader  # type: ignore[method-assign]  # one loader, which counts epochs
    for epoch in range(1, epochs + 1):
        train_epoch(run, data, schedule)
        run.update(epoch, epochs)
    return test_error(run.model, data)


def mnist(folder: Path) -> MNISTDataModule:
    """Return MNIST with the last 10 % held out, as in their code."""
    arrays = folder / "mnist.npz"
    data = MNISTDataModule(arrays if arrays.exists() else folder, download=False, split_seed=None)
    data.setup("fit")
    return data


def copied(theirs: Theirs) -> tuple[SparseNetwork, nn.Module]:
    """Return a network of ours in the state of theirs."""
    model = LeNet300100()
    model.load_state_dict(theirs.model.state_dict())
    optimizer = SGD(model.parameters())
    for mine, other in zip(model.parameters(), theirs.model.parameters(), strict=True):
        optimizer.state[mine]["momentum_buffer"] = theirs.optimizer.state[other]["momentum_buffer"].clone()
    masks = {name: mask.bool() for name, mask in theirs.masking.masks.items()}
    active, size = (sum(count(mask) for mask in masks.values()) for count in (torch.count_nonzero, torch.numel))
    density = int(active) / int(size)
    state = SparseNetwork(LeNet300100(), density).state_dict()
    content = {name: value for name, value in state.items() if name not in ("version", "checksum")}
    content["masks"] = {name: pack_mask(mask) for name, mask in masks.items()}
    network = SparseNetwork(model, density, state=with_checksum(content))
    network.attach(optimizer)
    return network, model


def spared_by_theirs(layers: Sequence[LayerEvidence], pruned: Sequence[int], claims: Sequence[float]) -> list[int]:
    """Return what each layer prunes if layers prune less only where their rule says that they grow."""
    average = sum(claims) / len(claims)
    return [
        min(lost, layer.active * layer.spare // layer.size)
        if layer.spare < 0.2 * layer.size and claim > average
        else lost
        for layer, lost, claim in zip(layers, pruned, claims, strict=True)
    ]


def compare_update(theirs: Theirs) -> list[str]:
    """Update both sides once from the state of theirs; return the lines of `agreement` by our rule and theirs."""
    network, like_theirs = copied(theirs)[0], copied(theirs)[0]
    before = network.masks
    rate = theirs.masking.prune_rate_decay.get_dr(PRUNE_RATE)
    removed: dict[str, Tensor] = {}
    growth = theirs.masking.growth_func

    def grow(masking: Any, name: str, new_mask: Tensor, *rest: Any) -> Tensor:
        removed[name] = before[name] & ~new_mask.bool()
        return growth(masking, name, new_mask, *rest)

    theirs.masking.growth_func = grow
    theirs.masking.prune_rate = rate
    with contextlib.redirect_stdout(io.StringIO()):
        theirs.masking.truncate_weights()
    theirs.masking.growth_func = growth
    lines = agreement(network, network.rewire(RECIPE, rate), before, theirs, removed)
    with patch.object(plan, "_spare_nearly_dense", spared_by_theirs):
        changes = like_theirs.rewire(RECIPE, rate)
    for change in changes:
        if abs(change.pruned - int(removed[change.name].sum())) > 1:  # they round up
            raise AssertionError(f"{change.name}: pruned {change.pruned} and {int(removed[change.name].sum())}")
    return [
        *lines,
        " with their choice of layers that prune less:",
        *agreement(like_theirs, changes, before, theirs, removed),
    ]


def agreement(
    network: SparseNetwork,
    changes: Sequence[LayerChange],
    before: Mapping[str, Tensor],
    theirs: Theirs,
    removed: Mapping[str, Tensor],
) -> list[str]:
    """Return one line per layer on an update of both sides, and raise where neither choice lies within the other."""
    lines = []
    for change in changes:
        name, after = change.name, network.masks[change.name]
        their_after = theirs.masking.masks[name].bool()
        pairs = {
            "kept": (before[name] & after, before[name] & their_after),
            "new": (after & ~before[name], their_after & ~before[name]),
        }
        texts = []
        for what, (mine, other) in pairs.items():
            counts = int(mine.sum()), int(other.sum())
            differing = int((mine ^ other).sum())
            texts.append(f"{what} {counts[0]} and {counts[1]}, in common {int((mine & other).sum())}")
            if differing > abs(counts[0] - counts[1]) + 2 * abs(change.pruned - int(removed[name].sum())):
                raise AssertionError(f"{name}: {texts[-1]}: neither lies within the other")
        lines.append(f"  {name}: pruned {change.pruned} and {int(removed[name].sum())}; {'; '.join(texts)}")
    return lines


def main() -> None:
    """Read the options, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--density", type=float, default=0.05)
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds: expected at least 2, for a standard error; got {options.seeds}")
    torch.set_num_threads(1)
    use_library(options.library)
    torch.manual_seed(0)
    data = mnist(options.data)
    theirs = Theirs(options.density, 10**9)
    schedule = DECAY(theirs.optimizer)
    print(f"One update from the same state, LeNet-300-100 at {100 * options.density:g} % weights (ours and theirs):")
    for epoch in range(1, 4):
        train_epoch(theirs, data, schedule)
        print(f"after epoch {epoch}", *compare_update(theirs), sep="\n", flush=True)
    print(f"Test error (%) after {options.epochs} epochs:")
    names = {Ours: "ours", OursAtTheirRates: "ours, their prune rates", Theirs: "theirs"}
    errors = {}
    for kind, name in names.items():
        errors[kind] = [
            train(kind, options.data, seed, options.density, options.epochs) for seed in range(options.seeds)
        ]
        mean, spread = statistics.mean(errors[kind]), statistics.stdev(errors[kind])
        each = ", ".join(f"{error:.2f}" for error in errors[kind])
        print(f"  {name}: {mean:.3f} +- {spread / sqrt(len(errors[kind])):.3f} ({each})", flush=True)
    for kind in (Ours, OursAtTheirRates):
        difference = statistics.mean(errors[kind]) - statistics.mean(errors[Theirs])
        noise = sqrt(sum(statistics.variance(errors[each]) / options.seeds for each in (kind, Theirs)))
        print(f"  {names[kind]} - theirs: {difference:+.3f}, {abs(difference) / noise:.1f} standard errors of it")


if __name__ == "__main__":
    main()
