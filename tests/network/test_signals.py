"""Momentum and gradients as the rules see them, each compared with the definition written out."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import SGD, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.momentum_observer import read_momentum
from lightning_sparse.network.signals import Signals
from lightning_sparse.network.steps.hooks import watchers_of as observers_of
from lightning_sparse.topology.layer import MissingSignalError
from lightning_sparse.topology.recipes import RIGL, SET, SPARSE_MOMENTUM

LR = 0.01
GRADIENTS = [torch.tensor([[3.0, -1.0, 0.0]]), torch.tensor([[-2.0, 0.5, 0.0]]), torch.tensor([[1.0, 4.0, 1e-3]])]


class OwnSGD(SGD):
    """An optimizer of the user's own."""


class OwnAdam(AdamW):
    """Likewise."""


def follow(parameters: dict[str, Parameter], *optimizers: Optimizer, track_momentum: bool = True) -> Signals:
    signals = Signals(parameters)
    for optimizer in optimizers:
        signals.follow(optimizer, track_momentum=track_momentum, after_step=lambda names: None)
    return signals


def take_steps(optimizer: Optimizer, *parameters: Parameter, gradients: Sequence[Tensor] = GRADIENTS) -> None:
    for gradient in gradients:
        for parameter in parameters:
            parameter.grad = gradient.clone()
        optimizer.step()


def accumulated(decay: float, factor: float = 1.0) -> Tensor:
    """Return `decay * momentum + factor * gradient`, taken once for every step."""
    momentum = torch.zeros(1, 3)
    for gradient in GRADIENTS:
        momentum = decay * momentum + factor * gradient
    return momentum


def adam_momentum(eps: float = 1e-8) -> Tensor:
    first, second = torch.zeros(1, 3), torch.zeros(1, 3)
    for gradient in GRADIENTS:
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
    return first / (second.sqrt() + eps)


def adamax_momentum() -> Tensor:
    first, largest = torch.zeros(1, 3), torch.zeros(1, 3)
    for gradient in GRADIENTS:
        first = 0.9 * first + 0.1 * gradient
        largest = torch.maximum(0.999 * largest, gradient.abs() + 1e-8)
    return first / (largest + 1e-8)


def rmsprop_momentum() -> Tensor:
    buffer, second = torch.zeros(1, 3), torch.zeros(1, 3)
    for gradient in GRADIENTS:
        second = 0.99 * second + 0.01 * gradient**2
        buffer = 0.9 * buffer + gradient / (second.sqrt() + 1e-8)
    return buffer


def average() -> Tensor:
    return accumulated(0.9, 0.1)


CASES: dict[str, tuple[Callable[[Any], Optimizer], Callable[[], Tensor]]] = {
    "SGD": (lambda p: SGD(p, LR, momentum=0.9), lambda: accumulated(0.9)),
    "Nesterov": (lambda p: SGD(p, LR, momentum=0.8, nesterov=True), lambda: accumulated(0.8)),
    "SGD subclass": (lambda p: OwnSGD(p, LR, momentum=0.9), lambda: accumulated(0.9)),
    "SGD without momentum": (lambda p: SGD(p, LR), average),
    "SGD without momentum, weight decay": (lambda p: SGD(p, LR, weight_decay=0.1), average),
    "Adam": (lambda p: Adam(p, LR), adam_momentum),
    "AMSGrad": (lambda p: Adam(p, LR, amsgrad=True), adam_momentum),
    "AdamW": (lambda p: AdamW(p, LR, weight_decay=0.1, eps=1e-3), lambda: adam_momentum(1e-3)),
    "AdamW subclass": (lambda p: OwnAdam(p, LR), adam_momentum),
    "NAdam": (lambda p: NAdam(p, LR), adam_momentum),
    "RAdam": (lambda p: RAdam(p, LR), adam_momentum),
    "Adamax": (lambda p: Adamax(p, LR), adamax_momentum),
    "RMSprop with momentum": (lambda p: RMSprop(p, LR, momentum=0.9), rmsprop_momentum),
    "RMSprop without momentum": (lambda p: RMSprop(p, LR), average),
    "Adagrad": (lambda p: Adagrad(p, LR), average),
}


