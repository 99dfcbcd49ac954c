"""Closures: every evaluation of an optimizer sees masked weights, and a line search sees masked gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.functional import cross_entropy
from torch.optim import LBFGS, SGD, Optimizer

from lightning_sparse.network import SparseNetwork, momentum_families, register_momentum
from lightning_sparse.network.steps.kinds import evaluates_once
from lightning_sparse.topology.recipes import RIGL, SPARSE_MOMENTUM
from lightning_sparse.validation.errors import InvalidValueError

IMAGES, LABELS = torch.randn(64, 20, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 4


class SharpnessAware(SGD):
    """Evaluates twice a step, the second time at weights moved along the gradient."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        closure = torch.enable_grad()(closure)
        loss = closure()
        moves = [(weight, 0.05 * weight.grad) for weight in self.weights()]
        for weight, move in moves:
            weight.add_(move)
        closure()
        for weight, move in moves:
            weight.sub_(move)
        super().step()
        return loss

    def weights(self) -> list[Tensor]:
        return [weight for group in self.param_groups for weight in group["params"]]


class Extrapolating(SGD):
    """Evaluates once a step, at another point than the one that is kept, as schedule-free optimizers do."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for weight in self.param_groups[0]["params"]:
            ahead = self.state[weight].setdefault("z", weight.clone())
            weight.lerp_(ahead, 0.1)
        with torch.enable_grad():
            loss = closure()
        for weight in self.param_groups[0]["params"]:
            ahead = self.state[weight]["z"]
            weight.lerp_(ahead, 1 - 1 / 0.9)
            ahead.sub_(weight.grad, alpha=0.1)
            weight.lerp_(ahead, 0.2)
        return loss


class Backtracking(Optimizer):
    """Halves its step until the loss falls as much as the gradient promises."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})
        self.lengths: list[float] = []

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        closure = torch.enable_grad()(closure)
        weights = self.param_groups[0]["params"]
        loss, length = closure(), 2.0
        starts, slopes = [weight.clone() for weight in weights], [weight.grad.clone() for weight in weights]
        promised = sum(float(slope.square().sum()) for slope in slopes)
        for _ in range(20):
            for weight, start, slope in zip(weights, starts, slopes, strict=True):
                weight.copy_(start - length * slope)
            if closure() <= loss - 0.5 * length * promised:
                break
            length /= 2
        self.lengths.append(length)
        return loss


