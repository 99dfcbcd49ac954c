"""Small trainings in an ordinary loop, which remember what they began and ended with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from lightning_sparse.network import SparseNetwork
from lightning_sparse.rounds import Round
from lightning_sparse.testing.equality import deep_copy
from lightning_sparse.topology.pruning import magnitude
from lightning_sparse.topology.recipe import Recipe

FEATURES, CLASSES = 6, 4
RANKINGS = {"layer": Recipe(magnitude), "network": Recipe(magnitude, ranking="network")}
WEIGHTS = ("0.weight", "3.weight", "6.weight")
SIZE = 6 * 8 + 8 * 7 + 7 * 4


def model(seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    """Return a network of 132 maskable weights, with normalization, whose layers are on different scales."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(FEATURES, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 7),
            nn.Dropout(dropout),
            nn.Tanh(),
            nn.Linear(7, CLASSES),
        )
        with torch.no_grad():
            of(net, "3").weight.mul_(3.0)
    return net


def sgd(net: nn.Module) -> Optimizer:
    return SGD(net.parameters(), lr=0.2, momentum=0.9)


def values(net: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers."""
    return deep_copy({**dict(net.named_parameters()), **dict(net.named_buffers())})


def of(net: nn.Module, name: str) -> Any:
    """Return a module in a network, of whatever type it is."""
    return net.get_submodule(name)


@dataclass
class Training:
    """A training function, as users write one.

    Attributes:
        steps: Number of optimizer steps of each round.
        attaches: Whether it attaches the optimizer to the network.
        fixed: Whether all trainings see the same data; if not, they are drawn from the global random state.
        optimizer: Function of the network's model that makes the optimizer.
        before: Called before each training with the network and the round.
        rounds: The rounds, as they came.
        starts: Values of the module before each training.
        ends: Values after it.
        at_step: Values after each step of the first training.
    """

    steps: int = 6
    attaches: bool = False
    fixed: bool = True
    optimizer: Callable[[nn.Module], Optimizer] = sgd
    before: Callable[[SparseNetwork, Round], object] = lambda network, now: None
    rounds: list[Round] = field(default_factory=list)
    starts: list[dict[str, Tensor]] = field(default_factory=list)
    ends: list[dict[str, Tensor]] = field(default_factory=list)
    at_step: list[dict[str, Tensor]] = field(default_factory=list)

    def __call__(self, network: SparseNetwork, now: Round) -> float:
        net = network.model
        self.before(network, now)
        self.rounds.append(now)
        self.starts.append(values(net))
        optimizer = self.optimizer(net)
        if self.attaches:
            network.attach(optimizer)
        generator = torch.Generator().manual_seed(5) if self.fixed else None
        loss = torch.zeros(())
        for _ in range(self.steps):
            inputs = torch.randn(8, FEATURES, generator=generator)
            labels = torch.randint(CLASSES, (8,), generator=generator)
            optimizer.zero_grad()
            loss = cross_entropy(net(inputs), labels)
            loss.backward()  # type: ignore[no-untyped-call]  # of PyTorch
            optimizer.step()
            if now.index == 0:
                self.at_step.append(values(net))
        self.ends.append(values(net))
        return loss.item()


def active(masks: dict[str, Tensor]) -> dict[str, int]:
    """Return the number of active weights by name."""
    return {name: int(mask.count_nonzero()) for name, mask in masks.items()}


def survivors_differ(now: Round, found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Return the names of values that differ, bit for bit, where weights are active (elsewhere: that aren't zero)."""
    masks = now.masks
    different = []
    for name, value in expected.items():
        mask = masks.get(name, torch.ones_like(value, dtype=torch.bool))
        same = torch.equal(found[name][mask], value[mask]) and not found[name][~mask].any()
        different += [] if same else [name]
    return different
