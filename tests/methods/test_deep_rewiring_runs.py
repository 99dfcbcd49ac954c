"""Deep rewiring in training runs: budgets in every loop, steps that are skipped, resumed runs, states, arguments."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from loops import Loop, active, batch
from tiny_training import At, Batch, ManualModule, ShufflingLoader, TinyModule, fit, masks_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from witness import BUDGET, DENSITY, Watch, scaled

from lightning_sparse import SparseTrainingCallback
from lightning_sparse.methods import Progress
from lightning_sparse.methods.throughout.deep_rewiring import DeepRewiring
from lightning_sparse.network import SparseNetwork
from lightning_sparse.testing import CALLBACK_PROPERTIES
from lightning_sparse.testing.equality import differences

# Hot enough that connections cross zero in most steps.
HOT: dict[str, Any] = {"temperature": 0.05}


def hot_callback(density: float = DENSITY, **options: Any) -> SparseTrainingCallback:
    return SparseTrainingCallback(method=DeepRewiring(**HOT), density=density, **options)


@pytest.mark.parametrize("holds", CALLBACK_PROPERTIES)
def test_runs_have_every_property_of_sparse_training(holds: str) -> None:
    CALLBACK_PROPERTIES[holds](hot_callback)


class Overflowing(TinyModule):
    """The gradient scaler skips the second step: its gradients are infinite."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.loss(batch) * (torch.inf if self.global_step == 1 else 1)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (TinyModule, {}),
        (TinyModule, {"accumulate_grad_batches": 2, "loader": ShufflingLoader(5)}),
        (TinyModule, {"plugins": scaled()}),
        (Overflowing, {"plugins": scaled()}),
        (TinyModule, {"gradient_clip_val": 0.01}),
        (TinyModule, {"precision": "bf16-true"}),
        (ManualModule, {}),
    ],
    ids=["plainly", "accumulating", "scaled", "overflowing", "clipped", "bf16", "manual"],
)
def test_budget_and_zeros_are_exact_at_every_moment(make: Callable[[], LightningModule], options: Any) -> None:
    callback, masks = hot_callback(), list[dict[str, Tensor]]()
    watch = Watch(callback)
    fit(
        callback, watch, At("on_train_batch_end", lambda *_: masks.append(masks_of(callback))), module=make(), **options
    )
    assert set(watch.budgets) == {BUDGET}
    assert watch.stray == []
    assert [len({int(each[name].sum()) for each in masks}) for name in masks[0]] == [1, 1]
    assert sum(bool(differences(*pair)) for pair in pairwise(masks)) > 1


class WithoutSlope(TinyModule):
    """All gradients are zero."""

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) * 0


@pytest.mark.parametrize("l1", [1e-3, 0.0])
@pytest.mark.parametrize("batches", [1, 2])
def test_the_penalty_counts_once_a_step(batches: int, l1: float) -> None:
    module, seen = WithoutSlope("sgd"), list[Tensor]()
    callback = SparseTrainingCallback(method=DeepRewiring(l1, 0.0), density=1.0, seed=0)
    look = At("on_train_batch_end", lambda *_: seen.append(module.get_parameter("net.0.weight").detach().clone()))
    run = fit(callback, look, module=module, max_epochs=1, accumulate_grad_batches=batches, loader=ShufflingLoader(4))
    before, after = abs(TinyModule().get_parameter("net.0.weight").detach()), abs(seen[-1])
    assert run.global_step == 4 // batches
    torch.testing.assert_close(before - after, torch.full_like(after, run.global_step * 0.1 * l1), atol=1e-7, rtol=0)


@pytest.mark.parametrize("overflows", [True, False])
def test_a_step_that_the_scaler_skips_changes_nothing(overflows: bool) -> None:
    loop = Loop(DeepRewiring(**HOT), 0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4)
    loop.train(2)
    before = everything(loop)
    images, classes = batch(0)
    loop.optimizer.zero_grad()
    scaler.scale(cross_entropy(loop.net(images), classes)).backward()  # type: ignore[no-untyped-call]  # of PyTorch
    loop.net.get_parameter("0.weight").grad[0, 0] *= torch.inf if overflows else 1.0  # type: ignore[index]  # has one
    scaler.unscale_(loop.optimizer)
    loop.driver.gradients_ready(loop.optimizer, Progress(2))
    scaler.step(loop.optimizer)
    scaler.update()
    assert (differences(everything(loop), before) == []) is overflows


def everything(loop: Loop) -> dict[str, Any]:
    return copy.deepcopy(
        {"weights": loop.net.state_dict(), "network": loop.network.state_dict(), "driver": loop.driver.state_dict()}
    )


def resumed_from(state: dict[str, Any], **options: Any) -> Loop:
    loop = Loop(DeepRewiring(**HOT), 0.3, **options)
    loop.net.load_state_dict(state["weights"])
    loop.network.load_state_dict(state["network"])
    loop.driver.load_state_dict(state["driver"])
    return loop