@pytest.mark.parametrize("case", CASES)
def test_momentum_of_each_optimizer_is_what_its_definition_gives(case: str) -> None:
    build, expected = CASES[case]
    parameter = Parameter(torch.ones(1, 3))
    optimizer = build([parameter])
    signals = follow({"weight": parameter}, optimizer)
    assert signals.momentum("weight") is None
    take_steps(optimizer, parameter)
    torch.testing.assert_close(signals.momentum("weight"), expected())


@pytest.mark.parametrize("case", CASES)
def test_an_average_is_kept_only_where_the_optimizer_has_no_momentum(case: str) -> None:
    build, expected = CASES[case]
    parameter = Parameter(torch.ones(1, 3))
    optimizer = build([parameter])
    signals = follow({"weight": parameter}, optimizer)
    take_steps(optimizer, parameter)
    assert set(signals.state_dict()["averages"]) == ({"weight"} if expected is average else set())
    assert (read_momentum(optimizer, parameter) is None) == (expected is average)


def test_the_buffer_of_sgd_is_read_as_it_is_with_its_weight_decay() -> None:
    parameter = Parameter(torch.full((1, 3), 2.0))
    optimizer = SGD([parameter], LR, momentum=0.9, weight_decay=0.5)
    signals = follow({"weight": parameter}, optimizer)
    take_steps(optimizer, parameter, gradients=GRADIENTS[:1])
    torch.testing.assert_close(signals.momentum("weight"), GRADIENTS[0] + 1.0)


def test_each_param_group_divides_by_its_own_eps() -> None:
    fine, coarse = Parameter(torch.ones(1, 3)), Parameter(torch.ones(1, 3))
    optimizer = Adam([{"params": [fine]}, {"params": [coarse], "eps": 0.5}], LR)
    take_steps(optimizer, fine, coarse)
    torch.testing.assert_close(read_momentum(optimizer, fine), adam_momentum())
    torch.testing.assert_close(read_momentum(optimizer, coarse), adam_momentum(0.5))


def test_with_two_optimizers_each_weight_has_the_momentum_of_its_own() -> None:
    first, second = Parameter(torch.ones(1, 3)), Parameter(torch.ones(1, 3))
    adam, sgd = Adam([first], LR), Adam([second], LR)
    signals = follow({"first": first, "second": second}, adam, sgd)
    take_steps(sgd, second)
    assert signals.steps == 3
    take_steps(adam, first, gradients=GRADIENTS * 2)
    take_steps(sgd, second, gradients=[])
    torch.testing.assert_close(signals.momentum("second"), adam_momentum())
    torch.testing.assert_close(signals.momentum("first"), read_momentum(adam, first))
    assert not torch.allclose(signals.momentum("first"), adam_momentum())  # type: ignore[arg-type]  # not None
    assert signals.steps == 6
    assert (signals.names_stepped_by(adam), signals.names_stepped_by(sgd)) == (["first"], ["second"])


@pytest.mark.parametrize("case", ["SGD", "SGD without momentum", "Adam", "Adagrad"])
def test_a_weight_that_never_had_a_gradient_has_momentum_zero(case: str) -> None:
    used, unused = Parameter(torch.ones(1, 3)), Parameter(torch.ones(2, 2))
    optimizer = CASES[case][0]([used, unused])
    signals = follow({"used": used, "unused": unused}, optimizer)
    take_steps(optimizer, used)
    unused_momentum, used_momentum = signals.momentum("unused"), signals.momentum("used")
    assert unused_momentum is not None
    assert used_momentum is not None
    assert torch.equal(unused_momentum, torch.zeros(2, 2))
    assert used_momentum.any()