class Handing(Optimizer):
    """Hands the closure on to the optimizer that it wraps."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


KINDS: dict[str, Callable[[list[Parameter]], Optimizer]] = {
    "sharpness-aware": lambda weights: SharpnessAware(weights, 0.1, momentum=0.9),
    "sharpness-aware in a wrapper": lambda weights: Handing(SharpnessAware(weights, 0.1, momentum=0.9)),
    "schedule-free": lambda weights: Extrapolating(weights, 0.1),
    "L-BFGS": lambda weights: LBFGS(weights, 0.1, max_iter=4),
    "L-BFGS with a line search": lambda weights: LBFGS(weights, max_iter=4, line_search_fn="strong_wolfe"),
    "backtracking": Backtracking,
}


class Run:
    """Trains a network and counts the weights that each forward pass and each step leaves."""

    def __init__(self, make: Callable[[list[Parameter]], Optimizer], *, sparse: bool = True) -> None:
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 4))
        self.network = SparseNetwork(self.net, density=0.2, seed=0)
        self.optimizer = make(list(self.net.parameters()))
        if sparse:
            self.network.attach(self.optimizer)
        self.used: list[int] = []
        self.left: list[int] = []
        self.losses: list[float] = []

    def closure(self) -> Tensor:
        self.used.append(self.nonzero())
        self.optimizer.zero_grad()
        loss = cross_entropy(self.net(IMAGES), LABELS)
        loss.backward()
        return loss.detach()

    def nonzero(self) -> int:
        return sum(int(torch.count_nonzero(self.net.get_parameter(name))) for name in self.network.masks)

    def step(self) -> None:
        self.losses.append(float(self.optimizer.step(self.closure)))  # type: ignore[arg-type]  # a tensor
        self.left.append(self.nonzero())


@pytest.mark.parametrize("kind", KINDS)
def test_every_evaluation_of_a_closure_sees_masked_weights(kind: str) -> None:
    run = Run(KINDS[kind])
    budget = run.nonzero()
    for number in range(8):
        run.step()
        if number == 4:
            run.network.rewire(SPARSE_MOMENTUM, 0.5)
    assert max(run.used) <= budget
    assert max(run.left) <= budget
    assert run.network.steps == 8


@pytest.mark.parametrize("kind", KINDS)
def test_without_masks_the_same_optimizers_evaluate_dense_weights(kind: str) -> None:
    run = Run(KINDS[kind], sparse=False)
    budget = run.nonzero()
    for _ in range(3):
        run.step()
    assert max(run.used) > 2 * budget


def train_with_masked_gradients(make: Callable[[list[Parameter]], Optimizer], steps: int) -> list[float]:
    """Train with gradients that autograd masks, which is what an optimizer of active weights alone would see."""
    run = Run(make, sparse=False)
    for name, mask in run.network.masks.items():
        run.net.get_parameter(name).register_hook(lambda gradient, mask=mask: gradient * mask)
    for _ in range(steps):
        run.step()
    return run.losses


@pytest.mark.parametrize("options", [{}, {"line_search_fn": "strong_wolfe"}], ids=str)
def test_lbfgs_trains_as_if_there_were_active_weights_only(options: dict[str, Any]) -> None:
    def make(weights: list[Parameter]) -> Optimizer:
        return LBFGS(weights, max_iter=5, **options)

    run = Run(make)
    for _ in range(6):
        run.step()
    assert run.losses == pytest.approx(train_with_masked_gradients(make, 6), rel=1e-4)
    assert run.losses[-1] < 0.5 * run.losses[0]


def test_an_unknown_line_search_sees_masked_gradients_from_its_second_step_on() -> None:
    run = Run(Backtracking)
    for _ in range(4):
        run.step()
        masked = [bool(run.net.get_parameter(name).grad[~mask].any()) for name, mask in run.network.masks.items()]  # type: ignore[index]  # there is one
    assert not any(masked)
    assert isinstance(run.optimizer, Backtracking)
    assert min(run.optimizer.lengths[1:]) > 8 * run.optimizer.lengths[0]


def test_an_optimizer_with_momentum_keeps_the_gradients_of_inactive_weights() -> None:
    run = Run(KINDS["sharpness-aware"])
    for _ in range(3):
        run.step()
    for name, mask in run.network.masks.items():
        momentum = run.optimizer.state[run.net.get_parameter(name)]["momentum_buffer"]
        assert momentum[~mask].count_nonzero() > 0.5 * (~mask).sum()


@pytest.mark.parametrize("kind", ["L-BFGS", "backtracking"])
def test_growth_by_momentum_takes_the_dense_gradient_of_the_first_evaluation(kind: str) -> None:
    run, average, first = Run(KINDS[kind]), 0.0, []

    def remember(gradient: Tensor) -> None:
        first.append(gradient.detach().clone())

    run.net[0].weight.register_hook(remember)  # type: ignore[union-attr, operator]  # a linear layer
    for _ in range(3):
        first.clear()
        run.step()
        average = 0.9 * average + 0.1 * first[0]
    momentum = run.network.state_dict()["averages"]["0.weight"]
    torch.testing.assert_close(momentum, average)
    inactive = ~run.network.masks["0.weight"]
    assert momentum[inactive].count_nonzero() > 0.5 * inactive.sum()


def test_growth_by_gradients_takes_the_dense_gradient_where_the_optimizer_sees_a_masked_one() -> None:
    run = Run(KINDS["L-BFGS"])
    run.step()
    grown = {change.name: change.grown for change in run.network.rewire(RIGL, 0.3)}
    assert min(grown.values()) > 0
    weights = run.network.state_dict(gradients=True)["gradients"]
    assert all(gradient[~run.network.masks[name]].any() for name, gradient in weights.items())


class TwoCalls(SharpnessAware):
    """Can be asked for its two halves."""

    base: SGD | None = None

    @torch.no_grad()
    def first_step(self) -> None:
        self.moves = [(weight, 0.05 * weight.grad) for weight in self.weights()]
        for weight, move in self.moves:
            weight.add_(move)

    @torch.no_grad()
    def second_step(self) -> None:
        for weight, move in self.moves:
            weight.sub_(move)
        self.base = self.base or SGD(self.param_groups, 0.1)
        self.base.step()


def two_calls(run: Run, *, enforce: bool) -> None:
    optimizer = run.optimizer
    assert isinstance(optimizer, TwoCalls)
    run.closure()
    optimizer.first_step()
    if enforce:
        run.network.enforce()
    run.closure()
    optimizer.second_step()


def test_a_second_forward_pass_with_unmasked_weights_is_an_error_before_the_first_step_changes_anything() -> None:
    run = Run(lambda weights: TwoCalls(weights, 0.1))
    before = [weight.detach().clone() for weight in run.net.parameters()]
    with pytest.raises(
        InvalidValueError, match=r"got a TwoCalls, whose first_step\(\) .*Cure: give its step\(\) a clos"
    ):
        two_calls(run, enforce=False)
    for weight, earlier in zip(run.net.parameters(), before, strict=True):
        torch.testing.assert_close(weight.detach(), earlier)


def test_the_two_calls_go_through_with_the_cure() -> None:
    run = Run(lambda weights: TwoCalls(weights, 0.1))
    budget = run.nonzero()
    for _ in range(3):
        two_calls(run, enforce=True)
    assert (max(run.used), run.network.steps) == (budget, 3)
    run.step()  # and one with a closure after them
    assert max(run.used) == budget


def test_an_optimizer_that_keeps_its_closure_is_refused_with_the_cure() -> None:
    class Keeps(SGD):
        def set_closure(self, closure: Any) -> None:
            """Keep a closure."""

    with pytest.raises(InvalidValueError, match=r"got a Keeps, whose set_closure\(\).*Cure: one whose step\(\) takes"):
        Run(lambda weights: Keeps(weights, 0.1))


def test_a_closure_gets_its_arguments_and_a_failure_in_it_leaves_the_next_step_right() -> None:
    run = Run(KINDS["L-BFGS"])
    seen = []

    def failing() -> Tensor:
        seen.append(run.nonzero())
        raise RuntimeError("no batch")

    with pytest.raises(RuntimeError, match="no batch"):
        run.optimizer.step(failing)  # type: ignore[arg-type]  # a tensor
    run.step()
    assert len(seen) == 1
    assert max(run.used) == seen[0]


class Derived(SGD):
    """Might do anything before it evaluates a closure."""


@pytest.mark.parametrize("kind", [SGD, torch.optim.AdamW, Derived])
@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize("sparse", [True, False])
def test_weights_written_to_between_steps_are_masked_before_the_closure(
    kind: type[Optimizer], keyword: bool, sparse: bool
) -> None:
    run = Run(lambda weights: kind(weights, lr=0.1), sparse=sparse)
    budget = run.nonzero()
    for _ in range(2):
        with torch.no_grad():
            run.net[0].weight.add_(1.0)
        run.optimizer.step(**{"closure": run.closure}) if keyword else run.step()
    assert (max(run.used) <= budget) is sparse


def torchs_optimizers() -> list[type[Optimizer]]:
    found = [each for each in vars(torch.optim).values() if isinstance(each, type) and issubclass(each, Optimizer)]
    return [each for each in found if each is not Optimizer]


@pytest.mark.parametrize("kind", torchs_optimizers())
def test_pytorchs_optimizers_evaluate_a_closure_once_and_first_but_for_lbfgs(kind: type[Optimizer]) -> None:
    weight = nn.Parameter(torch.ones(3, 4))
    optimizer = kind([weight], lr=0.1)  # type: ignore[call-arg]  # of them all
    seen = []

    def closure() -> Tensor:
        seen.append(weight.detach().clone())
        gradient = torch.ones(3, 4)
        weight.grad = gradient.to_sparse() if kind is torch.optim.SparseAdam else gradient
        return weight.sum().detach()

    optimizer.step(closure)  # type: ignore[arg-type]  # a tensor
    assert evaluates_once(optimizer) is (len(seen) == 1)
    assert torch.equal(seen[0], torch.ones(3, 4))
    assert evaluates_once(optimizer) is (kind is not LBFGS)


def test_of_a_class_derived_from_pytorchs_nothing_is_known() -> None:
    assert not evaluates_once(Derived([nn.Parameter(torch.ones(2))], lr=0.1))


def noisy(weights: list[Parameter]) -> Optimizer:
    """Return an SGD whose hook writes to all weights at the start of a step."""
    optimizer = SGD(weights, 0.1, momentum=0.9)

    @torch.no_grad()
    def noise(*_: Any) -> None:
        for weight in weights:
            weight.add_(0.01)

    optimizer.register_step_pre_hook(noise)
    return optimizer


def sharpness_aware_by_hook(weights: list[Parameter]) -> Optimizer:
    """Return an SGD whose hook has the closure evaluated a second time, at weights moved along the gradient."""
    optimizer = SGD(weights, 0.1, momentum=0.9)

    def evaluate_twice(_: Optimizer, args: Any, kwargs: Any) -> Any:
        def closure() -> Any:
            loss = args[1]()
            with torch.no_grad():
                moves = [0.05 * weight.grad for weight in weights if weight.grad is not None]
                torch._foreach_add_(weights, moves)
            args[1]()
            torch._foreach_sub_([weight.detach() for weight in weights], moves)
            return loss

        return (args[0], closure), kwargs

    optimizer.register_step_pre_hook(evaluate_twice)
    return optimizer


@pytest.mark.parametrize("make", [noisy, sharpness_aware_by_hook])
@pytest.mark.parametrize("sparse", [True, False])
def test_hooks_of_an_optimizer_that_write_to_weights_write_before_masks_do(
    make: Callable[[list[Parameter]], Optimizer], sparse: bool
) -> None:
    run = Run(make, sparse=sparse)
    budget = run.nonzero()
    for _ in range(4):
        run.step()
    assert (max(run.used) <= budget) is sparse


def test_a_step_without_a_closure_leaves_the_weights_of_other_optimizers_alone_until_it_ends() -> None:
    torch.manual_seed(1)
    parts = nn.ModuleList([nn.Linear(8, 4), nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))])
    network = SparseNetwork(parts, density=0.3, seed=0)
    optimizers = [SGD(part.parameters(), 0.1, momentum=0.9) for part in parts]
    for optimizer in optimizers:
        network.attach(optimizer)
    for _ in range(3):
        with torch.no_grad():
            parts[1][0].weight.clamp_(-0.5, 0.5)  # type: ignore[index]  # of a sequence
        losses = [part(torch.ones(5, 8)).square().mean() for part in parts]
        for optimizer, loss in zip(optimizers, losses, strict=True):
            loss.backward()  # an error if its weights were written to since
            optimizer.step()
    assert network.steps == 3


class Repeating(Optimizer):
    """Has another optimizer take three steps with the same closure."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure: Any = None) -> Any:
        return [self.inner.step(closure) for _ in range(3)][-1]


