from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from topology_helpers import random_layer
from torch import Tensor

from lightning_sparse.topology import LayerView, MissingSignalError, uses
from lightning_sparse.topology.layer import signals_of


@pytest.mark.parametrize("signal", ["momentum", "gradient"])
def test_a_signal_that_is_there_is_returned_as_it_is(signal: str) -> None:
    layer = random_layer()
    assert layer.require(signal) is getattr(layer, signal)


@pytest.mark.parametrize("signal", ["momentum", "gradient"])
def test_a_missing_signal_is_an_error_that_names_layer_signal_and_cure(signal: str) -> None:
    layer = replace(random_layer("conv1.weight"), **{signal: None})  # type: ignore[arg-type]  # signals may be None
    with pytest.raises(MissingSignalError, match=f"the {signal} of layer 'conv1.weight'.*; got none. Cure: "):
        layer.require(signal)


def test_a_signal_of_a_methods_own_is_returned_where_it_is_given() -> None:
    importance = random_layer().weight
    assert replace(random_layer(), others={"importance": importance}).require("importance") is importance


def test_a_signal_that_nobody_gave_is_an_error_that_lists_what_there_is() -> None:
    with pytest.raises(
        MissingSignalError, match=r"the hessian of layer 'layer'.*ask for momentum or gradient, or pass"
    ):
        random_layer().require("hessian")


def test_evidence_cannot_be_replaced() -> None:
    with pytest.raises(FrozenInstanceError):
        random_layer().name = "other"  # type: ignore[misc]  # the point of the test


def rule(layer: LayerView) -> Tensor:
    return layer.weight


def test_a_rule_is_taken_to_use_every_signal_unless_it_says_which() -> None:
    assert signals_of(rule) == {"momentum", "gradient"}
    assert signals_of(uses("gradient")(lambda layer: layer.weight)) == {"gradient"}
    assert signals_of(uses()(lambda layer: layer.weight)) == frozenset()
    assert signals_of(None) == frozenset()


def test_a_declared_rule_stays_the_function_it_was() -> None:
    def own(layer: LayerView) -> Tensor:
        return layer.weight

    assert uses("momentum")(own) is own


def test_a_rule_may_declare_a_signal_that_a_method_brings() -> None:
    assert signals_of(uses("hessian", "gradient")(lambda layer: layer.weight)) == {"hessian", "gradient"}


@pytest.mark.parametrize("signal", ["", None, 3, len])
def test_a_rule_cannot_declare_what_is_no_name(signal: Any) -> None:
    with pytest.raises(TypeError, match="names of signals"):
        uses(signal)
