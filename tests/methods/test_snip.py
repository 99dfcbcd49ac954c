"""SNIP scores the first gradients, prunes once to the exact budget, and leaves that step out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from loops import Loop, active, batch, small_network
from tiny_training import (
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
from lightning_sparse.methods.at_initialization.snip import Snip, connection_sensitivity
from lightning_sparse.network import SparseNetwork
from lightning_sparse.topology import LayerView
from lightning_sparse.topology.layer import MissingSignalError, NonFiniteError, is_shardable, signals_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]

FIRST, LAST = "0.weight", "2.weight"


def view(weight: list[float], gradient: list[float] | None, dtype: torch.dtype = torch.float32) -> LayerView:
    values = torch.tensor([weight], dtype=dtype)
    given = None if gradient is None else torch.tensor([gradient], dtype=dtype)
    return LayerView("layer", values, torch.ones_like(values, dtype=torch.bool), torch.Generator(), gradient=given)


def parameters_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


class TwoOptimizers:
    """The small network, each layer of which has an optimizer of its own."""

    def __init__(self, method: Snip, density: float = 0.25) -> None:
        self.net = small_network()
        self.network = SparseNetwork(self.net, density=method.starting_density(density), seed=0)
        self.driver = MethodDriver(method, self.network, density)
        self.driver.start()
        self.optimizers: list[Optimizer] = [SGD(self.net[index].parameters(), lr=0.1) for index in (0, 2)]
        for optimizer in self.optimizers:
            self.network.attach(optimizer, track_momentum=False)
        self.driver.attach(self.optimizers)

    def step(self, which: int, number: int) -> None:
        """Let one of the optimizers step, when only its weights have gradients."""
        self.net.zero_grad()
        images, classes = batch(number)
        own = [parameter for group in self.optimizers[which].param_groups for parameter in group["params"]]
        found = torch.autograd.grad(cross_entropy(self.net(images), classes), own)
        for parameter, gradient in zip(own, found, strict=True):
            parameter.grad = gradient
        self.driver.gradients_ready(self.optimizers[which], Progress(number, 0, 100))
        self.optimizers[which].step()


def test_the_score_is_the_magnitude_of_weight_times_gradient() -> None:
    assert connection_sensitivity(view([2.0, -3.0, 0.5, 0.0], [-1.0, 0.5, 0.0, 4.0])).tolist() == [[2.0, 1.5, 0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_of_half_precision_do_not_vanish(dtype: torch.dtype) -> None:
    scores = connection_sensitivity(view([1e-4, 2e-4], [1e-4, 1e-4], dtype))
    assert scores.dtype == torch.float32
    assert scores[0, 0] > 0
    assert scores[0, 1] > scores[0, 0]


def test_the_rule_asks_for_gradients_alone_and_works_on_parts() -> None:
    assert signals_of(connection_sensitivity) == frozenset({"gradient"})
    assert is_shardable(connection_sensitivity)
    with pytest.raises(MissingSignalError, match="gradient of layer 'layer'"):
        connection_sensitivity(view([1.0], None))


@pytest.mark.parametrize("density", [0.01, 0.125, 0.3, 0.999, 1.0])
def test_the_first_step_leaves_exactly_the_budget_and_later_steps_keep_its_masks(density: float) -> None:
    loop = Loop(Snip(), density)
    assert active(loop.network) == {FIRST: 120, LAST: 40}
    before = parameters_of(loop.net)
    loop.train(1)
    masks = loop.network.masks
    assert sum(active(loop.network).values()) == round(density * 160) == round(loop.network.density * 160)
    for name, mask in masks.items():
        torch.testing.assert_close(loop.net.get_parameter(name).detach(), before[name] * mask, rtol=0, atol=0)
    loop.train(5)
    assert differences(loop.network.masks, masks) == []
    assert loop.network.count_outside() == {}


@pytest.mark.parametrize("skips", [True, False])
def test_the_scored_step_is_left_out_unless_told_otherwise(skips: bool) -> None:
    loop = Loop(Snip(skip_scored_step=skips), 0.25, make_optimizer=lambda own: SGD(own, lr=0.1, momentum=0.9))
    bias = loop.net.get_parameter("0.bias").detach().clone()
    loop.train(1)
    assert torch.equal(loop.net.get_parameter("0.bias"), bias) is skips
    assert (loop.network.steps == 0) is skips
    assert (len(loop.optimizer.state) == 0) is skips
    loop.train(1)
    assert not torch.equal(loop.net.get_parameter("0.bias"), bias)
    assert loop.network.steps == (1 if skips else 2)


def test_the_same_weights_are_kept_whether_the_step_is_left_out_or_not() -> None:
    loops = [Loop(Snip(skip_scored_step=skips), 0.25) for skips in (True, False)]
    for loop in loops:
        loop.train(1)
    assert differences(loops[0].network.masks, loops[1].network.masks) == []


def test_one_ranking_is_over_the_whole_network() -> None:
    loop = Loop(Snip(), 0.25)
    images, classes = batch(0)
    found = torch.autograd.grad(cross_entropy(loop.net(images), classes), [*loop.network.maskable.values()])
    scores = [(each * own).abs() for each, own in zip(found, loop.network.maskable.values(), strict=True)]
    loop.train(1)
    kept = [score[mask] for score, mask in zip(scores, loop.network.masks.values(), strict=True)]
    dropped = [score[~mask] for score, mask in zip(scores, loop.network.masks.values(), strict=True)]
    assert torch.cat(kept).min() > torch.cat(dropped).max()
    assert active(loop.network) != {FIRST: 30, LAST: 10}


def test_a_density_for_each_pattern_ranks_the_layers_of_each_on_their_own() -> None:
    loop = Loop(Snip(), {FIRST: 0.1, LAST: 0.5})  # type: ignore[arg-type]  # a mapping is a density too
    loop.train(1)
    assert active(loop.network) == {FIRST: 12, LAST: 20}


@pytest.mark.parametrize(("min_active", "kept"), [(0, 0), (1, 1), (3, 3)])
def test_the_minimum_of_the_network_protects_a_layer_from_losing_all_weights(min_active: int, kept: int) -> None:
    first, last = nn.Linear(12, 10), nn.Linear(10, 4)
    with torch.no_grad():
        first.weight.mul_(1e-6)  # as are the products with its gradients
    loop = Loop(Snip(), 0.1, nn.Sequential(first, last), min_active=min_active)
    loop.train(1)
    assert active(loop.network) == {FIRST: kept, "1.weight": 16 - kept}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_any_precision_are_pruned_to_the_exact_budget(dtype: torch.dtype) -> None:
    class Cast(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return values.to(dtype)

    loop = Loop(Snip(), 0.25, nn.Sequential(Cast(), small_network().to(dtype)))
    loop.train(4)
    assert sum(active(loop.network).values()) == 40
    assert loop.network.count_outside() == {}


def test_layers_that_are_to_stay_dense_count_and_frozen_ones_do_not() -> None:
    loop = Loop(Snip(), 0.5, dense=["2"])
    loop.train(1)
    assert active(loop.network) == {FIRST: 40, LAST: 40}
    net = small_network()
    net.get_parameter(LAST).requires_grad = False
    loop = Loop(Snip(), 0.5, net)
    loop.train(1)
    assert active(loop.network) == {FIRST: 60}


@pytest.mark.parametrize("skips", [True, False])
def test_with_several_optimizers_it_prunes_when_all_weights_have_had_gradients(skips: bool) -> None:
    two = TwoOptimizers(Snip(skip_scored_step=skips))
    before = parameters_of(two.net)
    two.step(0, 0)
    two.step(0, 1)
    assert active(two.network) == {FIRST: 120, LAST: 40}
    assert (differences(parameters_of(two.net), before) == []) is skips
    two.step(1, 2)
    assert sum(active(two.network).values()) == 40
    masks = two.network.masks
    two.step(0, 3)
    two.step(1, 4)
    assert differences(two.network.masks, masks) == []
    assert differences(parameters_of(two.net), before) != []


def test_with_several_optimizers_each_weight_is_scored_by_its_first_gradient() -> None:
    two, net = TwoOptimizers(Snip()), small_network()
    for which, number in ((0, 0), (0, 1), (1, 2)):
        two.step(which, number)
    scores = []
    for name, number in ((FIRST, 0), (LAST, 2)):
        images, classes = batch(number)
        weight = net.get_parameter(name)
        scores.append((torch.autograd.grad(cross_entropy(net(images), classes), weight)[0] * weight).abs().flatten())
    limit = torch.cat(scores).sort(descending=True).values[39]
    expected = {name: score >= limit for name, score in zip((FIRST, LAST), scores, strict=True)}
    assert {name: mask.flatten().tolist() for name, mask in two.network.masks.items()} == {
        name: mask.tolist() for name, mask in expected.items()
    }


def test_weights_that_are_frozen_while_another_optimizer_steps_are_pruned_and_stay_so() -> None:
    two = TwoOptimizers(Snip())
    two.step(0, 0)
    two.net.get_parameter(FIRST).requires_grad = False  # as toggle_optimizer does it
    two.step(1, 1)
    assert sum(active(two.network).values()) == 40
    assert [each.requires_grad for each in two.network.maskable.values()] == [False, True]


def test_masks_of_weights_that_are_frozen_from_the_start_stay_and_count() -> None:
    net = small_network()
    net.get_parameter(LAST).requires_grad = False
    masks = {FIRST: torch.ones(10, 12, dtype=torch.bool), LAST: torch.arange(40).view(4, 10) < 15}
    network = SparseNetwork(net, masks=masks)
    driver, optimizer = MethodDriver(Snip(), network, 0.25), SGD(net.parameters(), lr=0.1)
    driver.start()
    network.attach(optimizer, track_momentum=False)
    driver.attach([optimizer])
    images, classes = batch(0)
    cross_entropy(net(images), classes).backward()  # type: ignore[no-untyped-call]  # of some versions
    driver.gradients_ready(optimizer, Progress(0, 0, 100))
    assert active(network) == {FIRST: 25, LAST: 15}
    assert torch.equal(network.masks[LAST], masks[LAST])
    assert not net.get_parameter(LAST).requires_grad


class Unused(nn.Module):
    """A network with a layer that the loss doesn't depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = small_network(), nn.Linear(3, 3)

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.used(values)
        return result


