"""Layers that only use can tell about are looked at in the first batch, and are stopped if they fill zeros."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

from lightning_sparse import SparseNetwork
from lightning_sparse.network import coverage
from lightning_sparse.selection.kernel_watch import KernelWatch


class TwoInputs(nn.Linear):
    """A layer that can't be tried without its second input.

    Args:
        centers: Whether it centers its weight before each use.
    """

    def __init__(self, inputs: int, outputs: int, *, centers: bool) -> None:
        super().__init__(inputs, outputs)
        self.centers = centers

    def forward(self, inputs: Tensor, scale: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean() if self.centers else self.weight * 1
        return functional.linear(inputs, weight, self.bias) * scale


class Graph(nn.Module):
    """A layer of a user: neighbours are summed, and multiplied with a matrix."""

    def __init__(self, inputs: int, outputs: int, *, centers: bool) -> None:
        super().__init__()
        self.matrix, self.centers = nn.Parameter(torch.randn(inputs, outputs)), centers

    def forward(self, inputs: Tensor, scale: Tensor) -> Tensor:
        matrix = self.matrix - self.matrix.mean() if self.centers else self.matrix
        return (inputs * scale) @ matrix


class Net(nn.Module):
    """A layer of a kind, behind another one."""

    def __init__(self, kind: Callable[..., nn.Module], *, centers: bool) -> None:
        super().__init__()
        self.first, self.layer = nn.Linear(6, 6), kind(6, 5, centers=centers)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(self.first(inputs), inputs.mean())
        return outputs


kinds = pytest.mark.parametrize("kind", [TwoInputs, Graph])


def network_of(kind: Callable[..., nn.Module], *, centers: bool) -> SparseNetwork:
    return SparseNetwork(Net(kind, centers=centers), density=0.3, include=["default", "la*"], seed=0)


def watch(network: SparseNetwork, include: Any = ("default", "la*")) -> KernelWatch:
    return KernelWatch(network.model, masked(network), include, None)


def masked(network: SparseNetwork) -> list[str]:
    return [name for name, layer in network.layers.items() if not layer.dense]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert _get_current_function_mode_stack() == []


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@kinds
def test_a_layer_that_fills_zeros_is_an_error_in_the_first_pass(kind: Callable[..., nn.Module]) -> None:
    network = network_of(kind, centers=True)
    looking = watch(network)
    assert looking.look()
    name = "layer.weight" if kind is TwoInputs else "layer.matrix"
    with pytest.raises(
        ValueError, match=rf"Expected a layer that computes with '{name}'.*100% are not zero.*Cure:.*excl"
    ):
        network.model(torch.ones(2, 6))
    looking.stop()
    assert hooks(network.model) == 0


@kinds
def test_a_layer_that_keeps_zeros_trains_on_and_nothing_is_left(kind: Callable[..., nn.Module]) -> None:
    network = network_of(kind, centers=False)
    looking = watch(network)
    assert looking.look()
    expected = [inputs := torch.ones(2, 6), network.model(inputs)][1]
    assert hooks(network.model) == 2
    assert not looking.look()
    assert hooks(network.model) == 0
    assert torch.equal(network.model(inputs), expected)
    assert not looking.look()


@kinds
def test_input_without_a_gradient_is_an_input(kind: Callable[..., nn.Module]) -> None:
    network = network_of(kind, centers=True)
    looking = watch(network)
    looking.look()
    with pytest.raises(ValueError, match="computes with another kernel"):
        network.model.layer(torch.ones(2, 6), torch.ones(()))
    looking.stop()


def test_what_is_not_training_is_not_looked_at() -> None:
    network = network_of(TwoInputs, centers=True)
    looking = watch(network)
    looking.look()
    with torch.no_grad():
        network.model(torch.ones(2, 6))
    network.model.eval()(torch.ones(2, 6))
    with pytest.raises(ValueError, match="computes with another kernel"):
        network.model.train()(torch.ones(2, 6))
    looking.stop()


def test_a_pass_that_is_repeated_for_the_gradient_is_looked_at() -> None:
    network = network_of(TwoInputs, centers=True)
    looking = watch(network)
    looking.look()
    inputs = torch.ones(2, 6, requires_grad=True)
    with pytest.raises(ValueError, match="computes with another kernel"):
        checkpoint(network.model, inputs, use_reentrant=False).sum().backward()
    looking.stop()


def test_there_is_nothing_to_look_at_in_layers_that_are_known_dense_or_asked_for_by_name() -> None:
    known = SparseNetwork(nn.Sequential(nn.Linear(4, 4)), density=0.5)
    assert not KernelWatch(known.model, masked(known), None, None).look()
    dense = SparseNetwork(Net(TwoInputs, centers=True), density=0.8, dense="layer")
    assert not KernelWatch(dense.model, masked(dense), None, None).look()
    assert not watch(network_of(TwoInputs, centers=True), ["default", "layer"]).look()
    assert not watch(network_of(TwoInputs, centers=True), ["default", TwoInputs]).look()
    excluded = network_of(TwoInputs, centers=True)
    assert not KernelWatch(excluded.model, masked(excluded), None, "layer").look()


@pytest.mark.parametrize("compiled", ["model", "layer", "in place"])
def test_compiled_layers_are_not_looked_at(compiled: str) -> None:
    net = Net(TwoInputs, centers=True)
    if compiled == "layer":
        net.layer = torch.compile(net.layer, backend="eager")  # type: ignore[assignment]  # another class
    if compiled == "in place":
        net.compile()
    network = SparseNetwork(torch.compile(net, backend="eager") if compiled == "model" else net, density=0.5)
    assert not KernelWatch(network.model, masked(network), None, None).look()


def test_copies_of_a_model_are_not_looked_at() -> None:
    network = network_of(TwoInputs, centers=True)
    looking = watch(network)
    looking.look()
    copy.deepcopy(network.model)(torch.ones(2, 6))
    looking.stop()


def test_an_interrupted_pass_leaves_nothing() -> None:
    network = network_of(TwoInputs, centers=False)
    looking = watch(network)
    looking.look()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    network.model.layer.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        network.model(torch.ones(2, 6))
    looking.stop()


def test_a_pass_that_fails_fails_by_its_own_error() -> None:
    network = network_of(TwoInputs, centers=True)
    looking = watch(network)
    looking.look()
    with pytest.raises(RuntimeError, match="shape"):
        network.model.layer(torch.ones(2, 7), torch.ones(()))
    looking.stop()


class Centered(nn.Linear):
    """A layer that can be tried, and fills zeros."""

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.weight - self.weight.mean(), self.bias)


def test_masks_of_a_layer_that_is_known_to_fill_zeros_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 6), Centered(6, 6))

    with pytest.warns(
        UserWarning, match=r"got 1\.weight, whose layers compute with other kernels.*Cure: leave them out"
    ):
        network = SparseNetwork(make(), density=0.5, include=["default", "Centered"])
    assert list(network.masks) == ["0.weight", "1.weight"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(SparseNetwork(make(), density=0.5, include="default").masks) == ["0.weight"]
        SparseNetwork(make(), density=0.8, include=["default", "Centered"], dense="1")
        monkeypatch.setattr(coverage, "is_rank_zero", lambda: False)
        SparseNetwork(make(), density=0.5, include=["default", "Centered"])


def test_masks_are_taken_over_without_such_a_layer_and_with_it() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 6), Centered(6, 6))

    without = SparseNetwork(make(), density=0.5)
    assert list(SparseNetwork(make(), masks=without.masks).masks) == ["0.weight"]
    assert list(SparseNetwork(make(), masks=without.masks, include="default").masks) == ["0.weight"]
    with pytest.warns(UserWarning, match="compute with other kernels"):
        with_it = SparseNetwork(make(), density=0.5, include=["default", "1"])
    for options in ({}, {"include": "*"}, {"include": ["default", Centered]}):
        with pytest.warns(UserWarning, match="compute with other kernels"):
            taken = SparseNetwork(make(), masks=with_it.masks, **options)
        assert list(taken.masks) == ["0.weight", "1.weight"]
    with pytest.raises(ValueError, match=r"none for 1\.weight"):
        SparseNetwork(make(), masks=without.masks, include=["default", "1"])


def test_layers_that_fill_zeros_count_as_dense_with_their_reason() -> None:
    with pytest.warns(UserWarning, match=r"got them on 4 of 40.*Not maskable: 0\.weight \(36 weights: its layer comp"):
        network = SparseNetwork(nn.Sequential(Centered(6, 6), nn.Linear(2, 2)), density=0.5)
    assert network.why_unmasked["0.weight"].startswith("its layer computes with another kernel")
