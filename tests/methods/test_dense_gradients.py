"""Which rules need gradients of inactive weights, and for how long."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_sparse.methods import DensitySchedule
from lightning_sparse.methods.base import Method
from lightning_sparse.methods.dense_gradients import steps_left_in_epoch, steps_needed
from lightning_sparse.methods.registry import as_method
from lightning_sparse.methods.rules import Rules
from lightning_sparse.topology import LayerView, Recipe, uses
from lightning_sparse.topology.growth import momentum, random
from lightning_sparse.topology.pruning import magnitude
from lightning_sparse.topology.redistribution import mean_momentum

SGD = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
ADAM = torch.optim.Adam([torch.zeros(1)])
UNKNOWN = torch.optim.Adagrad([torch.zeros(1)])


@uses("momentum")
def largest_momentum(layer: LayerView) -> Tensor:
    return layer.require("momentum").abs().max()


@pytest.mark.parametrize(
    ("recipe", "optimizer", "steps"),
    [
        ("sparse_momentum", SGD, 44),
        ("sparse_momentum", ADAM, 4603),
        ("sparse_momentum", UNKNOWN, inf),
        ("rigl", UNKNOWN, 1),
        ("set", UNKNOWN, 0),
        ("static", UNKNOWN, 0),
        ("magnitude_pruning", UNKNOWN, 0),
        (Recipe(magnitude, redistribute=mean_momentum, grow=random), SGD, 0),
        (Recipe(magnitude, redistribute=largest_momentum, grow=random), SGD, 44),
        ({"0": "set", "1": Recipe(magnitude, grow=momentum)}, SGD, 44),
    ],
)
def test_the_rules_that_look_at_inactive_weights_say_how_many_steps(
    recipe: Any, optimizer: torch.optim.Optimizer, steps: float
) -> None:
    density = DensitySchedule(0.1) if recipe == "magnitude_pruning" else None
    assert steps_needed(Rules(recipe, density), None, [optimizer]) == steps


class Idle(Method):
    """Looks at nothing."""

    signals = frozenset()


@pytest.mark.parametrize(("method", "steps"), [("rigl_original", inf), ("snip", inf), (Idle(), 0)])
def test_a_method_that_works_with_gradients_needs_all(method: Any, steps: float) -> None:
    assert steps_needed(Rules("static", None), as_method(method), [SGD]) == steps


@pytest.mark.parametrize(("batches", "accumulated"), [(10, 3), (9, 3), (1, 4), (7, 1)])
def test_the_steps_left_count_down_to_one_at_the_last_batch(batches: int, accumulated: int) -> None:
    left = [steps_left_in_epoch(batches, batch, accumulated) for batch in range(batches)]
    assert left[0] == -(-batches // accumulated)
    assert left[-1] == 1
    assert all(before - after in (0, 1) for before, after in pairwise(left))


def test_the_end_of_an_epoch_of_unknown_length_is_never_near() -> None:
    assert steps_left_in_epoch(inf, 3, 1) == inf
