"""New masks for the weights of a network: random ones, or those of a rule."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from lightning_sparse.network.first_masks.freshness import check_fresh
from lightning_sparse.network.first_masks.training_signs import signs_of_training, warn_of_random_masks
from lightning_sparse.network.masks import Masks
from lightning_sparse.topology.growth import random
from lightning_sparse.topology.initial_masks import first_masks
from lightning_sparse.topology.layer import WeightScore


def make_masks(
    model: nn.Module, masks: Masks, counts: Mapping[str, int], rule: WeightScore, generator: torch.Generator
) -> None:
    """Replace masks by new ones with the given numbers of active weights; warn of random ones for trained weights.

    Args:
        model: Module that has the weights.
        masks: Masks, and the weights that they belong to.
        counts: Number of active weights by name.
        rule: Weight score, of which the highest become active; `random` is drawn for weights as they are initialized.
        generator: Source of randomness.

    Raises:
        ValueError: If masks are to be random and the weights are sparse already, or a rule returns something unusable.
    """
    if rule is random:
        weights = masks.weights
        thinned = {name: weights[name] for name in masks.names if counts[name] < weights[name].numel()}
        check_fresh(thinned)
        if thinned:
            density = sum(counts[name] for name in thinned) / sum(weight.numel() for weight in thinned.values())
            warn_of_random_masks(signs_of_training(model, thinned), density)
        masks.draw_random({name: counts[name] for name in masks.names}, generator)
        return
    views = [partial(masks.dense_view, name, generator) for name in masks.names]
    with torch.no_grad():
        first_masks(views, [counts[name] for name in masks.names], rule, masks.__setitem__)
