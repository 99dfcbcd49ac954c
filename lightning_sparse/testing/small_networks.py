"""Small models and optimizers for training with recipes: linear, convolutional, normalized, tiny and saturated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from lightning_sparse.network import SparseNetwork
from lightning_sparse.testing.randomness import seeded
from lightning_sparse.topology.plan import LayerChange
from lightning_sparse.topology.recipe import Recipe

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda parameters: SGD(parameters, lr=0.1),
    "momentum": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9),
    "nesterov": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda parameters: Adam(parameters, lr=0.05),
    "adamw": lambda parameters: AdamW(parameters, lr=0.05, weight_decay=0.1),
    "rmsprop": lambda parameters: RMSprop(parameters, lr=0.05, momentum=0.9),
    "adagrad": lambda parameters: Adagrad(parameters, lr=0.05),
}

MODELS: dict[str, Callable[[], nn.Sequential]] = {
    "linear": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(18, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)
    ),
    "convolutional": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 3)
    ),
    "tiny": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(18, 1), nn.Tanh(), nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 3)
    ),
}


@dataclass(frozen=True)
class Case:
    """Model, initial masks and optimizer of a small run.

    Attributes:
        model: A name in `MODELS`.
        density: Fraction in (0, 1] of the maskable weights that are active.
        distribution: Initial distribution over layers.
        optimizer: A name in `OPTIMIZERS`.
        min_active: Minimum number of active weights per layer.
    """

    model: str
    density: float
    distribution: str
    optimizer: str
    min_active: int = 1


# Each model with each optimizer and each distribution at least once: all combinations would take ten times as long.
CASES = (
    Case("linear", 0.05, "uniform", "nesterov"),
    Case("linear", 0.3, "erdos_renyi", "adam", min_active=3),
    Case("linear", 0.97, "erdos_renyi_kernel", "sgd"),
    Case("convolutional", 0.1, "erdos_renyi_kernel", "nesterov"),
    Case("convolutional", 0.4, "uniform", "adam", min_active=0),
    Case("convolutional", 0.9, "erdos_renyi", "sgd"),
    Case("tiny", 0.14, "uniform", "adam"),
    Case("tiny", 0.4, "erdos_renyi_kernel", "sgd"),
    Case("tiny", 0.95, "erdos_renyi", "nesterov"),
)


class SmallRun:
    """A small sparse network in training; runs of the same case and seed are equal.

    Args:
        case: Model, density, distribution and optimizer.
        seed: Seed for masks and random growth.

    Attributes:
        model: The model.
        optimizer: Its optimizer, attached to the network.
        network: The sparse network.
    """

    def __init__(self, case: Case, seed: int = 0) -> None:
        with seeded(3):
            self.model = MODELS[case.model]()
        self.optimizer = OPTIMIZERS[case.optimizer](self.model.parameters())
        self.network = SparseNetwork(
            self.model, case.density, distribution=case.distribution, min_active=case.min_active, seed=seed
        )
        self.network.attach(self.optimizer, track_gradients=True, track_multiplications=True)
        self._min_active = case.min_active
        self.budget = round(case.density * sum(weight.numel() for weight in self.weights.values()))
        self._batch = torch.linspace(-1, 1, 4 * 18).view(4, 2, 3, 3).mul(7).sin()

    @property
    def weights(self) -> dict[str, Tensor]:
        """The maskable weights by name: those of two and more dimensions, read from the model."""
        return {name: weight.detach() for name, weight in self.model.named_parameters() if weight.dim() > 1}

    def step(self, times: int = 1) -> None:
        """Take optimizer steps."""
        for _ in range(times):
            self.optimizer.zero_grad()
            loss = (self.model(self._batch) - 0.7).square().mean()
            loss.backward()
            self.optimizer.step()

    def update(self, recipe: Recipe, prune_rate: float) -> dict[str, LayerChange]:
        """Update the topology and return the changes by layer; a recipe that only removes lowers the budget."""
        if recipe.prune is not None and recipe.grow is None and recipe.count is None:
            self.budget -= self._removed(recipe, prune_rate)
        return {change.name: change for change in self.network.rewire(recipe, prune_rate)}

    def _removed(self, recipe: Recipe, prune_rate: float) -> int:
        counts = [layer.active for layer in self.network.layers.values()]
        spare = [max(0, count - self._min_active) for count in counts]
        if recipe.ranking == "network":
            return min(round(prune_rate * sum(counts)), sum(spare))
        return sum(min(round(prune_rate * count), most) for count, most in zip(counts, spare, strict=True))

    def state(self) -> dict[str, Any]:
        """Return the content of a checkpoint."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "network": self.network.state_dict(gradients=True),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Resume from the content of a checkpoint."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.network.load_state_dict(state["network"])