def test_a_weight_that_is_used_later_gets_its_momentum_then() -> None:
    for optimizer_class, expected in ((SGD, 0.1 * GRADIENTS[0]), (Adagrad, 0.1 * GRADIENTS[0])):
        used, late = Parameter(torch.ones(1, 3)), Parameter(torch.ones(1, 3))
        optimizer = optimizer_class([used, late], LR)
        signals = follow({"used": used, "late": late}, optimizer)
        take_steps(optimizer, used)
        take_steps(optimizer, late, gradients=GRADIENTS[:1])
        torch.testing.assert_close(signals.momentum("late"), expected)


def test_a_layer_that_is_never_used_does_not_stop_topology_updates() -> None:
    model = nn.ModuleDict({"used": nn.Linear(4, 4), "unused": nn.Linear(4, 4)})
    network, optimizer = SparseNetwork(model, 0.5), SGD(model.parameters(), LR, momentum=0.9)
    network.attach(optimizer)
    model["used"](torch.ones(1, 4)).sum().backward()
    optimizer.step()
    changes = {change.name: change for change in network.rewire(SPARSE_MOMENTUM, 0.5)}
    assert changes["unused.weight"].share == 0
    assert sum(layer.active for layer in network.layers.values()) == 16


@pytest.mark.parametrize("case", CASES)
def test_before_the_first_step_momentum_is_missing_for_every_optimizer(case: str) -> None:
    model = nn.Linear(4, 4)
    network = SparseNetwork(model, 0.5)
    network.attach(CASES[case][0](model.parameters()))
    with pytest.raises(MissingSignalError, match=r"the momentum of layer 'weight'.*Cure: take an optimizer step"):
        network.rewire(SPARSE_MOMENTUM, 0.5)
    assert network.rewire(SET, 0.5)


def test_momentum_that_nobody_tracks_is_missing_rather_than_zero() -> None:
    parameter = Parameter(torch.ones(1, 3))
    optimizer = SGD([parameter], LR)
    signals = follow({"weight": parameter}, optimizer, track_momentum=False)
    take_steps(optimizer, parameter)
    assert signals.state_dict()["averages"] == {}
    assert signals.momentum("weight") is None


def test_a_new_optimizer_has_no_momentum_before_its_own_first_step() -> None:
    parameter = Parameter(torch.ones(1, 3))
    first, second = (SGD([parameter], LR, momentum=0.9) for _ in range(2))
    signals = follow({"weight": parameter}, first)
    take_steps(first, parameter)
    signals.detach()
    signals.follow(second, track_momentum=True, after_step=lambda names: None)
    assert signals.momentum("weight") is None
    take_steps(second, parameter)
    torch.testing.assert_close(signals.momentum("weight"), accumulated(0.9))


def test_detaching_removes_the_hooks_and_keeps_steps_and_averages() -> None:
    parameter = Parameter(torch.ones(1, 3))
    optimizers = [SGD([parameter], LR), Adagrad([parameter], LR)]
    assert not observers_of(optimizers)
    signals = follow({"weight": parameter}, *optimizers)
    assert observers_of(optimizers) == [signals]
    take_steps(optimizers[0], parameter, gradients=GRADIENTS[:1])
    signals.detach()
    assert not observers_of(optimizers)
    take_steps(optimizers[0], parameter)
    assert signals.steps == 1
    torch.testing.assert_close(signals.state_dict()["averages"], {"weight": 0.1 * GRADIENTS[0]})


def test_what_follows_a_step_gets_the_names_that_the_optimizer_steps() -> None:
    first, second = Parameter(torch.ones(1, 3)), Parameter(torch.ones(1, 3))
    optimizers = SGD([first], LR), SGD([second], LR)
    seen: list[Sequence[str]] = []
    signals = Signals({"first": first, "second": second})
    for optimizer in optimizers:
        signals.follow(optimizer, track_momentum=False, after_step=seen.append)
    take_steps(optimizers[1], second, gradients=GRADIENTS[:1])
    assert seen == [("second",)]


