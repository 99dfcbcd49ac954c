"""Optimizers that change gradients in their steps leave those that topology updates decide by as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.steps.gradients import GradientKeeper


class Overwrites(Optimizer):
    """An optimizer that changes each gradient before it uses it, from its first step on or later."""

    def __init__(self, parameters: Any, change: Callable[[Tensor], Any], first: int = 1) -> None:
        super().__init__(parameters, {"lr": 0.01})
        self.change, self.left = change, first - 1

    def step(self, closure: Callable[[], Any] | None = None) -> None:
        if closure is not None:
            closure()
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                if self.left <= 0:
                    self.change(parameter.grad)
                parameter.sub_(0.01 * parameter.grad)
        self.left -= 1


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "scaled": lambda gradient: gradient.mul_(torch.rand(())),
    "centralized": lambda gradient: gradient.sub_(gradient.mean(1, keepdim=True)),
    "orthogonalized": lambda gradient: gradient.copy_(torch.linalg.qr(gradient)[0]),
    "zeroed": lambda gradient: gradient.zero_(),
}


class Run:
    """A layer with a network over it, and the average of the gradients that it was given."""

    def __init__(self, build: Callable[[Any], Optimizer], with_closure: bool = True, **attach: bool) -> None:
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 8, bias=False)
        self.network = SparseNetwork(self.layer, 0.5, seed=0)
        self.optimizer, self.with_closure = build(self.layer.parameters()), with_closure
        self.network.attach(self.optimizer, **attach)
        self.average = torch.zeros(8, 8)
        self.last = self.average

    def compute(self) -> None:
        self.layer.zero_grad()
        self.layer(torch.randn(4, 8)).square().sum().backward()
        assert self.layer.weight.grad is not None
        self.last = self.layer.weight.grad.clone()

    def take_steps(self, count: int) -> None:
        for _ in range(count):
            if not self.with_closure:
                self.compute()
            self.optimizer.step(*[self.compute] if self.with_closure else [])  # type: ignore[call-overload]  # none or one
            self.average = 0.9 * self.average + 0.1 * self.last

    def averaged(self) -> Tensor:
        found: Tensor = self.network.state_dict()["averages"]["weight"]
        return found


@pytest.mark.parametrize("with_closure", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_the_average_is_one_of_gradients_as_they_were(change: str, with_closure: bool) -> None:
    run = Run(lambda parameters: Overwrites(parameters, CHANGES[change]), with_closure)
    run.take_steps(5)
    torch.testing.assert_close(run.averaged(), run.average)
    assert not torch.allclose(run.layer.weight.grad, run.last)  # type: ignore[arg-type]  # a tensor by now


def test_without_copies_the_average_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GradientKeeper, "note", lambda *_: None)
    run = Run(lambda parameters: Overwrites(parameters, CHANGES["orthogonalized"]))
    run.take_steps(5)
    assert not torch.allclose(run.averaged(), run.average)


def test_gradients_for_growth_are_those_of_before_the_step() -> None:
    run = Run(lambda parameters: Overwrites(parameters, CHANGES["zeroed"]), track_momentum=False, track_gradients=True)
    run.take_steps(2)
    torch.testing.assert_close(run.network.state_dict(gradients=True)["gradients"]["weight"], run.last)


@pytest.mark.parametrize(
    ("build", "copied"),
    [
        (lambda parameters: SGD(parameters, 0.01), [True, False, False, False, False]),
        (lambda parameters: Adam(parameters, 0.01), [False] * 5),
        (lambda parameters: Overwrites(parameters, CHANGES["scaled"]), [True] * 5),
        # Noticed after the step in which it begins.
        (lambda parameters: Overwrites(parameters, CHANGES["scaled"], first=3), [True, False, False, True, True]),
    ],
)
def test_gradients_are_copied_in_the_first_step_and_after_that_only_if_they_change(
    build: Callable[[Any], Optimizer], copied: list[bool]
) -> None:
    run, found = Run(build), []
    keeper = run.network._signals.evaluations.keeper
    run.optimizer.register_step_post_hook(lambda *_: found.append(bool(keeper._copies)))
    run.take_steps(5)
    assert found == copied
    assert keeper._copies == keeper.found == {}


def test_gradients_that_a_scaler_leaves_to_a_fused_step_are_taken_after_it() -> None:
    run = Run(lambda parameters: SGD(parameters, 0.01, fused=True), with_closure=False)
    run.optimizer.grad_scale = torch.tensor(4.0)  # type: ignore[attr-defined]  # as a gradient scaler sets it
    run.take_steps(1)
    torch.testing.assert_close(run.averaged(), run.average / 4)