def test_a_plain_loop_resumes_exactly_from_every_step() -> None:
    loop, states = Loop(DeepRewiring(**HOT), 0.3), list[dict[str, Any]]()
    states.append(everything(loop))
    loop.train(6, lambda run: states.append(everything(run)))
    for step, state in enumerate(states):
        resumed = resumed_from(state, seed=9)
        resumed.step = step
        resumed.train(6 - step)
        found = everything(resumed)
        assert differences(found["weights"], states[-1]["weights"]) == []
        assert differences(found["network"]["masks"], states[-1]["network"]["masks"]) == []
        assert differences(found["driver"], states[-1]["driver"]) == []


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda method: pickle.loads(pickle.dumps(method))])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_copy_has_the_same_state(copied: Callable[[Any], Any], steps: int) -> None:
    method = DeepRewiring()
    assert copied(method).state_dict() == method.state_dict() == {"signs": {}}
    Loop(method, 0.3).train(steps)
    assert differences(copied(method).state_dict(), method.state_dict()) == []


def test_the_state_holds_a_bit_per_sign_and_the_random_state() -> None:
    method = Loop(DeepRewiring(), 0.3).method
    state = method.state_dict()
    assert {name: (each.dtype, len(each)) for name, each in state["signs"].items()} == {
        "0.weight": (torch.uint8, 15),
        "2.weight": (torch.uint8, 5),
    }
    assert set(state) == {"signs", "generator"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"signs": None}, "Expected signs of 0.weight, 2.weight and a generator"),
        ({"signs": {}}, "Expected signs of 0.weight, 2.weight and a generator"),
        ({"signs": {"0.weight": 1, "2.weight": 2}}, "Expected signs of 0.weight, 2.weight and a generator"),
        ({"more": 1}, "Expected signs of 0.weight, 2.weight and a generator"),
        ({"signs": dict.fromkeys(("0.weight", "2.weight"), torch.zeros(15).byte())}, "packed mask of 5 bytes"),
        ({"generator": torch.zeros(3).byte()}, "Expected a generator's state"),
        ({"generator": None}, "Expected a generator's state"),
    ],
    ids=str,
)
def test_a_damaged_state_is_refused_and_nothing_is_changed(damage: dict[str, Any], message: str) -> None:
    loop = Loop(DeepRewiring(), 0.3)
    before = copy.deepcopy(loop.method.state_dict())
    with pytest.raises(ValueError, match=message):
        loop.method.load_state_dict({**before, **damage})
    assert differences(loop.method.state_dict(), before) == []
    loop.method.load_state_dict(before)


@pytest.mark.parametrize("own", [True, False])
def test_noise_follows_the_learning_rate_of_the_weights_own_group(own: bool) -> None:
    def make(parameters: Any) -> SGD:
        first, *others = parameters
        return SGD([{"params": [first], "lr": 0.0 if own else 0.1}, {"params": others, "lr": 0.1}])

    loop = Loop(DeepRewiring(**HOT), 0.5, make_optimizer=make)
    before = copy.deepcopy(loop.net.state_dict())
    loop.train(1)
    after = loop.net.state_dict()
    assert torch.equal(after["0.weight"], before["0.weight"]) is own
    assert not torch.equal(after["2.weight"], before["2.weight"])


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_weights_of_zero_stay_zero(frozen: bool) -> None:
    net = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(net.weight).requires_grad_(not frozen)
    network, method = SparseNetwork(net, masks={"weight": torch.tensor([[True, True, False]])}), DeepRewiring()
    method.prepare(network)
    method.begin(network, network.density)
    assert int(net.weight.count_nonzero()) == (0 if frozen else 2)


def test_several_optimizers_rewire_the_weights_that_they_step() -> None:
    net = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4))
    loop = Loop(DeepRewiring(**HOT), 0.5, net, make_optimizer=lambda _: SGD(net[0].parameters(), lr=0.1))
    budget, masks = active(loop.network), loop.network.masks
    loop.train(5)
    assert torch.equal(loop.network.masks["2.weight"], masks["2.weight"])
    other = SGD(net[2].parameters(), lr=0.1)
    loop.network.attach(other)
    for _ in range(5):
        other.step()
    assert not torch.equal(loop.network.masks["2.weight"], masks["2.weight"])
    assert active(loop.network) == budget


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l1": -1e-5}, "Expected a finite L1 coefficient >= 0; got -1e-05"),
        ({"l1": float("inf")}, "Expected a finite L1 coefficient"),
        ({"gradient_noise": float("nan")}, "Expected a finite gradient noise"),
        ({"gradient_noise": "1"}, "Expected a finite gradient noise"),
        ({"temperature": -1.0}, "Expected a finite temperature"),
        ({"temperature": True}, "Expected a finite temperature"),
        ({"temperature": 0.0, "gradient_noise": 0.0}, "Expected one kind of noise"),
    ],
    ids=str,
)
def test_arguments_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepRewiring(**options)


def test_reset_momentum_is_a_truth_value() -> None:
    with pytest.raises(TypeError, match=r"Expected True or False; got 1\. Cure"):
        DeepRewiring(reset_momentum=1)  # type: ignore[arg-type]  # on purpose


def test_the_defaults_are_those_of_the_released_script() -> None:
    method = DeepRewiring()
    assert (method.l1, method.gradient_noise, method.temperature) == (1e-5, 1e-5, None)
