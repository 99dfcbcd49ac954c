"""Updates that change the number of active weights of a network, and what its state says of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lightning_sparse.network import SparseNetwork
from lightning_sparse.topology.growth import gradient, random
from lightning_sparse.topology.pruning import magnitude
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.recipes import SET
from lightning_sparse.validation.errors import InvalidValueError

REMOVING = Recipe(magnitude, ranking="network")
LAYERWISE = Recipe(magnitude)


def model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10))


def active(network: SparseNetwork) -> int:
    return sum(int(mask.count_nonzero()) for mask in network.masks.values())


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    images = torch.randn(16, 20, generator=torch.Generator().manual_seed(1))
    cross_entropy(net(images), torch.arange(16) % 10).backward()
    optimizer.step()


@pytest.mark.parametrize("recipe", [REMOVING, LAYERWISE, Recipe(magnitude, None, random)], ids=repr)
def test_an_update_reaches_the_density_exactly_and_zeroes_the_weights(recipe: Recipe) -> None:
    net = model()
    network = SparseNetwork(net, density=1.0)
    for density in (0.9, 0.333, 0.05):
        changes = network.rewire(recipe, density=density)
        assert active(network) == sum(change.active for change in changes) == round(density * 900)
        assert network.density == round(density * 900) / 900
        assert sum(int(parameter.count_nonzero()) for parameter in (net[0].weight, net[2].weight)) == active(network)


def test_a_growing_recipe_raises_the_density_too() -> None:
    net = model()
    network, optimizer = SparseNetwork(net, density=0.1), SGD(net.parameters(), 0.1)
    network.attach(optimizer, track_gradients=True)
    step(net, optimizer)
    network.rewire(Recipe(magnitude, None, gradient), 0.2, density=0.4)
    assert active(network) == 360


def test_layers_that_stay_dense_or_are_frozen_use_up_their_part() -> None:
    net = model()
    network = SparseNetwork(net, density=0.6, dense="2")
    network.rewire(REMOVING, density=0.5)
    assert network.layers["2.weight"].active == 300
    assert network.layers["0.weight"].active == 150
    net[0].weight.requires_grad_(False)
    with pytest.raises(InvalidValueError, match=r"a density from 0\.5 to 0\.5 of all 2 layers"):
        network.rewire(REMOVING, density=0.4)


@pytest.mark.parametrize("density", [0.0, 1.5, True, "0.5", float("nan")])
def test_a_density_out_of_range_changes_nothing(density: Any) -> None:
    network = SparseNetwork(model(), density=0.5, seed=0)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(InvalidValueError, match=r"density in \(0, 1\]"):
        network.rewire(REMOVING, density=density)
    assert network.state_dict()["checksum"] == before["checksum"]


@pytest.mark.parametrize(
    ("density", "message"),
    [(0.3, r"a density from 0\.3344 to 1 of all 2 layers.* 1 of them, with 300 active"), (0.33, "stay as they are")],
)
def test_a_density_that_the_named_layers_cannot_reach_says_which_they_can(density: float, message: str) -> None:
    network = SparseNetwork(model(), density=1.0)  # 600 and 300 weights
    before = network.masks
    with pytest.raises(InvalidValueError, match=message):
        network.rewire(LAYERWISE, density=density, names=["0.weight"])
    assert all(mask.equal(before[name]) for name, mask in network.masks.items())
    network.rewire(LAYERWISE, density=301 / 900, names=["0.weight"])
    assert [layer.active for layer in network.layers.values()] == [1, 300]


def test_a_density_that_frozen_layers_keep_out_of_reach_says_so() -> None:
    net = model()
    network = SparseNetwork(net, density=0.5)
    net[0].weight.requires_grad_(False)
    with pytest.raises(InvalidValueError, match=r"from .* to .* of all 2 layers.*frozen"):
        network.rewire(Recipe(magnitude, None, random), density=0.9)


def test_the_version_of_the_masks_grows_when_they_change_and_only_then() -> None:
    network = SparseNetwork(model(), density=0.5, seed=0)
    versions = [network.mask_version]
    network.enforce()
    versions.append(network.mask_version)
    network.rewire(SET, 0.3)
    versions.append(network.mask_version)
    with pytest.raises(InvalidValueError):
        network.rewire(REMOVING, density=0.9)
    versions.append(network.mask_version)
    network.load_state_dict(network.state_dict())
    versions.append(network.mask_version)
    first, second, third, fourth, fifth = versions
    assert first == second < third == fourth < fifth


def test_a_state_of_another_budget_restores_into_a_network_that_began_as_it_did() -> None:
    network = SparseNetwork(model(), density=0.8, seed=0)
    network.rewire(REMOVING, density=0.3)
    state = network.state_dict()
    resumed = SparseNetwork(model(), density=0.8, seed=5)
    resumed.load_state_dict(state)
    assert active(resumed) == 270
    assert resumed.density == 0.3
    assert resumed.state_dict()["checksum"] == state["checksum"]
    with pytest.raises(InvalidValueError, match="masks with 450 active weights"):
        SparseNetwork(model(), density=0.5).load_state_dict(state)


def test_a_network_whose_budget_has_changed_goes_back_to_a_state_of_before() -> None:
    network = SparseNetwork(model(), density=0.8, seed=0)
    before = network.state_dict()
    network.rewire(REMOVING, density=0.3)
    network.load_state_dict(before)
    assert active(network) == 720
    assert "initial_budget" not in network.state_dict()


def test_a_state_says_nothing_of_budgets_where_none_has_changed() -> None:
    network = SparseNetwork(model(), density=0.8, seed=0)
    network.rewire(SET, 0.3)
    assert "initial_budget" not in network.state_dict()


def test_masks_of_a_changed_budget_are_handed_over() -> None:
    net = model()
    network = SparseNetwork(net, density=0.8, seed=0)
    network.rewire(REMOVING, density=0.3)
    assert active(SparseNetwork(copy.deepcopy(net), masks=network)) == 270
    assert active(SparseNetwork.from_checkpoint(copy.deepcopy(net), network.state_dict())) == 270
    assert active(copy.deepcopy(network)) == 270