def linear_after_a_step() -> tuple[SparseNetwork, Optimizer]:
    model = nn.Linear(4, 4)
    network, optimizer = SparseNetwork(model, 0.5), SGD(model.parameters(), LR)
    network.attach(optimizer)
    model(torch.ones(1, 4)).square().sum().backward()
    optimizer.step()
    return network, optimizer


def test_the_gradient_is_missing_before_the_first_backward_pass_and_there_after_a_step() -> None:
    network = SparseNetwork(nn.Linear(4, 4), 0.5)
    with pytest.raises(MissingSignalError, match=r"gradient of layer 'weight'.*Cure: update the topology after"):
        network.rewire(RIGL, 0.5)
    network, _ = linear_after_a_step()
    assert network.rewire(RIGL, 0.5)


@pytest.mark.parametrize("track_gradients", [False, True])
def test_gradients_that_are_set_to_none_are_held_for_whom_asks(track_gradients: bool) -> None:
    parameter = Parameter(torch.ones(1, 3))
    optimizer = SGD([parameter], LR)
    signals = Signals({"weight": parameter})
    signals.follow(optimizer, track_momentum=False, track_gradients=track_gradients, after_step=lambda names: None)
    take_steps(optimizer, parameter, gradients=GRADIENTS[:1])
    optimizer.zero_grad(set_to_none=True)
    found = signals.gradient("weight")
    assert (None if found is None else found.tolist()) == (GRADIENTS[0].tolist() if track_gradients else None)
    assert set(signals.state_dict(gradients=True)["gradients"]) == ({"weight"} if track_gradients else set())


def test_gradients_that_were_overwritten_since_the_step_are_missing_rather_than_wrong() -> None:
    parameter = Parameter(torch.ones(1, 3))
    optimizer = SGD([parameter], LR)
    signals = Signals({"weight": parameter})
    signals.follow(optimizer, track_momentum=False, track_gradients=True, after_step=lambda names: None)
    take_steps(optimizer, parameter, gradients=GRADIENTS[:1])
    optimizer.zero_grad(set_to_none=False)
    assert signals.gradient("weight") is None
    take_steps(optimizer, parameter, gradients=GRADIENTS[1:2])
    torch.testing.assert_close(signals.gradient("weight"), GRADIENTS[1])


def test_saved_gradients_serve_until_the_next_step() -> None:
    network, optimizer = linear_after_a_step()
    state = network.state_dict(gradients=True)
    assert state["gradients"]["weight"].any()
    optimizer.zero_grad()
    network.load_state_dict(state)
    assert network.rewire(RIGL, 0.5)
    optimizer.step()
    with pytest.raises(MissingSignalError):
        network.rewire(RIGL, 0.5)


def test_saved_gradients_come_before_those_that_lie_about_when_a_state_is_loaded() -> None:
    parameter = Parameter(torch.ones(1, 3))
    signals = follow({"weight": parameter}, SGD([parameter], LR))
    parameter.grad = GRADIENTS[0].clone()
    state = signals.state_dict(gradients=True)
    parameter.grad = GRADIENTS[1].clone()
    signals.load_state_dict(state)
    torch.testing.assert_close(signals.gradient("weight"), GRADIENTS[0])


def test_averages_and_steps_survive_saving() -> None:
    runs = []
    for interrupted in (False, True):
        parameter = Parameter(torch.ones(1, 3))
        optimizer = SGD([parameter], LR)
        signals = follow({"weight": parameter}, optimizer)
        take_steps(optimizer, parameter, gradients=GRADIENTS[:2])
        if interrupted:
            state = signals.state_dict()
            signals = follow({"weight": parameter}, optimizer)
            signals.load_state_dict(state)
        take_steps(optimizer, parameter, gradients=GRADIENTS[2:])
        runs.append((signals.steps, signals.momentum("weight")))
    assert runs[0][0] == runs[1][0] == 3
    torch.testing.assert_close(runs[1][1], runs[0][1], rtol=0, atol=0)


