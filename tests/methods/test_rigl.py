"""RigL moves the published number of weights at the published steps, and leaves those steps out."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import Loop, active, batch, small_network
from tiny_training import (
    OPTIMIZERS,
    At,
    Batch,
    ManualModule,
    ShufflingLoader,
    TinyModule,
    active_weights,
    differences,
    everything,
    fit,
    masks_of,
    saved,
    saving_everywhere,
    stray_weights,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, Optimizer
from witness import scaled

from lightning_sparse import SparseTrainingCallback
from lightning_sparse.methods import MethodDriver, Progress
from lightning_sparse.methods.throughout.rigl import RigL, number_to_move
from lightning_sparse.network import SparseNetwork
from lightning_sparse.topology.layer import NonFiniteError

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]

FIRST, LAST = "0.weight", "2.weight"


def momentum(parameters: Any) -> Optimizer:
    return SGD(parameters, lr=0.1, momentum=0.9)


def moves(loop: Loop, steps: int) -> list[dict[str, int]]:
    """Train, and return how many weights each step made active that were not before."""
    found, before = [], [loop.network.masks]

    def look(each: Loop) -> None:
        masks = each.network.masks
        found.append({name: int((mask & ~before[0][name]).sum()) for name, mask in masks.items()})
        before[0] = masks

    loop.train(steps, look)
    return found


def one_layer(weights: list[float], mask: list[bool], **options: Any) -> Loop:
    """Return a network of one layer with one output."""
    net = nn.Linear(len(weights), 1, bias=False)
    loop = Loop(RigL(**options), 0.5, net, make_optimizer=momentum)
    loop.network.set_masks({"weight": torch.tensor([mask])})
    with torch.no_grad():
        net.weight.copy_(torch.tensor([weights]))
    return loop


def step(loop: Loop, gradient: list[float], number: int = 0) -> None:
    """Take a step with a gradient."""
    weight = loop.net.get_parameter("weight")
    weight.grad = torch.tensor([gradient], dtype=weight.dtype)
    loop.driver.gradients_ready(loop.optimizer, Progress(number, 0, loop.total))
    loop.optimizer.step()


def weights_of(loop: Loop) -> list[float]:
    values: list[float] = loop.net.get_parameter("weight")[0].tolist()
    return values


def mask_of(loop: Loop) -> list[bool]:
    mask: list[bool] = loop.network.masks["weight"][0].tolist()
    return mask


@pytest.mark.parametrize(
    ("active_weights", "rate", "at", "expected"),
    [
        (100, 0.3, 0, 30),  # f = 0.3
        (100, 0.3, 250, 22),  # f = 0.15 * 1.5 = 0.225
        (100, 0.3, 375, 15),
        (100, 0.3, 500, 7),  # f = 0.15 * 0.5 = 0.075
        (100, 0.3, 750, 0),
        (99, 0.3, 0, 29),  # of 29.7
        (11, 0.5, 0, 5),  # of 5.5, where round() has 6
        (3, 0.3, 0, 0),  # of 0.9, where round() has 1
        (7, 1.0, 0, 7),
        (7, 0.0, 0, 0),
        (0, 0.3, 0, 0),
    ],
)
def test_the_number_that_moves_is_the_published_one_rounded_down(
    active_weights: int, rate: float, at: int, expected: int
) -> None:
    assert number_to_move(active_weights, rate, at, 750) == expected


def test_each_layer_moves_its_own_fraction_rounded_down() -> None:
    loop = Loop(RigL(prune_rate=0.5, every_n_steps=2, until=100), 0.3)
    counts = active(loop.network)
    assert counts == {FIRST: 36, LAST: 12}
    before = {name: loop.net.get_parameter(name).detach().abs() for name in counts}
    masks = loop.network.masks
    loop.train(1)
    for name, count in counts.items():
        lowest = before[name][masks[name]].sort().values[: count // 2]
        kept = loop.network.masks[name] & masks[name]
        # What was dropped and not grown again is among the lowest half.
        assert set(before[name][masks[name] & ~kept].tolist()) <= set(lowest.tolist())
    assert active(loop.network) == counts


def test_updates_are_in_the_first_step_and_after_every_n_steps_that_train() -> None:
    loop = Loop(RigL(every_n_steps=3, until=1.0, prune_rate=1.0), 0.3, total=40)
    found = moves(loop, 20)
    updates = [number for number, each in enumerate(found) if any(each.values())]
    assert updates == [0, 4, 8, 12, 16]  # batches, of which updates use one each
    assert loop.network.steps == 15


@pytest.mark.parametrize(
    ("until", "updates"), [(0.25, [0, 3, 6, 9]), (8, [0, 3, 6, 9]), (7, [0, 3, 6, 9]), (6, [0, 3, 6])]
)
def test_updates_end_before_a_step_or_a_fraction_of_the_run(until: int | float, updates: list[int]) -> None:
    loop = Loop(RigL(every_n_steps=2, until=until, prune_rate=1.0), 0.3, total=32)
    skipped: list[int] = []
    loop.train(20, lambda each: skipped.append(each.step - 1) if each.method.skip_step else None)
    assert skipped == updates


def test_at_the_end_nothing_moves_and_no_step_is_left_out() -> None:
    loop = Loop(RigL(every_n_steps=1, until=3), 0.3, total=32)
    masks: list[dict[str, Tensor]] = []
    loop.train(12, lambda each: masks.append(each.network.masks))
    assert loop.network.steps == 9  # three updates, at 0, 1 and 2
    assert all(differences(each, masks[5]) == [] for each in masks[5:])


@pytest.mark.parametrize("prune_rate", [0.3, 0.0])
def test_a_step_with_an_update_changes_no_weight_that_stays(prune_rate: float) -> None:
    loop = Loop(RigL(every_n_steps=4, prune_rate=prune_rate), 0.3, make_optimizer=momentum)
    loop.train(5)
    before = {name: parameter.detach().clone() for name, parameter in loop.net.named_parameters()}
    buffers = [loop.optimizer.state[each]["momentum_buffer"].clone() for each in loop.net.parameters()]
    masks = loop.network.masks
    loop.train(1)
    assert loop.method.skip_step
    after = loop.network.masks
    assert (differences(after, masks) == []) is (prune_rate == 0)
    for (name, parameter), buffer in zip(loop.net.named_parameters(), buffers, strict=True):
        stays = masks.get(name, torch.tensor(True)) & after.get(name, torch.tensor(True))
        torch.testing.assert_close(parameter.detach(), before[name] * stays, rtol=0, atol=0)
        grown = after.get(name, torch.tensor(True)) & ~masks.get(name, torch.tensor(True))
        now = loop.optimizer.state[parameter]["momentum_buffer"]
        torch.testing.assert_close(now, buffer.masked_fill(grown, 0), rtol=0, atol=0)


def test_the_smallest_weights_are_dropped_and_the_largest_gradients_grown() -> None:
    loop = one_layer([3.0, -0.5, 2.0, -1.0, 0.0, 0.0], [True] * 4 + [False] * 2, prune_rate=0.5)
    step(loop, [9.0, 0.0, 9.0, 0.1, -2.0, 1.0])
    assert mask_of(loop) == [True, False, True, False, True, True]
    assert weights_of(loop) == [3.0, 0.0, 2.0, 0.0, 0.0, 0.0]


def test_a_weight_that_is_dropped_and_grown_at_once_keeps_its_value_and_momentum() -> None:
    loop = one_layer([3.0, -0.5, 2.0, -1.0, 0.0, 0.0], [True] * 4 + [False] * 2, prune_rate=0.5)
    loop.optimizer.state[loop.net.get_parameter("weight")]["momentum_buffer"] = torch.arange(1.0, 7.0).view(1, 6)
    step(loop, [0.0, 5.0, 0.0, 1.0, -2.0, 0.5])
    assert mask_of(loop) == [True, True, True, False, True, False]
    assert weights_of(loop) == [3.0, -0.5, 2.0, 0.0, 0.0, 0.0]
    buffer = loop.optimizer.state[loop.net.get_parameter("weight")]["momentum_buffer"]
    assert buffer.tolist() == [[1.0, 2.0, 3.0, 4.0, 0.0, 6.0]]


def test_of_equal_weights_and_gradients_the_lower_index_stays_or_is_grown() -> None:
    loop = one_layer([1.0, -1.0, 1.0, 0.0, 0.0], [True] * 3 + [False] * 2, prune_rate=0.7)
    step(loop, [0.0, 0.0, 1.0, -1.0, 1.0])
    assert mask_of(loop) == [True, False, True, True, False]
    assert weights_of(loop) == [1.0, 0.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "rmsprop"])
def test_what_the_optimizer_keeps_of_new_weights_is_zero_and_of_others_as_it_was(optimizer: str) -> None:
    loop = Loop(RigL(every_n_steps=3, prune_rate=0.5), 0.3, make_optimizer=OPTIMIZERS[optimizer])
    loop.train(4)
    before = loop.network.masks
    weights = loop.network.maskable
    old = {
        name: {key: torch.clone(each) for key, each in loop.optimizer.state[own].items()}
        for name, own in weights.items()
    }
    loop.train(1)
    cleared = 0
    for name, weight in weights.items():
        grown = loop.network.masks[name] & ~before[name]
        for key, value in loop.optimizer.state[weight].items():
            expected = old[name][key].masked_fill(grown, 0) if value.shape == weight.shape else old[name][key]
            torch.testing.assert_close(value, expected, rtol=0, atol=0)
            cleared += int(grown.sum()) if value.shape == weight.shape else 0
    assert cleared > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_any_precision_keep_the_exact_budget(dtype: torch.dtype) -> None:
    class Cast(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return values.to(dtype)

    loop = Loop(RigL(every_n_steps=2, prune_rate=0.5), 0.3, nn.Sequential(Cast(), small_network().to(dtype)))
    counts = active(loop.network)
    found = moves(loop, 12)
    assert sum(sum(each.values()) for each in found) > 0
    assert active(loop.network) == counts
    assert loop.network.count_outside() == {}


class TwoOptimizers:
    """The small network, each layer of which has an optimizer of its own."""

    def __init__(self, method: RigL) -> None:
        self.net = small_network()
        self.network = SparseNetwork(self.net, density=0.3, seed=0)
        self.driver = MethodDriver(method, self.network, 0.3)
        self.driver.start()
        self.optimizers: list[Optimizer] = [momentum(self.net[index].parameters()) for index in (0, 2)]
        for optimizer in self.optimizers:
            self.network.attach(optimizer, track_momentum=False)
        self.driver.attach(self.optimizers)

    def step(self, which: int, number: int) -> set[str]:
        """Let one of the optimizers step, when all weights have gradients; return what was updated."""
        images, classes = batch(number)
        self.net.zero_grad()
        cross_entropy(self.net(images), classes).backward()  # type: ignore[no-untyped-call]  # of some versions
        before = self.network.masks
        self.driver.gradients_ready(self.optimizers[which], Progress(number, 0, 100))
        self.optimizers[which].step()
        return {name for name, mask in self.network.masks.items() if not torch.equal(mask, before[name])}


def test_only_layers_of_the_optimizer_whose_gradients_are_ready_are_updated_each_by_its_own_steps() -> None:
    two = TwoOptimizers(RigL(every_n_steps=2, prune_rate=0.5))
    order = [0, 0, 0, 1, 0, 1, 1, 1]
    found = [two.step(which, number) for number, which in enumerate(order)]
    updated = [{FIRST}, set(), set(), {LAST}, {FIRST}, set(), set(), {LAST}]
    assert found == updated
    assert active(two.network) == {FIRST: 36, LAST: 12}


def test_a_weight_without_a_gradient_stays_as_it_is() -> None:
    loop = Loop(RigL(prune_rate=0.5), 0.3)
    masks = loop.network.masks
    images, classes = batch(0)
    cross_entropy(loop.net(images), classes).backward()  # type: ignore[no-untyped-call]  # of some versions
    loop.net.get_parameter(LAST).grad = None
    loop.driver.gradients_ready(loop.optimizer, Progress(0, 0, 100))
    assert torch.equal(loop.network.masks[LAST], masks[LAST])
    assert not torch.equal(loop.network.masks[FIRST], masks[FIRST])


def test_an_update_waits_until_gradients_are_finite() -> None:
    loops = [Loop(RigL(prune_rate=0.5), 0.3) for _ in range(2)]
    spoiled = loops[0]
    for value in (torch.inf, torch.nan):
        for parameter in spoiled.net.parameters():
            parameter.grad = torch.full_like(parameter, value)
        spoiled.driver.gradients_ready(spoiled.optimizer, Progress(0, 0, 100))  # a gradient scaler skips the step
        assert not spoiled.method.skip_step
    for loop in loops:
        assert sum(moves(loop, 1)[0].values()) > 0
    assert differences(spoiled.network.masks, loops[1].network.masks) == []


def test_weights_that_are_not_finite_are_an_error() -> None:
    loop = Loop(RigL(), 0.3)
    with torch.no_grad():
        loop.net.get_parameter(FIRST)[loop.network.masks[FIRST]] = torch.nan
    with pytest.raises(NonFiniteError, match=FIRST):
        loop.train(1)


def test_a_fraction_of_a_run_without_an_end_is_an_error_and_a_number_of_steps_is_none() -> None:
    with pytest.raises(ValueError, match="a run of known length"):
        Loop(RigL(), 0.3, total=float("inf")).train(1)  # type: ignore[arg-type]  # as the length of an endless run
    Loop(RigL(until=75), 0.3, total=float("inf")).train(1)  # type: ignore[arg-type]  # the same


def test_a_new_run_of_the_same_network_counts_from_zero() -> None:
    loop = Loop(RigL(every_n_steps=5, prune_rate=0.5), 0.3)
    loop.train(3)
    loop.step = 0
    assert [sum(each.values()) > 0 for each in moves(loop, 7)] == [True, *[False] * 5, True]


def test_a_run_that_continues_counts_on() -> None:
    loop = Loop(RigL(every_n_steps=5, prune_rate=0.5), 0.3)
    loop.train(3)
    assert [sum(each.values()) > 0 for each in moves(loop, 7)] == [False, False, False, True, *[False] * 3]


def resumed(loop: Loop, make: Callable[[], Loop]) -> Loop:
    """Return a new loop with the state of another."""
    copy = make()
    copy.net.load_state_dict(loop.net.state_dict())
    copy.network.load_state_dict(loop.network.state_dict())
    copy.optimizer.load_state_dict(deepcopy(loop.optimizer.state_dict()))  # else they share momentum
    copy.driver.load_state_dict(loop.driver.state_dict())
    copy.step = loop.step
    return copy


@pytest.mark.parametrize("at", range(12))
def test_a_run_resumes_exactly_after_every_step(at: int) -> None:
    def make() -> Loop:
        return Loop(RigL(every_n_steps=3, prune_rate=0.5), 0.3, total=14, make_optimizer=momentum)

    whole = make()
    whole.train(at)
    copy = resumed(whole, make)
    for loop in (whole, copy):
        loop.train(12 - at)
    assert differences(copy.net.state_dict(), whole.net.state_dict()) == []
    assert differences(copy.network.masks, whole.network.masks) == []
    assert differences(copy.driver.state_dict(), whole.driver.state_dict()) == []


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"steps": {}, "updated": {}},
        {"steps": {}, "updated": {}, "position": 0, "more": 1},
        {"steps": {FIRST: -1}, "updated": {}, "position": 0},
        {"steps": {FIRST: 1.5}, "updated": {}, "position": 0},
        {"steps": {}, "updated": {1: 1}, "position": 0},
        {"steps": [], "updated": {}, "position": 0},
        {"steps": {}, "updated": {}, "position": -1},
    ],
    ids=str,
)
def test_a_state_of_something_else_is_refused(state: dict[str, Any]) -> None:
    method = RigL()
    with pytest.raises(ValueError, match="the state of a RigL"):
        method.load_state_dict(state)
    method.load_state_dict({"steps": {FIRST: 3}, "updated": {FIRST: 0}, "position": 4})
    assert method.state_dict() == {"steps": {FIRST: 3}, "updated": {FIRST: 0}, "position": 4}


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "100"])
def test_a_period_that_is_no_number_of_steps_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="a number every_n_steps of at least 1; got"):
        RigL(every_n_steps=value)


@pytest.mark.parametrize("value", [0, 0.0, -0.5, 1.5, float("nan"), True, "0.75"])
def test_an_end_that_is_no_step_and_no_fraction_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="an end of updates: a number of steps"):
        RigL(until=value)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), True, "0.3"])
def test_a_prune_rate_out_of_range_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"a prune_rate in \[0, 1\]"):
        RigL(prune_rate=value)


# In Lightning: 80 maskable weights, nine steps.
BUDGET = 24


def by_lightning(**options: Any) -> SparseTrainingCallback:
    return SparseTrainingCallback(method=RigL(**{"every_n_steps": 2, "prune_rate": 0.5, **options}), density=0.3)


class Witness:
    """Counts weights after every batch."""

    def __init__(self, callback: SparseTrainingCallback) -> None:
        self.callback = callback
        self.budgets: list[int] = []
        self.stray: list[dict[str, int]] = []
        self.masks: list[dict[str, Tensor]] = []
        self.hook = At("on_train_batch_end", self.look)

    def look(self, _: Any, module: nn.Module) -> None:
        self.budgets.append(active_weights(self.callback))
        self.stray.append(stray_weights(self.callback, module))
        self.masks.append(masks_of(self.callback))

    def changes(self) -> list[int]:
        """Return the numbers of the batches that changed masks; the very first, number 0, left out."""
        pairs = enumerate(zip(self.masks[1:], self.masks, strict=False), start=1)
        return [number for number, (later, earlier) in pairs if differences(later, earlier)]


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"plugins": "scaled"}], ids=str)
def test_a_trainer_has_the_budget_and_zeros_after_every_step(optimizer: str, options: dict[str, Any]) -> None:
    given = {"plugins": scaled()} if "plugins" in options else options
    callback = by_lightning(until=1.0)
    witness = Witness(callback)
    fit(callback, witness.hook, module=TinyModule(optimizer), **given)
    assert set(witness.budgets) == {BUDGET}
    assert witness.stray == [{}] * 9
    # Each third step is an update. If batches 2, 3, 5, 6, ... end one, these are batches 2 and 6, one less from 0 on.
    assert witness.changes() == ([1, 5] if "accumulate_grad_batches" in options else [3, 6])


class Overflowing(TinyModule):
    """The gradients of the first two steps are infinite."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.loss(batch) * (torch.inf if self.global_step < 2 else 1)