def test_a_weight_that_never_gets_a_gradient_is_an_error_with_a_cure() -> None:
    loop = Loop(Snip(), 0.25, Unused())
    loop.train(99)
    assert loop.network.density == 1
    with pytest.raises(RuntimeError, match=r"gradient of unused\.weight, .* got none in 100 steps.*exclude"):
        loop.train(1)
    loop = Loop(Snip(), 0.25, Unused())
    loop.train(3)
    with pytest.raises(RuntimeError, match=r"unused\.weight, .* got none in the whole run.*exclude"):
        loop.driver.finish()


def test_the_cures_are_ones() -> None:
    loop = Loop(Snip(), 0.25, Unused(), exclude="unused")
    loop.train(3)
    loop.driver.finish()
    assert loop.network.density == 0.25
    frozen = Unused()
    frozen.unused.requires_grad_(False)
    loop = Loop(Snip(), 0.25, frozen)
    loop.train(3)
    loop.driver.finish()
    assert loop.network.density == 0.25


def test_gradients_that_are_not_finite_are_not_used() -> None:
    loops = [Loop(Snip(), 0.25) for _ in range(2)]
    spoiled = loops[0]
    for value in (torch.inf, torch.nan):
        for parameter in spoiled.net.parameters():
            parameter.grad = torch.full_like(parameter, value)
        spoiled.driver.gradients_ready(spoiled.optimizer, Progress(0, 0, 100))  # a gradient scaler skips the step
        assert spoiled.network.density == 1
    for loop in loops:
        loop.train(2)
    assert differences(spoiled.network.masks, loops[1].network.masks) == []
    spoiled.driver.finish()


