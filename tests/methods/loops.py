"""A plain training loop with a method, without Lightning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from lightning_sparse.methods import Method, MethodDriver, Progress
from lightning_sparse.network import SparseNetwork

FEATURES, CLASSES, BATCH = 12, 4, 16


def small_network(seed: int = 0) -> nn.Sequential:
    """Return a network of two layers, 12 x 10 and 10 x 4 weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(FEATURES, 10), nn.ReLU(), nn.Linear(10, CLASSES))


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Return the images and classes of a step, always the same."""
    generator = torch.Generator().manual_seed(1000 + step)
    return torch.randn(BATCH, FEATURES, generator=generator), torch.randint(0, CLASSES, (BATCH,), generator=generator)


class Loop:
    """Trains a network with a method; whatever is done in a step can be looked at between steps.

    Args:
        method: The method.
        density: Density that is asked for.
        net: The network; default: `small_network()`.
        total: Steps of the whole run.
        make_optimizer: Makes the optimizer of parameters; default: SGD without momentum.
        options: Options of `SparseNetwork`.
    """

    def __init__(
        self,
        method: Method,
        density: float,
        net: nn.Module | None = None,
        total: int = 100,
        make_optimizer: Callable[[Any], Optimizer] = lambda parameters: SGD(parameters, lr=0.1),
        **options: Any,
    ) -> None:
        self.net, self.method, self.total, self.step = net or small_network(), method, total, 0
        options = {"seed": 0, **options}
        self.network = SparseNetwork(self.net, density=method.starting_density(density), **options)
        self.driver = MethodDriver(method, self.network, density)
        self.optimizer = make_optimizer(self.net.parameters())
        self.driver.start()
        signals = method.signals
        self.network.attach(self.optimizer, track_momentum="momentum" in signals, track_gradients="gradient" in signals)
        self.driver.attach([self.optimizer])

    def train(self, steps: int, look: Callable[[Loop], None] | None = None) -> None:
        """Take steps, and look after each."""
        for _ in range(steps):
            images, classes = batch(self.step)
            self.optimizer.zero_grad()
            cross_entropy(self.net(images), classes).backward()  # type: ignore[no-untyped-call]  # of some versions
            self.driver.gradients_ready(self.optimizer, Progress(self.step, 0, self.total))
            self.optimizer.step()
            self.step += 1
            if look is not None:
                look(self)


def active(network: SparseNetwork) -> dict[str, int]:
    """Return the numbers of active weights by name, counted in the masks."""
    return {name: int(mask.count_nonzero()) for name, mask in network.masks.items()}


class Late(Method):
    """Prunes to the density after a number of steps."""

    budget = "reached"

    def __init__(self, at: int) -> None:
        self._at = at

    def starting_density(self, density: Any) -> float:
        """Return 1."""
        return 1.0

    def after_step(self, network: SparseNetwork, names: Any, progress: Progress) -> None:
        """Prune if it is the step."""
        if progress.step == self._at:
            network.rewire("magnitude_pruning", density=self.density)
