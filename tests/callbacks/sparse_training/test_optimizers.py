"""Zeros, budget and counters are exact with every optimizer, and nothing of it is changed for the user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from tiny_training import At, Batch, ManualModule, ShufflingLoader, TinyModule, differences, everything, fit, masks_of
from torch import Tensor
from torch.nn import Parameter
from torch.optim import LBFGS, SGD, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR
from witness import BUDGET, DENSITY, Watch

from lightning_sparse import SparseMomentumCallback
from lightning_sparse.topology import LayerView, MissingSignalError


class StepsThroughItsBase(SGD):
    """A user's optimizer: something of its own around the step of its base."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        found = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data += 1e-3
        return found


class Signs(Optimizer):
    """A user's optimizer with a step and a momentum of its own, which decays all weights."""

    def __init__(self, parameters: Any, lr: float = 0.01) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        with torch.enable_grad():
            found = None if closure is None else closure()
        for parameter in (each for group in self.param_groups for each in group["params"] if each.grad is not None):
            average = self.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
            average.lerp_(parameter.grad, 0.1)
            parameter.add_(average.sign() + 0.1, alpha=-self.param_groups[0]["lr"])
        return found


KINDS: dict[str, Callable[[list[Parameter]], Optimizer]] = {
    "RMSprop": lambda parameters: RMSprop(parameters, lr=0.01, weight_decay=0.1),
    "RMSprop with momentum": lambda parameters: RMSprop(parameters, lr=0.01, momentum=0.9, centered=True),
    "Adagrad": lambda parameters: Adagrad(parameters, lr=0.1, weight_decay=0.1),
    "Adamax": lambda parameters: Adamax(parameters, lr=0.1),
    "NAdam": lambda parameters: NAdam(parameters, lr=0.1),
    "RAdam": lambda parameters: RAdam(parameters, lr=0.1),
    "AMSGrad": lambda parameters: AdamW(parameters, lr=0.1, amsgrad=True),
    "foreach": lambda parameters: Adam(parameters, lr=0.1, foreach=True),
    "fused": lambda parameters: Adam(parameters, lr=0.1, fused=True),
    "subclass that calls its base": lambda parameters: StepsThroughItsBase(parameters, lr=0.1, momentum=0.9),
    "subclass without momentum": lambda parameters: StepsThroughItsBase(parameters, lr=0.1),
    "own": lambda parameters: Signs(parameters),
    "groups": lambda parameters: SGD(
        [
            {"params": parameters[:1], "lr": 0.3, "momentum": 0.5},
            {"params": parameters[1:3], "lr": 0.01},
            {"params": parameters[3:], "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        ],
        lr=0.1,
    ),
}


class Chooses(TinyModule):
    """Takes any optimizer, and a schedule of its learning rate."""

    def __init__(
        self,
        optimizer: Callable[[list[Parameter]], Optimizer],
        schedule: Callable[[Optimizer], Any] | None = None,
        **how: Any,
    ) -> None:
        super().__init__()
        self.optimizer, self.schedule, self.how = optimizer, schedule, how

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(list(self.parameters()))
        if self.schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), **self.how}}


@pytest.mark.parametrize("growth", ["momentum", "gradient"])
@pytest.mark.parametrize("kind", KINDS)
def test_zeros_budget_and_steps_are_exact_with(kind: str, growth: str) -> None:
    SGD([Parameter(torch.zeros(1))])  # the class's step calls hooks once there is an instance of that very class
    callback = SparseMomentumCallback(density=DENSITY, every_n_steps=2, growth=growth)
    watch = Watch(callback)
    run = fit(callback, watch, module=Chooses(KINDS[kind]))
    assert (run.global_step, watch.stray, set(watch.budgets)) == (9, [], {BUDGET})
    assert callback.network is not None
    assert callback.network.steps == 9
    assert [record.step for record in callback.history] == [2, 4, 6, 8]
    assert sum(record.grown for record in callback.history) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_callback_no_weight_stays_zero_with(kind: str) -> None:
    module = Chooses(KINDS[kind])
    module.net[0].weight.data[:, :3] = 0
    fit(module=module, max_epochs=1)
    assert int(torch.count_nonzero(module.net[0].weight)) == module.net[0].weight.numel()


def test_a_step_that_calls_its_bases_step_is_averaged_once() -> None:
    SGD([Parameter(torch.zeros(1))])
    averages = []
    for optimizer in (SGD, StepsThroughItsBase):
        callback = SparseMomentumCallback(density=DENSITY)
        fit(callback, module=Chooses(lambda parameters, kind=optimizer: kind(parameters, lr=0.0)), max_epochs=1)
        assert callback.network is not None
        averages.append(callback.network.state_dict()["averages"]["net.3.weight"])
    assert (averages[0].norm() / averages[1].norm()).item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("options", [{}, {"line_search_fn": "strong_wolfe"}], ids=str)