def test_weights_that_are_not_finite_are_an_error() -> None:
    loop = Loop(Snip(), 0.25)
    with torch.no_grad():
        loop.net.get_parameter(FIRST)[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=FIRST):
        loop.train(1)


def test_a_run_in_which_no_gradient_was_finite_ends_without_an_error() -> None:
    loop = Loop(Snip(), 0.25)
    loop.driver.finish()
    assert loop.network.density == 1


def resumed(source: TwoOptimizers) -> TwoOptimizers:
    """Return a new network and method with the state of another."""
    copy = TwoOptimizers(Snip())
    copy.net.load_state_dict(source.net.state_dict())
    copy.network.load_state_dict(source.network.state_dict())
    copy.driver.load_state_dict(source.driver.state_dict())
    return copy


@pytest.mark.parametrize("at", range(5))
def test_a_run_resumes_exactly_while_scores_are_gathered_and_after(at: int) -> None:
    order = (0, 0, 1, 0, 1)
    whole = TwoOptimizers(Snip())
    interrupted: TwoOptimizers | None = None
    for number, which in enumerate(order):
        if number == at:
            interrupted = resumed(whole)
        for each in [whole] if interrupted is None else [whole, interrupted]:
            each.step(which, number)
    assert interrupted is not None
    assert differences(parameters_of(interrupted.net), parameters_of(whole.net)) == []
    assert differences(interrupted.network.masks, whole.network.masks) == []
    assert differences(interrupted.driver.state_dict(), whole.driver.state_dict()) == []


def test_the_state_of_a_pruned_network_holds_no_scores() -> None:
    two = TwoOptimizers(Snip())
    two.step(0, 0)
    assert set(two.driver.state_dict()["state"]["scores"]) == {FIRST}
    two.step(1, 1)
    assert two.driver.state_dict()["state"] == {"is_pruned": True, "scores": {}, "waited": 1}


