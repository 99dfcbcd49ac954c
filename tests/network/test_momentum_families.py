"""Which optimizers are read, and when an average of gradients is kept instead: by class, state and scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stepping import AVERAGE, GRADIENTS, LR, follow, take_steps, weights
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from lightning_sparse.network import momentum_families, register_momentum
from lightning_sparse.network.momentum_families import family_of
from lightning_sparse.network.momentum_observer import read_momentum


class Stateful(Optimizer):
    """An optimizer that changes nothing and fills its state with what a function makes of weight and gradient."""

    def __init__(self, parameters: Any, fill: Callable[[Tensor, Tensor], Any], **options: Any) -> None:
        super().__init__(parameters, {"lr": LR, "eps": 1e-8, **options})
        self.fill = fill

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        for group in self.param_groups:
            for parameter in (each for each in group["params"] if each.grad is not None):
                self.state[parameter] = self.fill(parameter, parameter.grad)


def both(first: Callable[[Tensor], Any]) -> Callable[[Tensor, Tensor], dict[str, Any]]:
    return lambda weight, gradient: {"exp_avg": first(gradient), "exp_avg_sq": gradient**2}


@pytest.fixture
def families(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The table of families, which a test may add to."""
    table = dict(momentum_families._FAMILIES)
    monkeypatch.setattr(momentum_families, "_FAMILIES", table)
    return table


@pytest.fixture
def known(families: dict[str, Any]) -> None:
    register_momentum(Stateful, "exp_avg", second="exp_avg_sq")


# Whose exp_avg is what only its author knows.
UNKNOWN: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "normalized already": both(lambda gradient: gradient.sign()),
    "in other coordinates": both(lambda gradient: gradient.flip(1)),
    "of lower rank": both(lambda gradient: gradient[:, :2]),
    "of the layer": both(lambda gradient: gradient.mean()),
    "quantized": both(lambda gradient: gradient.to(torch.int8)),
    "a dictionary": both(lambda gradient: {"values": gradient}),
    "not a dictionary": lambda weight, gradient: gradient,
    "named momentum_buffer": lambda weight, gradient: {"momentum_buffer": weight.clone()},
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_of_an_optimizer_that_is_not_known_an_average_is_kept_from_the_first_step_on(kind: str) -> None:
    parameters = weights()
    optimizer = Stateful(parameters, UNKNOWN[kind])
    signals = follow(parameters, optimizer)
    assert signals.averages_all
    take_steps(optimizer)
    torch.testing.assert_close(signals.momentum("w0"), AVERAGE)
    assert read_momentum(optimizer, parameters[0]) is None


class SubclassTensor(Tensor):
    """A tensor that may hold anything in its own way."""


