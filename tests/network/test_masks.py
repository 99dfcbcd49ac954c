"""Masks tell whether their weights were written to since they were applied."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from lightning_sparse.network.masks import Masks

NAMES = ("first", "second", "third")


def some_masks() -> Masks:
    masks = Masks({name: torch.nn.Parameter(torch.ones(4, number + 2)) for number, name in enumerate(NAMES)})
    for number, weight in enumerate(masks.weights.values()):  # so that their counts of changes differ
        for _ in range(number):
            weight.data.mul_(1)
            torch.no_grad()(weight.mul_)(1)
    return masks


@pytest.mark.parametrize("order", list(permutations(NAMES)), ids=" ".join)
def test_weights_have_not_changed_since_they_were_masked_in_any_order(order: tuple[str, ...]) -> None:
    masks = some_masks()
    assert masks.have_changed()
    masks.apply(order)
    assert not masks.have_changed()
    assert all(torch.count_nonzero(weight) == 0 for weight in masks.weights.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_that_was_written_to_since_has_changed(name: str) -> None:
    masks = some_masks()
    masks.apply(reversed(NAMES))
    with torch.no_grad():
        masks.weights[name].add_(1)
    assert masks.have_changed()
    masks.apply([name])
    assert not masks.have_changed()


def test_only_the_weights_that_are_named_are_taken_to_be_masked() -> None:
    masks = some_masks()
    masks.apply()
    with torch.no_grad():
        for name in ("first", "third"):
            masks.weights[name].mul_(0)
    masks.are_applied(["third"])
    assert masks.have_changed()
    masks.are_applied(["first"])
    assert not masks.have_changed()
