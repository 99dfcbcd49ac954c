"""Layers are compared by momentum of one definition: that of their optimizers, or averages of gradients for all."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from stepping import AVERAGE, GRADIENTS, LR, follow, take_steps, weights
from torch import nn
from torch.nn import Parameter
from torch.optim import SGD, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from lightning_sparse.network import SparseNetwork, momentum_observer
from lightning_sparse.network.momentum_observer import read_momentum
from lightning_sparse.network.signals import Signals
from lightning_sparse.topology.recipes import SPARSE_MOMENTUM

Build = Callable[[Parameter, Parameter], list[Optimizer]]


def groups(kind: Any, first: dict[str, Any], second: dict[str, Any], **options: Any) -> Build:
    return lambda a, b: [kind([{"params": [a], **first}, {"params": [b], **second}], lr=LR, **options)]


def each(first: Callable[[list[Parameter]], Optimizer], second: Callable[[list[Parameter]], Optimizer]) -> Build:
    return lambda a, b: [first([a]), second([b])]


def sgd(**options: Any) -> Callable[[list[Parameter]], Optimizer]:
    return lambda parameters: SGD(parameters, LR, **options)


DIFFERENT: dict[str, Build] = {
    "momentum": groups(SGD, {"momentum": 0.5}, {"momentum": 0.9}),
    "no momentum": groups(SGD, {"momentum": 0.0}, {"momentum": 0.9}),
    "dampening": groups(SGD, {"dampening": 0.9}, {"dampening": 0.0}, momentum=0.9),
    "weight decay in the gradient": groups(SGD, {"weight_decay": 0.1}, {}, momentum=0.9),
    "betas": groups(Adam, {"betas": (0.9, 0.99)}, {}),
    "eps": groups(Adam, {"eps": 0.5}, {}),
    "centered": groups(RMSprop, {"centered": True}, {}, momentum=0.9),
    "two optimizers with different momentum": each(sgd(momentum=0.9), sgd(momentum=0.5)),
    "Adam beside SGD": each(lambda p: Adam(p, LR), sgd(momentum=0.9)),
    "Adamax beside Adam": each(lambda p: Adamax(p, LR), lambda p: Adam(p, LR)),
    "one that is not known beside Adam": each(lambda p: Adagrad(p, LR), lambda p: Adam(p, LR)),
}
SAME: dict[str, Build] = {
    "learning rate": groups(SGD, {"lr": 0.5}, {}, momentum=0.9),
    "nesterov": groups(SGD, {"nesterov": True}, {}, momentum=0.9),
    "decoupled weight decay": groups(AdamW, {"weight_decay": 0.1}, {"weight_decay": 0.0}),
    "decoupled weight decay by option": groups(NAdam, {"weight_decay": 0.1}, {}, decoupled_weight_decay=True),
    "amsgrad": groups(Adam, {"amsgrad": True}, {}),
    "two optimizers": each(sgd(momentum=0.9), sgd(momentum=0.9, nesterov=True)),
    "variants of Adam": each(lambda p: NAdam(p, LR), lambda p: RAdam(p, LR)),
    "Adam beside AdamW": each(lambda p: Adam(p, LR), lambda p: AdamW(p, LR)),
}
if hasattr(torch.optim, "Muon"):
    DIFFERENT["Muon beside AdamW"] = each(lambda p: torch.optim.Muon(p, LR), lambda p: AdamW(p, LR))
    DIFFERENT["Muon beside SGD"] = each(lambda p: torch.optim.Muon(p, LR), sgd(momentum=0.95))
    SAME["weight decay of Muon"] = groups(torch.optim.Muon, {"weight_decay": 0.0}, {})


@pytest.mark.parametrize("kind", DIFFERENT)
def test_layers_on_different_scales_all_have_averages_of_gradients_from_the_first_step_on(kind: str) -> None:
    parameters = weights(2)
    optimizers = DIFFERENT[kind](*parameters)
    signals = follow(parameters, *optimizers)
    assert signals.averages_all
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        take_steps(*optimizers)
    assert set(signals.state_dict()["averages"]) == {"w0", "w1"}
    for name in ("w0", "w1"):
        torch.testing.assert_close(signals.momentum(name), AVERAGE)


@pytest.mark.parametrize("kind", SAME)
def test_layers_on_one_scale_have_the_momentum_of_their_optimizers(kind: str) -> None:
    parameters = weights(2)
    optimizers = SAME[kind](*parameters)
    signals = follow(parameters, *optimizers)
    take_steps(*optimizers)
    assert signals.state_dict()["averages"] == {}
    for name, parameter, optimizer in zip(("w0", "w1"), parameters, (optimizers * 2)[:2], strict=True):
        momentum = signals.momentum(name)
        assert momentum is not None
        own = next(each for each in (optimizer, *optimizers) if each.state.get(parameter))
        torch.testing.assert_close(momentum, read_momentum(own, parameter), rtol=0, atol=0)


class Pair(nn.Module):
    """Two layers that always have the same gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        nn.init.zeros_(self.first.weight)
        nn.init.zeros_(self.second.weight)

    def take_step(self, *optimizers: Optimizer) -> None:
        gradient = 0.01 * torch.randn(8, 8)
        for layer, optimizer in zip((self.first, self.second), optimizers * 2, strict=False):
            layer.weight.grad = gradient.clone()
            optimizer.step()


