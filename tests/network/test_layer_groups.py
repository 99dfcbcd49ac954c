"""Updates that treat some layers in another way than others: by recipe, by density."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from lightning_sparse.network import SparseNetwork
from lightning_sparse.topology import LayerView, MissingSignalError, Recipe, uses
from lightning_sparse.topology.growth import gradient, random
from lightning_sparse.topology.pruning import magnitude
from lightning_sparse.topology.recipes import SET
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError

REMOVING = Recipe(magnitude)


def model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 10))


def active(network: SparseNetwork) -> dict[str, int]:
    return {name: int(mask.count_nonzero()) for name, mask in network.masks.items()}


def test_each_group_gets_its_density_and_what_matches_none_keeps_its_number() -> None:
    network = SparseNetwork(model(), density=1.0)
    network.rewire(REMOVING, density={"Conv2d": 0.5, "3": 0.25})
    assert active(network) == {"0.weight": 108, "3.weight": 40, "5.weight": 200}


def test_the_layers_of_a_group_share_its_budget() -> None:
    network = SparseNetwork(model(), density=1.0, min_active=0)
    network.rewire(Recipe(magnitude, ranking="network"), density={"Linear": 0.1, "*": 0.5})
    counts = active(network)
    assert counts["0.weight"] == 108
    assert counts["3.weight"] + counts["5.weight"] == 36
    magnitudes = torch.cat([network.model[i].weight.detach().abs().flatten() for i in (3, 5)])
    whole = torch.cat([layer.weight.detach().abs().flatten() for layer in model()[3::2]])
    assert magnitudes[magnitudes > 0].min() == whole.topk(36).values[-1]


def test_each_group_has_its_recipe_and_what_matches_none_stays_as_it_is() -> None:
    net = model()
    network = SparseNetwork(net, density=0.5, seed=0)
    before = copy.deepcopy(network.masks)
    changes = network.rewire({"Conv2d": SET, "3": "static"}, 0.3)
    assert [change.name for change in changes] == ["0.weight", "3.weight"]
    assert [change.grown for change in changes] == [round(0.3 * 108), 0]
    assert not torch.equal(before["0.weight"], network.masks["0.weight"])
    assert torch.equal(before["3.weight"], network.masks["3.weight"])
    assert torch.equal(before["5.weight"], network.masks["5.weight"])


def test_recipes_and_densities_may_be_grouped_differently() -> None:
    network = SparseNetwork(model(), density=1.0)
    recorded: list[Any] = []
    network.rewire(
        {"0": REMOVING, "*": Recipe(magnitude, None, random)}, density={"5": 0.5, "0": 0.25}, record=recorded.append
    )
    assert active(network) == {"0.weight": 54, "3.weight": 160, "5.weight": 100}
    assert [change.name for change in recorded[0]] == ["0.weight", "3.weight", "5.weight"]


def test_a_group_counts_what_stays_dense_or_is_frozen() -> None:
    net = model()
    net[3].weight.requires_grad_(False)
    network = SparseNetwork(
        net, density=1.0, masks={name: torch.ones_like(p) for name, p in net.named_parameters() if p.dim() > 1}
    )
    network.rewire(REMOVING, density={"Linear": 0.75})
    assert active(network) == {"0.weight": 216, "3.weight": 160, "5.weight": 110}


@pytest.mark.parametrize(
    ("recipe", "density", "message"),
    [
        (REMOVING, {"nothing": 0.5}, "a pattern that matches"),
        ({"nothing": REMOVING}, None, "a pattern that matches"),
        (REMOVING, {"3": 1.5}, r"density in \(0, 1\]"),
        ({"0": REMOVING, "3": "static"}, 0.5, "a mapping of patterns to densities"),
        (REMOVING, {"0": 0.5, "3": 0.001}, "from 1 to"),
    ],
)
def test_a_wrong_group_changes_nothing(recipe: Any, density: Any, message: str) -> None:
    network = SparseNetwork(model(), density=0.8, seed=0)
    before = network.state_dict()["checksum"]
    with pytest.raises(InvalidValueError, match=message):
        network.rewire(recipe, density=density)
    assert network.state_dict()["checksum"] == before


@uses("importance", shardable=True)
def importance(layer: LayerView) -> Tensor:
    """Score by a signal that the caller brings."""
    return layer.require("importance")


def test_a_rule_decides_by_a_signal_of_the_callers_own() -> None:
    net = model()
    network = SparseNetwork(net, density=1.0)
    scores = {name: torch.rand(p.shape) for name, p in network.maskable.items()}
    network.rewire(Recipe(importance), density=0.5, signals={"importance": scores})
    for name, mask in network.masks.items():
        assert scores[name][mask].min() > scores[name][~mask].max()
    with pytest.raises(MissingSignalError, match="signals"):
        network.rewire(Recipe(importance), density=0.4)
    with pytest.raises(MissingSignalError, match=r"5\.weight"):
        network.rewire(Recipe(importance), density=0.4, signals={"importance": {**scores, "5.weight": None}})  # type: ignore[dict-item]  # a mistake
    assert network.density == round(0.5 * 576) / 576


def test_a_signal_of_the_caller_takes_the_place_of_the_networks_own() -> None:
    net = model()
    network, optimizer = SparseNetwork(net, density=0.5, seed=0), SGD(net.parameters(), 0.1)
    network.attach(optimizer, track_gradients=True)
    net(torch.randn(4, 3, 3, 3)).square().mean().backward()
    optimizer.step()
    recipe = Recipe(magnitude, None, gradient)
    wanted = {name: torch.rand(p.shape) for name, p in network.maskable.items()}
    before = network.masks
    for name, change in zip(before, network.rewire(recipe, 0.2, signals={"gradient": wanted}), strict=True):
        grown = network.masks[name] & ~before[name]
        inactive = wanted[name][~before[name]]
        assert change.grown >= int(grown.sum()) > 0
        assert wanted[name][grown].min() >= inactive.topk(change.grown).values[-1]


def test_masks_from_elsewhere_replace_those_of_a_network_as_one_update() -> None:
    net = model()
    network, optimizer = SparseNetwork(net, density=0.5, seed=0), SGD(net.parameters(), 0.1)
    network.attach(optimizer)
    before, weights = network.masks, {name: p.detach().clone() for name, p in network.maskable.items()}
    torch.manual_seed(1)
    masks = {name: torch.rand(p.shape) < 0.3 for name, p in network.maskable.items()}
    version, recorded = network.mask_version, []
    changes = network.set_masks(masks, record=recorded.append)
    assert recorded == [changes]
    assert network.mask_version > version
    for change in changes:
        name = change.name
        assert torch.equal(network.masks[name], masks[name])
        assert change.active == int(masks[name].sum()) == network.layers[name].active
        assert change.pruned == int((before[name] & ~masks[name]).sum())
        assert change.grown == int((masks[name] & ~before[name]).sum())
        expected = torch.where(masks[name] & before[name], weights[name], torch.zeros(()))
        assert torch.equal(network.maskable[name].detach(), expected)
    assert network.state_dict()["initial_budget"] == 288


def test_masks_of_some_layers_leave_the_others() -> None:
    network = SparseNetwork(model(), density=0.5, seed=0)
    before = network.masks
    network.set_masks({"5.weight": torch.ones(10, 20, dtype=torch.bool)})
    assert active(network) == {**{name: int(mask.sum()) for name, mask in before.items()}, "5.weight": 200}
    network.set_masks({})
    assert torch.equal(network.masks["0.weight"], before["0.weight"])


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        ({"6.weight": torch.ones(1, dtype=torch.bool)}, InvalidValueError, r"got 6\.weight"),
        ({"5.weight": torch.ones(20, 10, dtype=torch.bool)}, InvalidValueError, r"shape \(10, 20\)"),
        ({"5.weight": torch.ones(10, 20)}, InvalidTypeError, r"mask\.bool\(\)"),
        ({"5.weight": None}, InvalidTypeError, "bool tensor"),
    ],
)
def test_wrong_masks_change_nothing(masks: Any, error: type[Exception], message: str) -> None:
    network = SparseNetwork(model(), density=0.5, seed=0)
    before = network.state_dict()["checksum"]
    with pytest.raises(error, match=message):
        network.set_masks({"3.weight": torch.ones(20, 8, dtype=torch.bool)} | masks)
    assert network.state_dict()["checksum"] == before
