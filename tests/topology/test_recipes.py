from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from topology_helpers import network, total_active

from lightning_sparse.topology import RECIPES, Recipe, rewire
from lightning_sparse.topology.growth import gradient, momentum, random
from lightning_sparse.topology.pruning import magnitude, signed_magnitude
from lightning_sparse.topology.redistribution import mean_momentum

EVERY_NAME = pytest.mark.parametrize("name", sorted(RECIPES))
REMOVING = {name for name, recipe in RECIPES.items() if recipe.prune is not None and recipe.grow is None}
SHAPES = [(20, 30), (6, 4, 3, 3), (5, 20), (1, 1)]


@pytest.mark.parametrize("name", sorted(set(RECIPES) - REMOVING))
def test_every_recipe_that_grows_keeps_the_number_of_active_weights_over_many_updates(name: str) -> None:
    layers = network(SHAPES, density=0.2)
    budget = sum(int(layer.mask.sum()) for layer in layers)
    for seed in range(1, 6):
        masks = rewire(layers, RECIPES[name], 0.5).masks
        assert total_active(masks) == budget
        layers = [
            replace(layer, mask=masks[layer.name], weight=layer.weight * masks[layer.name])
            for layer in network(SHAPES, density=1.0, seed=10 * seed)
        ]


@pytest.mark.parametrize("name", sorted(REMOVING))
def test_a_recipe_that_grows_nothing_loses_what_the_prune_rate_says(name: str) -> None:
    layers = network(SHAPES, density=0.2)
    rewiring = rewire(layers, RECIPES[name], 0.25)
    for layer, change in zip(layers, rewiring.changes, strict=True):
        assert change.active == change.before - round(0.25 * change.before)
        assert not (rewiring.masks[layer.name] & ~layer.mask).any()


@EVERY_NAME
def test_only_the_static_recipe_moves_nothing(name: str) -> None:
    layers = network(SHAPES, density=0.2)
    masks = rewire(layers, RECIPES[name], 0.5).masks
    assert all(torch.equal(masks[layer.name], layer.mask) for layer in layers) == (name == "static")


@pytest.mark.parametrize("name", sorted(set(RECIPES) - REMOVING))
def test_only_sparse_momentum_moves_weights_between_layers(name: str) -> None:
    changes = rewire(network(SHAPES, density=0.2), RECIPES[name], 0.5).changes
    assert any(change.active != change.before for change in changes) == (name == "sparse_momentum")


@EVERY_NAME
def test_the_same_inputs_give_the_same_masks(name: str) -> None:
    first, second = (rewire(network(SHAPES, density=0.2), RECIPES[name], 0.5).masks for _ in range(2))
    assert all(torch.equal(first[layer], second[layer]) for layer in first)


def test_recipes_are_made_of_the_rules_of_their_papers() -> None:
    assert {
        "sparse_momentum": Recipe(magnitude, mean_momentum, momentum),
        "set": Recipe(magnitude, None, random),
        "set_original": Recipe(signed_magnitude, None, random),
        "rigl": Recipe(magnitude, None, gradient, keep_regrown=True),
        "magnitude_pruning": Recipe(magnitude, None, None),
        "static": Recipe(None, None, None),
    } == RECIPES
