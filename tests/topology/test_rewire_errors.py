"""What a rule or a signal can do wrong in an update, and that the message says in which layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from topology_helpers import network, random_layer
from torch import Tensor

from lightning_sparse.topology import (
    RECIPES,
    LayerView,
    MissingSignalError,
    NonFiniteError,
    Recipe,
    measure,
    rewire,
    uses,
)
from lightning_sparse.topology.growth import momentum as momentum_growth
from lightning_sparse.topology.pruning import magnitude
from lightning_sparse.topology.redistribution import mean_momentum

SPARSE_MOMENTUM = RECIPES["sparse_momentum"]


def spoiled(kind: str, value: float, active: bool = True) -> list[LayerView]:
    """Return three layers of which the second has one unusable number, at an active or an inactive position."""
    layers = network([(8, 9), (5, 6), (4, 4)])
    values = getattr(layers[1], kind).clone()
    values[tuple(torch.nonzero(layers[1].mask == active)[0])] = value
    return [layers[0], replace(layers[1], **{kind: values}), layers[2]]


NOT_FINITE = pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])


@NOT_FINITE
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_weight_that_is_not_finite_is_reported_with_its_layer(name: str, value: float) -> None:
    with pytest.raises(NonFiniteError, match="in the weight of layer 'layer1'"):
        rewire(spoiled("weight", value), RECIPES[name], 0.5)


@NOT_FINITE
@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("redistribute", [mean_momentum, None])
def test_momentum_that_is_not_finite_is_reported_with_its_layer(redistribute: Any, value: float, active: bool) -> None:
    with pytest.raises(NonFiniteError, match="in the momentum of layer 'layer1'"):
        rewire(spoiled("momentum", value, active), replace(SPARSE_MOMENTUM, redistribute=redistribute), 0.5)


@NOT_FINITE
def test_a_gradient_that_is_not_finite_is_reported_with_its_layer(value: float) -> None:
    with pytest.raises(NonFiniteError, match="in the gradient of layer 'layer1'"):
        rewire(spoiled("gradient", value), RECIPES["rigl"], 0.5)


@NOT_FINITE
def test_a_signal_that_no_rule_depends_on_may_be_anything(value: float) -> None:
    rewire(spoiled("gradient", value), SPARSE_MOMENTUM, 0.5)
    rewire(spoiled("momentum", value), RECIPES["rigl"], 0.5)


@pytest.mark.parametrize("which", ["prune", "grow"])
def test_nan_scores_of_a_rule_are_reported_with_their_layer(which: str) -> None:
    def broken(layer: LayerView) -> Tensor:
        return layer.weight / layer.weight.abs().amax() * (float("nan") if layer.name == "layer1" else 1.0)

    with pytest.raises(NonFiniteError, match="for layer 'layer1'; got NaN"):
        rewire(network([(8, 9), (5, 6)]), replace(SPARSE_MOMENTUM, **{which: broken}), 0.5)


def test_nan_momentum_is_reported_after_a_rule_with_whole_scores_too() -> None:
    @uses()
    def oldest(layer: LayerView) -> Tensor:
        return torch.arange(layer.weight.numel()).view(layer.weight.shape)

    recipe = Recipe(oldest, None, momentum_growth)
    with pytest.raises(NonFiniteError, match="in the momentum of layer 'layer1'"):
        rewire(spoiled("momentum", float("nan"), active=False), recipe, 0.5)


@pytest.mark.parametrize("which", ["prune", "grow"])
def test_scores_of_another_shape_are_refused_with_their_layer(which: str) -> None:
    def per_row(layer: LayerView) -> Tensor:
        return layer.weight.sum(1)

    with pytest.raises(ValueError, match=r"one score per weight of layer 'layer', shape \(6, 10\); got shape \(6,\)"):
        rewire([random_layer()], replace(SPARSE_MOMENTUM, **{which: per_row}), 0.5)


@pytest.mark.parametrize(
    "claim",
    [-1.0, float("nan"), float("inf"), torch.tensor(-1.0), torch.tensor(float("nan")), torch.ones(2), None],
    ids=str,
)
def test_a_claim_that_is_no_number_from_zero_on_is_refused_with_its_layer(claim: Any) -> None:
    def claims(layer: LayerView) -> Any:
        return claim if layer.name == "layer1" else 1.0

    with pytest.raises(ValueError, match="claim >= 0 for layer 'layer1'; got"):
        rewire(network([(8, 9), (5, 6)]), replace(SPARSE_MOMENTUM, redistribute=claims), 0.5)


@pytest.mark.parametrize(
    ("name", "signal", "cure"), [("sparse_momentum", "momentum", "optimizer step"), ("rigl", "gradient", "backward")]
)
def test_a_missing_signal_is_reported_with_its_layer_and_a_cure(name: str, signal: str, cure: str) -> None:
    layers = network([(8, 9), (5, 6)])
    layers[1] = replace(layers[1], **{signal: None})  # type: ignore[arg-type]  # None is allowed for signals
    with pytest.raises(MissingSignalError, match=f"the {signal} of layer 'layer1'.*Cure: .*{cure}"):
        rewire(layers, RECIPES[name], 0.5)


@pytest.mark.parametrize("prune_rate", [-0.1, 1.5, float("nan")])
def test_a_prune_rate_that_is_no_fraction_is_refused(prune_rate: float) -> None:
    with pytest.raises(ValueError, match=r"prune rate in \[0, 1\]"):
        rewire([random_layer()], SPARSE_MOMENTUM, prune_rate)


def test_a_recipe_that_grows_prunes_too() -> None:
    with pytest.raises(ValueError, match="both a pruning and a growth rule, a pruning rule alone, or neither"):
        Recipe(None, None, momentum_growth)


def test_two_layers_of_one_name_are_refused() -> None:
    first, second, third = network([(8, 9), (5, 6), (4, 4)])
    with pytest.raises(ValueError, match=r"Expected layers of different names; got \['layer0', 'layer1', 'layer0'\]"):
        rewire([first, second, replace(third, name="layer0")], SPARSE_MOMENTUM, 0.5)
    rewire([first, second, third], SPARSE_MOMENTUM, 0.5)


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_a_signal_that_is_not_finite_at_an_inactive_weight_is_named(bad: float) -> None:
    layer = random_layer(active=20)
    assert layer.momentum is not None
    layer.momentum[~layer.mask] = torch.where(torch.arange(40) == 7, bad, 0.0)
    with pytest.raises(NonFiniteError, match="Expected finite numbers in the momentum of layer 'layer'"):
        rewire([layer], Recipe(prune=magnitude, redistribute=None, grow=momentum_growth), 0.5)


def test_signals_are_searched_for_the_cause_only_where_scores_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[str] = []
    monkeypatch.setattr(measure, "check_signals", lambda layer: searched.append(layer.name))
    layers = network([(8, 9), (5, 6)])
    rewire(layers, SPARSE_MOMENTUM, 0.5)
    assert searched == []
    rewire(layers, Recipe(prune=magnitude, redistribute=None, grow=lambda layer: layer.weight + float("inf")), 0.5)
    assert searched == ["layer0", "layer1"]