def test_steps_that_a_gradient_scaler_skips_do_not_count_and_put_updates_off() -> None:
    callback = by_lightning(until=1.0)
    witness = Witness(callback)
    fit(callback, witness.hook, module=Overflowing(), plugins=scaled())
    assert witness.changes() == [2, 5, 8]
    assert callback.network.steps == 4


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}], ids=str)
def test_a_trainer_resumes_exactly_from_every_checkpoint(
    tmp_path: Path, optimizer: str, options: dict[str, Any]
) -> None:
    callback = by_lightning()
    run = fit(callback, *saving_everywhere(tmp_path), module=TinyModule(optimizer), **options)
    checkpoints = saved(tmp_path)
    assert len(checkpoints) == run.global_step + 2 * run.current_epoch
    for path in checkpoints.values():
        torch.manual_seed(99)
        again = by_lightning()
        rerun = fit(again, module=TinyModule(optimizer), ckpt_path=path, **options)
        assert differences(everything(rerun, again), everything(run, callback)) == []


def test_a_second_fit_of_the_same_module_updates_again() -> None:
    callback, module = by_lightning(), TinyModule()
    first, second = Witness(callback), Witness(callback)
    for witness in (first, second):
        fit(callback, witness.hook, module=module)
        assert witness.changes() == [3, 6]
    assert differences(second.masks[0], first.masks[-1]) != []


class Alternating(ManualModule):
    """Two optimizers that step in turn."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer = tuple(self.optimizers())[batch_idx % 2]  # there are two
        self.toggle_optimizer(optimizer)
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()
        self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> list[Optimizer]:
        return [SGD(self.net[0].parameters(), lr=0.1, momentum=0.9), Adam(self.net[3].parameters(), lr=0.05)]


def test_a_trainer_with_two_optimizers_updates_the_layers_of_each_in_its_own_steps() -> None:
    callback = by_lightning(until=50)
    witness = Witness(callback)
    fit(callback, witness.hook, module=Alternating(), loader=ShufflingLoader(4))
    assert set(witness.budgets) == {BUDGET}
    assert witness.stray == [{}] * 12
    found = {
        number: [name for name in later if not torch.equal(later[name], earlier[name])]
        for number, (later, earlier) in enumerate(zip(witness.masks[1:], witness.masks, strict=False), start=1)
    }
    updated = {number: names for number, names in found.items() if names}
    assert updated == {1: ["net.3.weight"], 6: ["net.0.weight"], 7: ["net.3.weight"]}
