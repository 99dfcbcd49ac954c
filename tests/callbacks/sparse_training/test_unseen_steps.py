"""Steps that PyTorch's hooks don't see: zeros, counts and updates are those of steps that they see."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from tiny_training import At, Batch, ManualModule, TinyModule, fit
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from witness import BUDGET, DENSITY, Watch

from lightning_sparse import SparseMomentumCallback, SparseNetwork


class Unregistered(Optimizer):
    """Calls its base class's constructor never, so that its step has no hooks."""

    def __init__(self, parameters: Any) -> None:
        self.param_groups = [{"params": list(parameters), "lr": 0.1}]
        self.defaults: dict[str, Any] = {}
        self.state = defaultdict(dict)
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = OrderedDict(), OrderedDict()

    def zero_grad(self, set_to_none: bool = True) -> None:  # the base class's would arrange for hooks, too
        for weight in self.param_groups[0]["params"]:
            weight.grad = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for weight in self.param_groups[0]["params"]:
            self.change(weight)
        return loss

    def change(self, weight: Tensor) -> None:
        weight.sub_(weight.grad, alpha=0.1)  # type: ignore[arg-type]  # it has one


class OnData(Unregistered):
    """Changes weights where PyTorch doesn't count it."""

    def change(self, weight: Tensor) -> None:
        weight.data.sub_(weight.grad, alpha=0.1)  # type: ignore[arg-type]  # it has one


class SlowWeights(Unregistered):
    """Wraps an optimizer and adds slow weights to what it does; seen by hooks from its first `zero_grad` on."""

    zero_grad = Optimizer.zero_grad

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self.base = SGD(self.param_groups, lr=0.1, momentum=0.9)
        self.slow = [weight.detach() + 0.01 for weight in self.param_groups[0]["params"]]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = self.base.step(closure)
        for weight, slow in zip(self.param_groups[0]["params"], self.slow, strict=True):
            weight.copy_(slow.lerp_(weight, 0.5))
        return loss


class Automatic(TinyModule):
    """Takes any optimizer."""

    def __init__(self, make: Callable[[Any], Optimizer]) -> None:
        super().__init__()
        self.make = make

    def configure_optimizers(self) -> Optimizer:
        return self.make(self.parameters())


class Elsewhere(ManualModule):
    """Returns an optimizer of nothing, and steps its weights itself, as packages with optimizers of their own do."""

    def __init__(self, make: Callable[[Any], Optimizer] | None = None) -> None:
        super().__init__()
        self.own = None if make is None else make(self.parameters())

    def configure_optimizers(self) -> Optimizer:
        return SGD([nn.Parameter(torch.zeros(1))], lr=0.1)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.zero_grad()
        self.manual_backward(self.loss(batch))
        if self.own is not None:
            self.own.step()
            return
        with torch.no_grad():
            for weight in self.parameters():
                weight.sub_(weight.grad, alpha=0.1)  # type: ignore[arg-type]  # it has one


class Replaced(TinyModule):
    """Leaves nothing to the Trainer's optimizer: it replaces the backward pass and the step."""

    def configure_optimizers(self) -> Optimizer:
        return SGD([nn.Parameter(torch.zeros(1))], lr=0.1)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        self.zero_grad()
        optimizer_closure()
        with torch.no_grad():
            for weight in self.parameters():
                weight.sub_(weight.grad, alpha=0.1)  # type: ignore[arg-type]  # it has one


KINDS: dict[str, Callable[[], LightningModule]] = {
    "no constructor of the base": lambda: Automatic(Unregistered),
    "changes that are not counted": lambda: Automatic(OnData),
    "slow weights": lambda: Automatic(SlowWeights),
    "no optimizer": Elsewhere,
    "another step": Replaced,
    "an optimizer that the Trainer doesn't know": lambda: Elsewhere(lambda weights: SGD(weights, lr=0.1, momentum=0.9)),
}


@pytest.mark.parametrize("period", [{"every_n_steps": 2}, {"every_n_epochs": 1}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_zeros_steps_and_updates_are_those_of_steps_that_hooks_see(kind: str, period: dict[str, int]) -> None:
    callback = SparseMomentumCallback(density=DENSITY, **period)
    watch = Watch(callback)
    fit(callback, watch, module=KINDS[kind]())
    assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})
    assert callback.network is not None
    assert callback.network.steps == 9
    assert [record.step for record in callback.history] == ([2, 4, 6, 8] if "every_n_steps" in period else [3, 6])
    assert sum(record.grown for record in callback.history) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_callback_no_weight_stays_zero_with(kind: str) -> None:
    module = KINDS[kind]()
    weight = module.get_parameter("net.0.weight")
    weight.data[:, :3] = 0
    fit(module=module, max_epochs=1)
    assert int(torch.count_nonzero(weight)) == weight.numel()


def test_steps_are_counted_when_gradients_are_accumulated() -> None:
    for make in (Unregistered, OnData):
        callback = SparseMomentumCallback(density=DENSITY)
        run = fit(callback, module=Automatic(make), accumulate_grad_batches=2)
        assert callback.network is not None
        assert callback.network.steps == run.global_step == 6


def test_changes_by_others_are_no_steps_where_an_optimizer_steps_later() -> None:
    def disturb(_: Trainer, module: LightningModule) -> None:
        with torch.no_grad():
            for weight in module.parameters():
                weight.add_(1e-3)

    callback = SparseMomentumCallback(density=DENSITY)
    run = fit(At("on_train_batch_end", disturb), callback, accumulate_grad_batches=3)
    assert callback.network is not None
    assert callback.network.steps == run.global_step == 3


class Untrained(Elsewhere):
    """Has an optimizer of nothing, and steps nothing."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch))


@pytest.mark.parametrize("epochs", [3, 1])
def test_weights_that_nothing_has_stepped_by_the_first_update_or_the_end_are_an_error(epochs: int) -> None:
    callback = SparseMomentumCallback(density=DENSITY)
    with pytest.raises(ValueError, match=r"got 1 optimizers that step none. Cure: return the"):
        fit(callback, module=Untrained(), max_epochs=epochs)
    assert callback.history == []


def test_in_a_loop_of_ones_own_a_look_after_each_step_masks_and_counts() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 8)
    network, optimizer = SparseNetwork(model, 0.25), Unregistered(model.parameters())
    network.attach(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).sin().mean().backward()
        optimizer.step()
        used = int(torch.count_nonzero(model.weight))
        network.look()
        assert int(torch.count_nonzero(model.weight)) == 16
    assert used > 32
    assert network.steps == 3
    assert network.rewire("sparse_momentum", 0.5)[0].grown > 0
