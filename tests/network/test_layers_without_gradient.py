"""A layer that never gets a gradient is left alone, whatever others have too much of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from lightning_sparse import SparseNetwork
from lightning_sparse.topology.plan import LayerChange


class Branched(nn.Module):
    """A network with small layers, which fill up, and a side branch.

    Args:
        of_branch: What is made of the branch's output, before it is added to the rest.
    """

    def __init__(self, of_branch: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(40, 60), nn.Linear(60, 2), nn.Linear(2, 1)
        self.branch = nn.Linear(40, 10)
        self.of_branch = of_branch

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.third(self.second(self.first(inputs).relu()))
        return outputs + self.of_branch(self.branch(inputs)).sum()


SILENT: dict[str, Callable[[Tensor], Tensor]] = {
    "not part of the loss": torch.Tensor.detach,
    "multiplied by zero": lambda outputs: outputs * 0,
    "dead": lambda outputs: (outputs - 1e6).relu(),
}
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "adam": Adam,
    "momentum": lambda weights: SGD(weights, 0.001, 0.9),
    "average of gradients": lambda weights: SGD(weights, 0.01),
}
optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def updates(
    of_branch: Callable[[Tensor], Tensor], optimizer: Callable[[Any], Optimizer]
) -> tuple[list[LayerChange], bool]:
    """Train with five updates; return the branch's changes, and whether its mask is the one of the start."""
    torch.manual_seed(0)
    model = Branched(of_branch)
    network, stepping = SparseNetwork(model, density=0.2, seed=0), optimizer(model.parameters())
    network.attach(stepping)
    before, changes = network.masks["branch.weight"], []
    for update in range(5):
        for _ in range(4):
            inputs = torch.randn(16, 40)
            stepping.zero_grad()
            (model(inputs) - inputs[:, :1]).square().mean().backward()
            stepping.step()
        rewired = {change.name: change for change in network.rewire("sparse_momentum", 0.5 * (1 - update / 5))}
        assert sum(change.active for change in rewired.values()) == round(0.2 * (2400 + 120 + 2 + 400))
        changes.append(rewired["branch.weight"])
    return changes, torch.equal(network.masks["branch.weight"], before)


@optimizers
@pytest.mark.parametrize("of_branch", SILENT.values(), ids=SILENT)
def test_a_layer_without_gradient_keeps_its_weights(
    of_branch: Callable[[Tensor], Tensor], optimizer: Callable[[Any], Optimizer]
) -> None:
    changes, is_unchanged = updates(of_branch, optimizer)
    assert [(change.active, change.pruned, change.share) for change in changes] == [(80, 0, 0.0)] * 5
    assert is_unchanged


@optimizers
def test_a_layer_with_a_gradient_changes(optimizer: Callable[[Any], Optimizer]) -> None:
    changes, is_unchanged = updates(lambda outputs: outputs * 1e-3, optimizer)
    assert any(change.active != 80 for change in changes)
    assert all(change.pruned > 0 and change.share > 0 for change in changes[:4])
    assert not is_unchanged
