"""Rules that decide by multiplications, in loops of one's own and over several trainings."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from lightning_sparse.methods import SparseTraining
from lightning_sparse.network import SparseNetwork
from lightning_sparse.rounds import run_rounds
from lightning_sparse.testing.equality import differences
from lightning_sparse.topology import LayerView, Recipe
from lightning_sparse.topology.growth import momentum
from lightning_sparse.topology.layer import WeightScore, uses
from lightning_sparse.topology.pruning import magnitude
from lightning_sparse.topology.redistribution import momentum_per_multiplication

CHEAP = Recipe(magnitude, momentum_per_multiplication, momentum)
COSTS = {"0.weight": 36.0, "4.weight": 1.0}


class Run:
    """A loop with one update at every second step."""

    def __init__(self, recipe: Recipe | str) -> None:
        torch.manual_seed(0)
        layers = (nn.Conv2d(2, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 8))
        self.model = nn.Sequential(*layers)
        self.optimizer = SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.training = SparseTraining(SparseNetwork(self.model, 0.3, seed=1), recipe, every_n_steps=2, steps=8)

    def train(self, first: int, last: int) -> None:
        for index in range(first, last):
            self.training.begin_batch()
            self.optimizer.zero_grad()
            images = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(index))
            self.model(images).square().mean().backward()
            self.optimizer.step()


def test_a_loop_learns_what_weights_cost_where_its_recipe_asks_for_it() -> None:
    for recipe, expected in ((CHEAP, COSTS), ("sparse_momentum", {})):
        run = Run(recipe)
        run.training.attach(run.optimizer)
        run.train(0, 8)
        assert len(run.training.history) == 3
        assert run.training.network.multiplications == expected


@pytest.mark.parametrize("after", [1, 2, 5])
def test_a_loop_resumes_exactly(after: int) -> None:
    whole, resumed = Run(CHEAP), Run(CHEAP)
    whole.training.attach(whole.optimizer)
    whole.train(0, after)
    resumed.model.load_state_dict(whole.model.state_dict())
    resumed.training.attach(resumed.optimizer, state=copy.deepcopy(whole.training.state_dict()))
    resumed.optimizer.load_state_dict(copy.deepcopy(whole.optimizer.state_dict()))
    for run in (whole, resumed):
        run.train(after, 8)
    assert differences(resumed.training.state_dict(), whole.training.state_dict()) == []
    assert differences(resumed.model.state_dict(), whole.model.state_dict()) == []


@uses("multiplications", shardable=True)
def magnitude_per_multiplication(layer: LayerView) -> Tensor:
    return layer.weight.abs() / layer.require("multiplications")


def fit(network: SparseNetwork, _: object) -> None:
    optimizer = SGD(network.model.parameters(), lr=0.05)
    for _step in range(2):
        optimizer.zero_grad()
        network.model(torch.ones(4, 2, 8, 8)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(("rule", "is_cheaper"), [(magnitude_per_multiplication, True), (magnitude, False)])
def test_rounds_can_remove_the_weights_that_cost_most(rule: WeightScore, is_cheaper: bool) -> None:
    _, last = run_rounds(fit, Run("static").model, [1.0, 0.5], recipe=Recipe(rule, ranking="network"))
    active = {name: int(mask.sum()) for name, mask in last.masks.items()}
    assert sum(active.values()) == 150  # of 108 weights of the convolution and 192 of the linear layer
    assert (active["0.weight"] < 54) == is_cheaper
