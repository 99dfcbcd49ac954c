"""What topology updates decide by is the gradient of the last step, whatever is computed after it."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from tiny_training import ShufflingLoader, TinyModule, differences, everything, fit
from torch import Tensor, nn
from torch.optim import SGD

from lightning_sparse import SparseTrainingCallback
from lightning_sparse.network import SparseNetwork


class Layer:
    """A layer in training, whose gradients are tracked or not."""

    def __init__(self, *, tracks: bool = True) -> None:
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 4)
        self.network = SparseNetwork(self.layer, 0.5, seed=0)
        self.optimizer = SGD(self.layer.parameters(), lr=0.1)
        self.network.attach(self.optimizer, track_gradients=tracks)

    def backward(self) -> Tensor:
        """Add to the gradients of the layer, and return that of its weight."""
        self.layer(torch.randn(3, 6)).square().sum().backward()
        assert self.layer.weight.grad is not None
        return self.layer.weight.grad

    def step(self) -> Tensor:
        """Take a step with new gradients, and return a copy of that of the weight."""
        self.optimizer.zero_grad()
        gradient = self.backward().clone()
        self.optimizer.step()
        return gradient

    @property
    def held(self) -> Tensor | None:
        """The gradient that an update would decide by."""
        return self.network._signals.gradient("weight")


def test_a_gradient_stays_when_a_later_backward_pass_adds_to_it() -> None:
    layer = Layer()
    for _ in range(2):
        expected = layer.step()
        for _ in range(2):
            assert not torch.equal(layer.backward(), expected)
        assert layer.held is not None
        assert torch.equal(layer.held, expected)


def test_no_gradient_is_copied_that_nobody_adds_to() -> None:
    layer = Layer()
    layer.step()
    gradient = layer.layer.weight.grad
    layer.optimizer.zero_grad()
    assert layer.held is gradient
    layer.backward()
    assert layer.held is gradient


def test_a_gradient_that_was_overwritten_in_place_is_gone() -> None:
    layer = Layer()
    layer.step()
    layer.optimizer.zero_grad(set_to_none=False)
    layer.backward()
    assert layer.held is None


@pytest.mark.parametrize("tracks", [False, True])
def test_hooks_are_on_parameters_only_while_gradients_are_tracked(tracks: bool) -> None:
    layer = Layer(tracks=tracks)
    layer.step()
    assert bool(layer.layer.weight._backward_hooks) is tracks
    layer.network.detach()
    assert not layer.layer.weight._backward_hooks


def test_hooks_keep_no_network_alive() -> None:
    layer = Layer()
    layer.step()
    module, network = layer.layer, weakref.ref(layer.network)
    del layer
    gc.collect()
    assert network() is None
    module(torch.randn(3, 6)).sum().backward()
    assert module.weight.grad is not None


class InTurns(TinyModule):
    """Steps its layers by an optimizer each; the second backward pass may add to the gradients of the first one's."""

    def __init__(self, drops: str) -> None:
        super().__init__()
        self.automatic_optimization, self._drops = False, drops

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            if self._drops == "all before":
                self.zero_grad()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()
            if self._drops == "its own after":
                optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return [SGD(layers.parameters(), lr=0.1, momentum=0.9) for layers in (self.net[:3], self.net[3:])]


@pytest.mark.parametrize("recipe", ["rigl", "set"])
def test_two_optimizers_that_step_in_turns_grow_the_same_weights_whoever_drops_gradients(recipe: str) -> None:
    ends = []
    for drops in ("its own before", "its own after", "all before"):
        callback = SparseTrainingCallback(recipe, density=0.3, prune_rate=0.5)
        run = fit(callback, module=InTurns(drops), loader=ShufflingLoader(3))
        assert len(callback.history) == 2
        ends.append({"weights": everything(run, callback)["weights"], "masks": callback.network.masks})
    assert differences(ends[1], ends[0]) == []
    assert differences(ends[2], ends[0]) == []


class Spare(TinyModule):
    """Has a layer that the loss depends on, or one that nothing uses."""

    def __init__(self, *, is_used: bool) -> None:
        super().__init__()
        self.spare, self._is_used = nn.Linear(6, 4), is_used

    def loss(self, batch: Any) -> Tensor:
        loss = super().loss(batch)
        return loss + self.spare(batch[0]).square().mean() if self._is_used else loss


@pytest.mark.parametrize("is_used", [False, True])
def test_a_weight_of_a_layer_that_was_not_used_has_a_gradient_of_zero(is_used: bool) -> None:
    callback = SparseTrainingCallback("rigl", density=0.3, prune_rate=0.5)
    found: list[Tensor | None] = []

    class Look(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            found.append(callback.network._signals.gradient("spare.weight"))

    with nullcontext() if is_used else pytest.warns(UserWarning, match=r"got none for spare\.weight"):
        fit(callback, Look(), module=Spare(is_used=is_used), loader=ShufflingLoader(3))
    assert [each is not None and bool(each.any()) for each in found] == [is_used] * 3
    assert all(each is not None and each.shape == (4, 6) for each in found)
    assert len(callback.history) == 2


def test_a_weight_that_no_optimizer_stepped_with_a_gradient_has_none() -> None:
    layer = Layer()
    layer.layer.weight.grad = None
    assert layer.held is None
