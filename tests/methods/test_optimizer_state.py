"""Parameters that a method adds to an optimizer get the state that the optimizer gives to all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from loops import Loop
from torch import nn
from torch.optim import SGD, Adagrad, Adam, Optimizer
from torch.optim.lr_scheduler import StepLR

from lightning_sparse.methods import L0Regularization
from lightning_sparse.methods.optimizer_state import add_parameters


class EarlyState(Optimizer):
    """Makes its state when it is built, and never later, as Adagrad of PyTorch 2.4."""

    def __init__(self, params: Any, lr: float = 0.1, start: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "start": start})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["sum"] = torch.full_like(parameter, start)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # of the overloads
        """Take a step of the length of the learning rate in each coordinate."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    total = self.state[parameter]["sum"].add_(parameter.grad.square())
                    parameter.sub_(group["lr"] * parameter.grad / (total.sqrt() + 1e-6))
        return loss


class OtherArguments(EarlyState):
    """Has an argument that isn't an option of its groups."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters())


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4))]


@pytest.mark.parametrize("make", [EarlyState, lambda p: EarlyState(p, start=0.5)], ids=["zero", "start"])
def test_state_that_is_made_when_the_optimizer_is_built_is_made_for_added_parameters_too(make: Any) -> None:
    own, added = parameters()
    optimizer = make([own])
    expected = make([added]).state[added]["sum"]
    add_parameters(optimizer, optimizer.param_groups[0], [added])
    assert [id(each) for each in optimizer.param_groups[0]["params"]] == [id(own), id(added)]
    assert optimizer.state[added]["sum"].equal(expected)


def test_adagrad_steps_an_added_parameter_as_one_that_it_had_from_the_start() -> None:
    own, added = parameters()
    _, reference = parameters()
    optimizer, other = (
        Adagrad([own], initial_accumulator_value=0.3),
        Adagrad([reference], initial_accumulator_value=0.3),
    )
    add_parameters(optimizer, optimizer.param_groups[0], [added])
    for value in (1.0, -3.0):
        added.grad, reference.grad = torch.full((4,), value), torch.full((4,), value)
        optimizer.step()
        other.step()
    assert added.count_nonzero() == 4
    assert added.equal(reference)


@pytest.mark.parametrize("make", [lambda p: SGD(p, lr=0.1, momentum=0.9), Adam])
def test_state_that_is_made_in_the_first_step_is_left_to_it(make: Any) -> None:
    own, added = parameters()
    optimizer = make([own])
    add_parameters(optimizer, optimizer.param_groups[0], [added])
    assert not optimizer.state
    own.grad, added.grad = torch.ones(2, 3), torch.ones(4)
    optimizer.step()
    assert set(optimizer.state) == {own, added}


def test_an_optimizer_with_other_arguments_is_left_alone() -> None:
    model = nn.Linear(3, 2)
    _, added = parameters()
    optimizer = OtherArguments(model)
    add_parameters(optimizer, optimizer.param_groups[0], [added])
    assert optimizer.param_groups[0]["params"][-1] is added
    assert added not in optimizer.state


def test_schedulers_that_exist_keep_their_number_of_groups() -> None:
    own, added = parameters()
    optimizer = EarlyState([own])
    scheduler = StepLR(optimizer, 1)
    add_parameters(optimizer, optimizer.param_groups[0], [added])
    optimizer.step()
    scheduler.step()
    assert len(optimizer.param_groups) == 1
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize("make", [EarlyState, Adagrad], ids=["early", "Adagrad"])
def test_gates_are_trained_by_optimizers_that_make_their_state_early(make: Any) -> None:
    loop = Loop(L0Regularization(1.0, examples=3000), 1.0, make_optimizer=lambda p: make(p, lr=0.05))
    before = loop.method.state_dict()["log_alpha"]
    loop.train(5)
    after = loop.method.state_dict()["log_alpha"]
    assert all((after[name] != values).any() for name, values in before.items())
    assert all(loop.optimizer.state[each]["sum"].count_nonzero() > 0 for each in loop.method.extra_parameters())
