"""Rounds of trainings agree with a slow version that is written from the papers: every mask, every value."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from slow_lottery_tickets import Batch, slow_lottery_tickets
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer

from lightning_sparse.network import SparseNetwork
from lightning_sparse.rounds import Round, run_rounds
from lightning_sparse.topology.pruning import magnitude
from lightning_sparse.topology.recipe import Recipe

DENSITIES = [1.0, 0.61, 0.37]
WEIGHTS = ["0.weight", "3.weight", "5.weight"]


def mlp() -> nn.Sequential:
    torch.manual_seed(1)
    # Layers on different scales, so that ranking all of them together differs from ranking each alone.
    net = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 4))
    with torch.no_grad():
        net[3].weight.mul_(3.0)
    return net


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    return [(torch.randn(8, 6, generator=generator), torch.randint(4, (8,), generator=generator)) for _ in range(9)]


def sgd(net: nn.Module) -> Optimizer:
    return SGD(net.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-3)


def adamw(net: nn.Module) -> Optimizer:
    return AdamW(net.parameters(), lr=0.02)


@pytest.mark.parametrize("ranking", ["layer", "network"])
@pytest.mark.parametrize("make_optimizer", [sgd, adamw])
@pytest.mark.parametrize("rewind", [0, 5])
def test_every_mask_and_value_is_that_of_the_slow_version(rewind: int, make_optimizer: Any, ranking: Any) -> None:
    found: list[tuple[Round, dict[str, Any], dict[str, Any]]] = []

    def fit(network: SparseNetwork, now: Round) -> None:
        start = copy.deepcopy(network.model.state_dict())
        optimizer = make_optimizer(network.model)
        for inputs, labels in batches():
            optimizer.zero_grad()
            cross_entropy(network.model(inputs), labels).backward()
            optimizer.step()
        found.append((now, start, copy.deepcopy(network.model.state_dict())))

    run_rounds(fit, mlp(), DENSITIES, rewind, recipe=Recipe(magnitude, ranking=ranking))
    slow = slow_lottery_tickets(mlp(), WEIGHTS, batches(), make_optimizer, DENSITIES, rewind, ranking)
    assert len(found) == len(slow) == 3
    for (now, start, end), expected in zip(found, slow, strict=True):
        assert {name: mask.flatten().tolist() for name, mask in now.masks.items()} == expected.masks
        assert [name for name in expected.start if not torch.equal(start[name], expected.start[name])] == []
        assert [name for name in expected.end if not torch.equal(end[name], expected.end[name])] == []


def test_the_slow_version_can_tell_rankings_and_rewinding_apart() -> None:
    def last(rewind: int, ranking: str) -> Any:
        return slow_lottery_tickets(mlp(), WEIGHTS, batches(), sgd, DENSITIES, rewind, ranking)[-1]

    assert last(0, "layer").masks != last(0, "network").masks
    assert not torch.equal(last(0, "layer").start["0.bias"], last(5, "layer").start["0.bias"])
    assert last(0, "layer").masks != last(5, "layer").masks


def test_the_slow_version_keeps_what_a_calculation_by_hand_keeps() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[0.5, -2.0], [0.1, 0.5]]))
        net[1].weight.copy_(torch.tensor([[0.4, -0.3]]))
    names = ["0.weight", "1.weight"]

    def masks(ranking: str) -> Any:
        return slow_lottery_tickets(copy.deepcopy(net), names, [], sgd, [1.0, 0.5], 0, ranking)[1].masks

    # Three of six: two of the first layer's four (of two halves the first) and one of the second layer's two.
    assert masks("layer") == {"0.weight": [True, True, False, False], "1.weight": [True, False]}
    assert masks("network") == {"0.weight": [True, True, False, True], "1.weight": [False, False]}