def test_an_optimizer_that_hands_its_closure_on_several_times_is_no_line_search() -> None:
    run = Run(lambda weights: Repeating(SGD(weights, 0.1)), sparse=False)
    run.network.attach(run.optimizer, track_momentum=False)
    for _ in range(3):
        run.step()
        gradient, mask = run.net[0].weight.grad, run.network.masks["0.weight"]
        assert gradient is not None
        assert torch.count_nonzero(gradient[~mask]) > 0


class OwnMomentum(Optimizer):
    """Keeps momentum under a name of its own, and evaluates twice a step."""

    def __init__(self, weights: Any) -> None:
        super().__init__(weights, {"lr": 0.05, "momentum": 0.9})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for _ in range(2):
            torch.enable_grad()(closure)()
        for weight in self.param_groups[0]["params"]:
            momentum = self.state[weight].setdefault("m", torch.zeros_like(weight))
            weight.sub_(momentum.mul_(0.9).add_(weight.grad), alpha=0.05)
        return torch.zeros(())


def test_growth_by_gradients_takes_dense_ones_from_the_step_on_that_they_are_masked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(momentum_families, "_FAMILIES", dict(momentum_families._FAMILIES))
    register_momentum(OwnMomentum, "m")
    run = Run(OwnMomentum)
    for _ in range(4):
        run.step()
    gradient, mask = run.network._signals.gradient("0.weight"), run.network.masks["0.weight"]
    assert gradient is not None
    assert torch.count_nonzero(gradient[~mask]) > 0