@pytest.mark.parametrize("growth", ["momentum", "random", "gradient"])
def test_zeros_and_budget_are_exact_after_every_step_of_lbfgs(growth: str, options: dict[str, Any]) -> None:
    callback = SparseMomentumCallback(density=DENSITY, every_n_steps=2, growth=growth)
    watch = Watch(callback)
    module = Chooses(lambda parameters: LBFGS(parameters, lr=0.1, max_iter=4, **options))
    run = fit(callback, watch, module=module)
    assert (run.global_step, watch.stray, set(watch.budgets)) == (9, [], {BUDGET})
    assert [record.step for record in callback.history] == [2, 4, 6, 8]


@pytest.mark.parametrize("clipping", [{"gradient_clip_val": 0.01}, {"gradient_clip_algorithm": "value"}], ids=str)
@pytest.mark.parametrize("batches", [4, 5])
def test_zeros_and_steps_are_exact_with_ragged_accumulation_and_clipping(
    batches: int, clipping: dict[str, Any]
) -> None:
    callback = SparseMomentumCallback(density=DENSITY, every_n_steps=2)
    watch = Watch(callback)
    options = {"gradient_clip_val": 0.01, "accumulate_grad_batches": 3, **clipping}
    run = fit(callback, watch, module=Chooses(KINDS["own"]), loader=ShufflingLoader(batches), **options)
    assert (run.global_step, watch.stray, set(watch.budgets)) == (6, [], {BUDGET})
    assert [record.step for record in callback.history] == [2, 4]


SCHEDULES: dict[str, tuple[Callable[[Optimizer], LRScheduler], dict[str, Any]]] = {
    "epochs": (lambda optimizer: StepLR(optimizer, 1, gamma=0.5), {}),
    "steps": (lambda optimizer: ExponentialLR(optimizer, 0.8), {"interval": "step"}),
    "one cycle": (lambda optimizer: OneCycleLR(optimizer, 0.2, total_steps=9), {"interval": "step"}),
    "plateau": (lambda optimizer: ReduceLROnPlateau(optimizer, patience=0, threshold=10), {"monitor": "loss"}),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_learning_rates_are_those_of_the_user(name: str) -> None:
    schedule, how = SCHEDULES[name]
    found = []
    for callbacks in ([], [SparseMomentumCallback(density=DENSITY)]):
        seen: list[dict[str, Any]] = []

        def look(run: Trainer, module: LightningModule, seen: list[dict[str, Any]] = seen) -> None:
            seen.append({key: value for key, value in run.optimizers[0].param_groups[0].items() if key != "params"})

        module = Chooses(lambda parameters: SGD(parameters, lr=0.1, momentum=0.9), schedule, **how)
        fit(*callbacks, At("on_train_batch_end", look), module=module)
        found.append(seen)
    assert found[0] == found[1]
    assert len({options["lr"] for options in found[0]}) > 1


def test_without_momentum_weights_grow_where_the_average_of_gradients_is_largest() -> None:
    seen: dict[str, Any] = {}

    def grow(layer: LayerView) -> Tensor:
        seen.setdefault(layer.name, layer.require("momentum").clone())
        return layer.require("momentum").abs()

    averages = {name: torch.zeros(shape) for name, shape in (("net.0.weight", (8, 6)), ("net.3.weight", (4, 8)))}

    def average(run: Trainer, module: LightningModule) -> None:
        for name, values in averages.items():
            if run.current_epoch == 0:
                values.mul_(0.9).add_(0.1 * module.get_parameter(name).grad)

    callback = SparseMomentumCallback(density=DENSITY, growth=grow)
    fit(callback, At("on_before_optimizer_step", average), module=TinyModule("sgd"))
    for name, values in averages.items():
        torch.testing.assert_close(seen[name], values)


class Alternating(ManualModule):
    """Steps its second optimizer from a certain step on only."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first, self.batches = first, 0

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizers = self.optimizers()
        for optimizer in optimizers if self.batches >= self.first else optimizers[:1]:
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()
        self.batches += 1


def test_several_wrapped_optimizers_count_the_steps_of_the_busiest() -> None:
    callback = SparseMomentumCallback(density=DENSITY)
    watch = Watch(callback)
    run = fit(callback, watch, module=Alternating(first=2))
    assert (run.global_step, watch.stray, set(watch.budgets)) == (16, [], {BUDGET})
    assert [record.step for record in callback.history] == [3, 6]


def test_an_optimizer_that_has_not_begun_before_an_update_is_an_error_that_names_its_layer() -> None:
    with pytest.raises(MissingSignalError, match=r"momentum of layer 'net\.3\.weight'.*Cure: take an optimizer step"):
        fit(SparseMomentumCallback(density=DENSITY), module=Alternating(first=4))
    with pytest.warns(UserWarning, match=r"got none for net\.3\.weight.*Cure: exclude them"):
        fit(SparseMomentumCallback(density=DENSITY, growth="random", redistribution=None), module=Alternating(first=4))


def test_the_order_of_param_groups_does_not_matter_to_masks() -> None:
    found = []
    for order in (1, -1):
        module = Chooses(lambda parameters, order=order: SGD(parameters[::order], lr=0.1, momentum=0.9))
        callback = SparseMomentumCallback(density=DENSITY)
        everything(fit(callback, module=module), callback)
        found.append(masks_of(callback))
    assert differences(*found) == []