@pytest.mark.parametrize("is_on", [True, False])
def test_shares_follow_the_gradients_and_not_the_optimizers(is_on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_on:
        monkeypatch.setattr(momentum_observer, "_differ", lambda findings: False)
    torch.manual_seed(0)
    model = Pair()
    optimizers = SGD([model.first.weight], 0.1, momentum=0.9), Adam([model.second.weight], 0.1)
    network = SparseNetwork(model, 0.5, seed=0)
    for optimizer in optimizers:
        network.attach(optimizer)
    for _ in range(20):
        model.take_step(*optimizers)
    shares = [change.share for change in network.rewire(SPARSE_MOMENTUM, 0.2)]
    assert (abs(shares[0] - 0.5) < 0.1) == is_on


def test_what_is_read_and_what_averages_cost_is_said_of_each_optimizer() -> None:
    model = Pair()
    network = SparseNetwork(model, 0.5)
    assert network.momentum_sources == []
    network.attach(AdamW([model.first.weight], LR))
    assert network.momentum_sources == ["Momentum of AdamW (1 weight): exp_avg / (sqrt(exp_avg_sq) + eps) of its state"]
    network.attach(SGD([model.second.weight], LR))
    kept = "0.9 * average + 0.1 * gradient, kept by the sparse network in 256 bytes"
    assert network.momentum_sources == [
        f"Momentum of AdamW (1 weight): {kept}: not all weights have it on one scale",
        f"Momentum of SGD (1 weight): {kept}: it has none with momentum=0",
    ]
    network.detach()
    assert network.momentum_sources == []
    network.attach(SGD(model.parameters(), LR), track_momentum=False)
    assert network.momentum_sources == []


class Holds(Optimizer):
    """A wrapper that lets another optimizer step, which it holds under any name."""

    def __init__(self, inner: Any, hidden: bool = False) -> None:
        super().__init__([p for group in inner.param_groups for p in group["params"]], {"lr": LR})
        self.held = (lambda: inner) if hidden else [inner]

    def step(self, closure: Any = None) -> None:
        (self.held() if callable(self.held) else self.held[0]).step()


@pytest.mark.parametrize("hidden", [False, True])
def test_of_a_wrapper_the_momentum_of_the_optimizer_that_steps_is_read(hidden: bool) -> None:
    parameters = weights(2)
    inner = Adam(parameters, LR)
    wrapper = Holds(inner, hidden)
    signals = follow(parameters, wrapper)
    assert signals.averages_all == hidden
    take_steps(wrapper)
    assert not signals.averages_all
    assert signals.state_dict()["averages"] == {}
    torch.testing.assert_close(signals.momentum("w1"), read_momentum(inner, parameters[1]), rtol=0, atol=0)
    assert signals.momentum_sources() == [
        "Momentum of Adam (2 weights): exp_avg / (sqrt(exp_avg_sq) + eps) of its state"
    ]


def test_averages_of_steps_before_all_optimizers_were_known_are_dropped() -> None:
    parameters = weights(2)
    inner = [Adam([parameter], LR) for parameter in parameters]
    wrapper = Holds(Adam(parameters, LR), hidden=True)
    signals = follow(parameters, wrapper)
    take_steps(inner[0])
    assert set(signals.state_dict()["averages"]) == {"w0"}
    take_steps(inner[1])
    assert not signals.averages_all
    assert signals.state_dict()["averages"] == {}


def test_wrappers_that_hold_each_other_are_no_endless_loop() -> None:
    parameters = weights()
    inner: Any = Adam(parameters, LR)
    wrapper = Holds(inner)
    inner.outer = wrapper
    assert not follow(parameters, wrapper).averages_all


def test_optimizers_that_step_the_same_weights_in_turn_on_two_scales_have_one_average() -> None:
    parameters = weights(2)
    both, second = SGD(parameters, LR, momentum=0.9), SGD(parameters[1:], LR, momentum=0.5)
    signals = follow(parameters, both, second)
    assert not signals.averages_all
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        take_steps(both, second)
    assert len([each for each in caught if "on one scale" in str(each.message)]) == 1
    assert set(signals.state_dict()["averages"]) == {"w0", "w1"}
    torch.testing.assert_close(signals.momentum("w0"), 0.1 * (0.9 * GRADIENTS[1] + GRADIENTS[2]))


def test_a_layer_that_comes_into_use_late_on_another_scale_is_noticed_then() -> None:
    early, late = weights(2)
    optimizer = SGD([early], LR, momentum=0.9)
    signals = follow([early, late], optimizer)
    take_steps(optimizer)
    assert not signals.averages_all
    optimizer.add_param_group({"params": [late], "momentum": 0.5})
    with pytest.warns(UserWarning, match="on one scale; got SGD: another scale"):
        take_steps(optimizer)
    torch.testing.assert_close(signals.momentum("w0"), AVERAGE)


def test_after_the_first_step_no_state_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    examine = momentum_observer.examine
    monkeypatch.setattr(momentum_observer, "examine", lambda *args, **how: looks.append(1) or examine(*args, **how))
    parameters = weights(3)
    optimizers = Adam(parameters[:2], LR), Adam(parameters[2:], LR)
    signals = follow(parameters, *optimizers)
    take_steps(*optimizers, gradients=GRADIENTS[:1])
    assert looks
    looks.clear()
    take_steps(*optimizers)
    assert looks == []
    assert signals.steps == 4


def mixed_run() -> tuple[SparseNetwork, tuple[Optimizer, Optimizer], Pair]:
    torch.manual_seed(0)
    model = Pair()
    optimizers = SGD([model.first.weight], 0.1, momentum=0.9), Adam([model.second.weight], 0.1)
    network = SparseNetwork(model, 0.5, seed=0)
    for optimizer in optimizers:
        network.attach(optimizer)
    model.take_step(*optimizers)
    return network, optimizers, model


def test_averages_that_all_layers_share_are_saved_and_go_on_after_a_resume() -> None:
    found = []
    for interrupted in (False, True):
        network, optimizers, model = mixed_run()
        if interrupted:
            state = network.state_dict()
            network = SparseNetwork(model, 0.5, state=state)
            for optimizer in optimizers:
                network.attach(optimizer)
        model.take_step(*optimizers)
        found.append(network.state_dict()["averages"])
    assert set(found[0]) == {"first.weight", "second.weight"}
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_a_run_that_kept_no_averages_owes_one_update_by_the_momentum_of_its_optimizers() -> None:
    _, optimizers, model = mixed_run()
    state = SparseNetwork(Pair(), 0.5, seed=0).state_dict() | {"steps": 1}
    signals = follow([model.first.weight, model.second.weight], *optimizers)
    signals.load_state_dict({**state, "averages": {}, "gradients": {}})
    for name, parameter, optimizer in zip(("w0", "w1"), model.parameters(), optimizers, strict=True):
        assert signals.averages_all
        torch.testing.assert_close(signals.momentum(name), read_momentum(optimizer, parameter))
    model.take_step(*optimizers)
    for name, parameter in zip(("w0", "w1"), model.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(signals.momentum(name), 0.1 * parameter.grad)


class Unknown(Adam):
    """An optimizer of which nothing is known."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


@pytest.mark.parametrize("steps", [0, 3])
def test_of_an_optimizer_that_is_not_known_only_a_run_of_an_older_version_owes_an_update(steps: int) -> None:
    (parameter,) = weights()
    optimizer = Unknown([parameter], LR)
    take_steps(optimizer)
    signals = follow([parameter], optimizer)
    signals.load_state_dict({"steps": steps, "averages": {}, "gradients": {}})
    assert (signals.momentum("w0") is None) == (steps == 0)
    take_steps(optimizer, gradients=GRADIENTS[:1])
    torch.testing.assert_close(signals.momentum("w0"), 0.1 * GRADIENTS[0])


def test_an_update_is_owed_until_the_next_step_only() -> None:
    (parameter,) = weights()
    optimizer = Unknown([parameter], LR)
    take_steps(optimizer)
    signals = Signals({"w0": parameter})
    signals.follow(optimizer, track_momentum=False, after_step=lambda names: None)
    signals.load_state_dict({"steps": 3, "averages": {}, "gradients": {}})
    assert signals.momentum("w0") is not None
    take_steps(optimizer, gradients=GRADIENTS[:1])
    assert signals.momentum("w0") is None


@pytest.mark.parametrize("is_reversed", [False, True])
def test_before_the_first_step_of_several_optimizers_the_one_that_has_something_counts(is_reversed: bool) -> None:
    (parameter,) = weights()
    optimizers = [SGD([parameter], LR, momentum=0.9), SGD([parameter], LR, momentum=0.9), Unknown([parameter], LR)]
    take_steps(optimizers[1])
    signals = follow([parameter], *(reversed(optimizers) if is_reversed else optimizers))
    assert not signals.averages_all
    torch.testing.assert_close(signals.momentum("w0"), read_momentum(optimizers[1], parameter), rtol=0, atol=0)
    assert not follow([parameter], *(each for each in optimizers if not each.state)).averages_all


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copy_follows_no_optimizer_and_keeps_none_alive(duplicate: Callable[[Any], Any]) -> None:
    network, optimizers, _ = mixed_run()
    copied = duplicate(network)
    assert copied.momentum_sources == []
    references = [weakref.ref(optimizer) for optimizer in optimizers]
    network.detach()
    del optimizers
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    assert set(copied.state_dict()["averages"]) == {"first.weight", "second.weight"}


def test_sparse_gradients_are_averaged_too() -> None:
    (parameter,) = weights()
    optimizer = SGD([parameter], LR)
    signals = follow([parameter], optimizer)
    take_steps(optimizer, gradients=[gradient.to_sparse(1) for gradient in GRADIENTS])
    torch.testing.assert_close(signals.momentum("w0"), AVERAGE)