class Wrapping(SGD):
    """An optimizer whose step calls that of its base class, so that PyTorch's hooks run twice in one step."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return super().step(closure)


class Nesting(SGD):
    """An optimizer that lets another one take its steps, as long as it has one."""

    inner: Optimizer | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        if self.inner is not None:
            return self.inner.step()
        for parameter in self.param_groups[0]["params"]:
            parameter.sub_(parameter.grad, alpha=LR)
        return None


def test_a_step_that_calls_the_step_of_its_base_class_counts_once() -> None:
    SGD([Parameter(torch.ones(1))], lr=LR)  # PyTorch puts its hooks into a class with the first object of it
    parameter = Parameter(torch.ones(1, 3))
    optimizer = Wrapping([parameter], lr=LR)
    signals = follow({"a": parameter}, optimizer)
    take_steps(optimizer, parameter)
    assert signals.steps == len(GRADIENTS)


def test_an_average_takes_each_gradient_once_whether_an_optimizer_steps_itself_or_lets_another_one_step() -> None:
    parameter = Parameter(torch.ones(1, 3))
    outer = Nesting([parameter], lr=LR)
    signals = follow({"a": parameter}, outer)
    outer.inner = SGD([parameter], lr=LR)
    take_steps(outer, parameter, gradients=GRADIENTS[:1])
    outer.inner = None
    take_steps(outer, parameter, gradients=GRADIENTS[1:])
    momentum = signals.momentum("a")
    assert momentum is not None
    torch.testing.assert_close(momentum, accumulated(0.9, 0.1))


def test_a_detached_network_keeps_no_optimizer_alive() -> None:
    parameter = Parameter(torch.ones(1, 3))
    optimizer = SGD([parameter], lr=LR)
    signals = follow({"a": parameter}, optimizer)
    take_steps(optimizer, parameter)
    reference = weakref.ref(optimizer)
    signals.detach()
    del optimizer
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("steps", [-1, 2**63, True, 1.0])
def test_a_state_with_an_impossible_number_of_steps_is_refused(steps: Any) -> None:
    signals = Signals({"a": Parameter(torch.ones(1, 3))})
    with pytest.raises(ValueError, match="Expected a number of optimizer steps >= 0"):
        signals.check_state_dict({**signals.state_dict(), "steps": steps})
    signals.check_state_dict({**signals.state_dict(), "steps": 2**63 - 1})


def test_of_two_optimizers_the_momentum_is_that_of_the_one_that_stepped_last() -> None:
    parameter = Parameter(torch.ones(1, 3))
    first, second = (SGD([parameter], lr=LR, momentum=decay) for decay in (0.9, 0.5))
    signals = follow({"a": parameter}, first, second)
    for optimizer in (first, second, first):
        take_steps(optimizer, parameter)
        momentum = signals.momentum("a")
        assert momentum is not None
        assert torch.equal(momentum, optimizer.state[parameter]["momentum_buffer"])


class Reporting(Signals):
    """Notes what each step trained."""

    def __init__(self, parameters: dict[str, Parameter]) -> None:
        super().__init__(parameters)
        self.told: list[list[str] | None] = []

    def _after_step(self, optimizer: Optimizer | None, names: Sequence[str], trained: Sequence[str] | None) -> None:
        self.told.append(None if trained is None else [*trained])
        super()._after_step(optimizer, names, trained)


def test_a_step_trains_the_weights_that_have_a_gradient_then_whatever_had_one_before() -> None:
    parameters = {name: Parameter(torch.ones(1, 3)) for name in ("first", "second")}
    signals, optimizer = Reporting(parameters), SGD(parameters.values(), LR, momentum=0.9)
    signals.follow(optimizer, track_momentum=True)
    steps = []
    for named in (["first", "second"], ["first", "second"], ["second"], [], ["first", "second"], ["first", "second"]):
        for name, parameter in parameters.items():
            parameter.grad = torch.ones(1, 3) if name in named else None
        optimizer.step()
        steps.append((signals.told[-1], signals.steps))
    both = ["first", "second"]
    assert steps == [(both, 1), (both, 2), (["second"], 3), ([], 3), (both, 4), (both, 5)]
