"""The step to rewind to is one of the optimizer, in any training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from round_training import FEATURES, Training, model, of, sgd, survivors_differ, values
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import LBFGS, SGD, Optimizer

from lightning_sparse.network import SparseNetwork
from lightning_sparse.rounds import Round, run_rounds
from lightning_sparse.rounds.step_watch import StepWatch
from lightning_sparse.validation.errors import InvalidValueError


def loss_of(net: nn.Module, index: int) -> Tensor:
    generator = torch.Generator().manual_seed(index)
    return cross_entropy(net(torch.randn(8, FEATURES, generator=generator)), torch.arange(8) % 4)


def backward(net: nn.Module, index: int) -> Tensor:
    loss = loss_of(net, index)
    loss.backward()  # type: ignore[no-untyped-call]  # of PyTorch
    return loss


def rewound(train: Callable[[nn.Module, list[Any]], object], rewind: int) -> int:
    """Return after how many of the values that a loop has noted in the first round the second one starts."""
    noted: list[list[dict[str, Tensor]]] = []
    starts: list[dict[str, Tensor]] = []
    rounds: list[Round] = []

    def fit(network: SparseNetwork, now: Round) -> None:
        starts.append(values(network.model))
        rounds.append(now)
        noted.append([])
        train(network.model, noted[-1])

    run_rounds(fit, model(), [1.0, 0.5], rewind)
    same = [step for step, each in enumerate(noted[0]) if survivors_differ(rounds[1], starts[1], each) == []]
    assert len(same) == 1
    return same[0] + 1


def test_batches_whose_gradients_are_accumulated_are_one_step() -> None:
    def train(net: nn.Module, noted: list[Any]) -> None:
        optimizer = sgd(net)
        for index in range(6):
            backward(net, index)
            if index % 2:
                optimizer.step()
                optimizer.zero_grad()
                noted.append(values(net))

    assert rewound(train, 2) == 2


def test_a_step_that_a_gradient_scaler_skips_does_not_count() -> None:
    def train(net: nn.Module, noted: list[Any]) -> None:
        optimizer, scaler = sgd(net), torch.amp.GradScaler("cpu", init_scale=4.0)
        for index in range(5):
            optimizer.zero_grad()
            scaler.scale(loss_of(net, index)).backward()  # type: ignore[no-untyped-call]  # of PyTorch
            if index == 1:
                of(net, "0").weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
            noted.append(values(net))

    assert rewound(train, 1) == 1
    assert rewound(train, 2) == 3  # the second batch's was skipped


def test_a_closure_that_is_evaluated_several_times_is_one_step() -> None:
    def train(net: nn.Module, noted: list[Any]) -> None:
        optimizer = LBFGS(net.parameters(), lr=0.1, max_iter=3)
        for index in range(4):

            def closure(index: int = index) -> Tensor:
                optimizer.zero_grad()
                return backward(net, index)

            optimizer.step(closure)  # type: ignore[no-untyped-call]  # of PyTorch
            noted.append(values(net))

    assert rewound(train, 3) == 3


class Lookahead(Optimizer):
    """Wraps an optimizer, and averages the weights after each of its steps with those before."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner
        super().__init__([{"params": inner.param_groups[0]["params"]}], {})

    def step(self, closure: object = None) -> None:  # type: ignore[override]  # of no closure
        before = [parameter.detach().clone() for parameter in self.param_groups[0]["params"]]
        self.inner.step()
        with torch.no_grad():
            for parameter, old in zip(self.param_groups[0]["params"], before, strict=True):
                parameter.lerp_(old, 0.5)


def test_the_values_are_those_after_a_wrapping_optimizer_has_changed_them() -> None:
    def train(net: nn.Module, noted: list[Any]) -> None:
        optimizer = Lookahead(sgd(net))
        for index in range(4):
            net.zero_grad()
            backward(net, index)
            optimizer.step()
            noted.append(values(net))

    assert rewound(train, 2) == 2


def test_of_two_optimizers_the_busier_one_counts() -> None:
    def train(net: nn.Module, noted: list[Any]) -> None:
        first, second = SGD(of(net, "0").parameters(), 0.2), SGD(of(net, "6").parameters(), 0.2)
        for index in range(6):
            net.zero_grad()
            backward(net, index)
            first.step()
            noted.append(values(net))
            if index == 1:
                second.step()

    assert rewound(train, 4) == 4


def test_an_optimizer_that_replaces_another_one_counts_its_steps() -> None:
    def train(net: nn.Module, noted: list[Any]) -> None:
        optimizer = sgd(net)
        for index in range(4):
            optimizer = sgd(net) if index == 2 else optimizer
            optimizer.zero_grad()
            backward(net, index)
            optimizer.step()
            noted.append(values(net))

    assert rewound(train, 3) == 3


class Unseen:
    """Steps weights, and is no optimizer that PyTorch's hooks see."""

    def __init__(self, net: nn.Module) -> None:
        self.parameters = [*net.parameters()]

    @torch.no_grad()
    def step(self) -> None:
        for parameter in self.parameters:
            parameter.sub_(0.1 * parameter.grad)  # type: ignore[operator]  # it has one


def test_steps_that_no_hook_sees_are_an_error_only_if_there_is_a_step_to_rewind_to() -> None:
    def fit(network: SparseNetwork, now: Round) -> None:
        optimizer = Unseen(network.model)
        network.model.zero_grad()
        backward(network.model, 0)
        optimizer.step()
        network.enforce()

    with pytest.raises(InvalidValueError, match="got 0 steps on masked weights that PyTorch's hooks saw"):
        run_rounds(fit, model(), [1.0, 0.5], 1)
    assert len(run_rounds(fit, model(), [1.0, 0.5])) == 2


def test_the_values_are_kept_once_and_only_if_later_rounds_need_them() -> None:
    calls: list[int] = []
    net = model()
    watch = StepWatch({"0.weight": of(net, "0").weight}, 2, lambda: calls.append(watch.steps))
    watch.watch()
    Training(steps=5)(SparseNetwork(net, density=1.0), Round.of(0, 1.0, 0, {}))
    watch.detach()
    assert calls == [2]
    assert watch.steps == 5