UNREADABLE: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    "shape": (both(lambda gradient: gradient[:, :2]), r"exp_avg of shape \(1, 2\)"),
    "dtype": (both(lambda gradient: gradient.to(torch.uint8)), "exp_avg in uint8"),
    # A view: PyTorch 2.4 makes no such tensor in its deterministic mode, which earlier tests may have left on.
    "eight bits": (both(lambda g: g.to(torch.uint8).view(torch.float8_e4m3fn)), "exp_avg in float8_e4m3fn"),
    "subclass": (both(lambda gradient: gradient.as_subclass(SubclassTensor)), "exp_avg as a SubclassTensor"),
    "dictionary": (both(lambda gradient: {"values": gradient}), "exp_avg as a dict"),
    "missing": (lambda weight, gradient: {"exp_avg": gradient}, "no exp_avg_sq"),
    "no dictionary": (lambda weight, gradient: [gradient], "its state is a list"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.usefixtures("known")
def test_a_state_of_a_known_class_is_not_read_if_it_can_not_be_the_momentum_of_the_weight(kind: str) -> None:
    fill, reason = UNREADABLE[kind]
    parameters = weights()
    optimizer = Stateful(parameters, fill)
    signals = follow(parameters, optimizer)
    assert not signals.averages_all
    with pytest.warns(UserWarning, match=rf"Expected the momentum .* got Stateful: .*{reason}.*averages of gradients"):
        take_steps(optimizer)
    torch.testing.assert_close(signals.momentum("w0"), AVERAGE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.usefixtures("known")
def test_a_state_of_a_known_class_is_read_in_any_precision_of_sixteen_bits_or_more(dtype: torch.dtype) -> None:
    parameters = weights()
    optimizer = Stateful(parameters, lambda _, gradient: {key: gradient.to(dtype) for key in ("exp_avg", "exp_avg_sq")})
    signals = follow(parameters, optimizer)
    take_steps(optimizer, gradients=[torch.ones(1, 3)])
    torch.testing.assert_close(signals.momentum("w0"), torch.ones(1, 3, dtype=dtype))
    assert signals.state_dict()["averages"] == {}


@pytest.mark.parametrize("eps", [None, (1e-30, 1e-3)])
@pytest.mark.usefixtures("known")
def test_an_eps_that_is_no_number_is_no_error(eps: Any) -> None:
    parameters = weights()
    optimizer = Stateful(parameters, both(lambda gradient: gradient), eps=eps)
    signals = follow(parameters, optimizer)
    assert signals.momentum_sources() == [
        "Momentum of Stateful (1 weight): 0.9 * average + 0.1 * gradient, kept by the sparse network in 12 bytes: "
        f"its eps is {eps!r}"
    ]
    take_steps(optimizer)
    torch.testing.assert_close(signals.momentum("w0"), AVERAGE)


class KeepsStep(AdamW):
    """A subclass that adds nothing to the step."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)


class OwnStep(AdamW):
    """A subclass that may leave anything in the state."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class OwnState(AdamW):
    """Likewise."""

    def _init_group(self, *arguments: Any, **options: Any) -> Any:
        return super()._init_group(*arguments, **options)


class Steps:
    """A step that other classes inherit."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)  # type: ignore[misc]  # closures of any type


class Mixed(Steps, AdamW):
    """A class with the step of its first base."""


@pytest.mark.parametrize(("kind", "is_known"), [(KeepsStep, True), (OwnStep, False), (OwnState, False), (Mixed, False)])
def test_a_subclass_belongs_to_the_family_whose_step_it_keeps(kind: type[AdamW], is_known: bool) -> None:
    parameters = weights()
    optimizer = kind(parameters, lr=LR)
    assert (family_of(type(optimizer)) is not None) == is_known
    signals = follow(parameters, optimizer)
    take_steps(optimizer)
    assert set(signals.state_dict()["averages"]) == (set() if is_known else {"w0"})


def test_the_step_of_a_subclass_may_be_wrapped_before_that_of_its_base(families: dict[str, Any]) -> None:
    class Base(Stateful):
        def step(self, closure: Callable[[], Any] | None = None) -> None:
            raise NotImplementedError

    class First(Base):
        pass

    register_momentum(Base, "m")
    optimizers = [kind(weights(), both(lambda gradient: gradient)) for kind in (First, Base)]
    assert "step" in vars(First)  # PyTorch puts its hooks into the class of the first object
    first, second = (family_of(type(optimizer)) for optimizer in optimizers)
    assert first is second is not None


def test_a_step_that_a_scheduler_wraps_is_still_known() -> None:
    optimizer = SGD(weights(), LR, momentum=0.9)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    assert family_of(type(optimizer)) is not None


def test_a_family_is_added_in_one_line(families: dict[str, Any]) -> None:
    parameters = weights()
    optimizer = Stateful(parameters, lambda _, gradient: {"m": gradient})
    assert follow(parameters, optimizer).averages_all
    register_momentum(Stateful, "m")
    signals = follow(parameters, optimizer)
    take_steps(optimizer)
    assert signals.momentum_sources() == ["Momentum of Stateful (1 weight): m of its state"]
    assert signals.state_dict()["averages"] == {}
    torch.testing.assert_close(signals.momentum("w0"), GRADIENTS[-1])


def test_a_registered_subclass_comes_before_the_family_of_its_base(families: dict[str, Any]) -> None:
    class Own(AdamW):
        pass

    register_momentum(Own, "exp_avg")
    parameters = weights()
    optimizer = Own(parameters, LR)
    take_steps(optimizer)
    torch.testing.assert_close(read_momentum(optimizer, parameters[0]), AVERAGE)
    usual = AdamW(parameters, LR)
    take_steps(usual)
    assert not torch.allclose(read_momentum(usual, parameters[0]), AVERAGE)  # type: ignore[arg-type]  # it has momentum by now


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((nn.Linear, "m"), "a class of optimizers; got <class 'torch.nn"),
        ((SGD(weights(), LR), "m"), "a class of optimizers; got SGD"),
        ((SGD, ""), "keys of the optimizer's state; got ''"),
        ((SGD, 3), "keys of the optimizer's state; got 3"),
    ],
)
def test_what_can_not_be_registered_is_refused(arguments: Any, message: str, families: dict[str, Any]) -> None:
    before = dict(families)
    with pytest.raises((TypeError, ValueError), match=f"Expected {message}"):
        register_momentum(*arguments)
    assert families == before