OPEN = {"is_pruned": False, "scores": {}, "waited": 0}


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"is_pruned": False, "scores": {}},
        {**OPEN, "more": 1},
        {**OPEN, "is_pruned": None},
        {**OPEN, "waited": -1},
        {**OPEN, "scores": {FIRST: torch.ones(2, 2)}},
        {**OPEN, "scores": {"other": torch.ones(10, 12)}},
        {**OPEN, "scores": {FIRST: 1.0}},
        {**OPEN, "scores": []},
    ],
    ids=["nothing", "a part", "more", "no truth value", "waited", "shape", "name", "number", "list"],
)
def test_a_state_of_something_else_is_refused(state: dict[str, Any]) -> None:
    method = Loop(Snip(), 0.25).method
    with pytest.raises(ValueError, match="the state of a Snip on this network"):
        method.load_state_dict(state)
    method.load_state_dict({"is_pruned": False, "scores": {FIRST: torch.ones(10, 12)}, "waited": 3})


@pytest.mark.parametrize("value", [1, "yes", None])
def test_an_option_that_is_no_truth_value_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="skip_scored_step to be True or False; got"):
        Snip(skip_scored_step=value)


# In Lightning: 80 maskable weights.
BUDGET = 24


def by_lightning(**options: Any) -> SparseTrainingCallback:
    return SparseTrainingCallback(method=Snip(**options), density=0.3)


class Witness:
    """Counts weights after every batch."""

    def __init__(self, callback: SparseTrainingCallback) -> None:
        self.callback = callback
        self.budgets: list[int] = []
        self.stray: list[dict[str, int]] = []
        self.hook = At("on_train_batch_end", self.look)

    def look(self, _: Any, module: nn.Module) -> None:
        self.budgets.append(active_weights(self.callback))
        self.stray.append(stray_weights(self.callback, module))


class Overflowing(TinyModule):
    """The gradients of the first two steps are infinite."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.loss(batch) * (torch.inf if self.global_step < 2 else 1)


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"plugins": "scaled"}], ids=str)
def test_a_trainer_has_the_budget_and_zeros_after_every_step(optimizer: str, options: dict[str, Any]) -> None:
    given = {"plugins": scaled()} if "plugins" in options else options
    callback = by_lightning()
    witness = Witness(callback)
    fit(callback, witness.hook, module=TinyModule(optimizer), **given)
    dense = options.get("accumulate_grad_batches", 1) - 1  # batches before the first step
    assert witness.budgets == [80] * dense + [BUDGET] * (9 - dense)
    assert witness.stray == [{}] * 9


def test_steps_that_a_gradient_scaler_skips_are_not_scored() -> None:
    callback = by_lightning()
    witness = Witness(callback)
    fit(callback, witness.hook, module=Overflowing(), plugins=scaled())
    assert witness.budgets == [80, 80, *[BUDGET] * 7]


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}], ids=str)
def test_a_trainer_resumes_exactly_from_every_checkpoint(tmp_path: Path, options: dict[str, Any]) -> None:
    callback = by_lightning()
    run = fit(callback, *saving_everywhere(tmp_path), module=TinyModule("momentum"), max_epochs=2, **options)
    checkpoints = saved(tmp_path)
    assert len(checkpoints) == run.global_step + 2 * run.current_epoch
    for path in checkpoints.values():
        torch.manual_seed(99)
        again = by_lightning()
        rerun = fit(again, module=TinyModule("momentum"), ckpt_path=path, max_epochs=2, **options)
        assert differences(everything(rerun, again), everything(run, callback)) == []


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


def test_a_trainer_with_two_optimizers_prunes_once_both_had_gradients() -> None:
    callback = by_lightning()
    witness = Witness(callback)
    fit(callback, witness.hook, module=Alternating(), loader=ShufflingLoader(4))
    assert witness.budgets == [80, *[BUDGET] * 11]
    assert witness.stray == [{}] * 12


def test_a_method_that_was_given_serves_several_runs() -> None:
    method = Snip()
    first, second = (SparseTrainingCallback(method=method, density=0.3) for _ in range(2))
    for callback in (first, second):
        fit(callback)
        assert active_weights(callback) == BUDGET
    assert differences(masks_of(first), masks_of(second)) == []


def test_a_second_fit_of_the_same_module_keeps_the_masks() -> None:
    callback, module = by_lightning(), TinyModule()
    fit(callback, module=module)
    masks = masks_of(callback)
    fit(callback, module=module)
    assert differences(masks_of(callback), masks) == []
