"""Top-KAST: the largest weights compute, more are trained, and the sets are chosen again by all of them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import Loop, active, small_network
from tiny_training import At, TinyModule, active_weights, differences, everything, fit, saved, stray_weights
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from witness import Watch, scaled

from lightning_sparse import SparseTrainingCallback
from lightning_sparse.methods import MethodDriver, Progress
from lightning_sparse.methods.throughout.top_kast import (
    TopKast,
    exploration_gradient,
    stepped_theta,
    theta_magnitude,
    trained_set,
)
from lightning_sparse.network import SparseNetwork
from lightning_sparse.topology import LayerView
from lightning_sparse.topology.layer import MissingSignalError, NonFiniteError
from lightning_sparse.topology.select import top_k_mask
from lightning_sparse.validation.errors import InvalidValueError

pytestmark = [
    # The resumed runs save no checkpoints of their own.
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    # Nor is it of interest that they start in the middle of an epoch.
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]

NAMES = ("0.weight", "2.weight")
BUDGET = 32  # of 160 weights, at density 0.2


def theta_of(loop: Loop) -> dict[str, Tensor]:
    return dict(loop.method.state_dict()["theta"])


def trained_of(loop: Loop) -> dict[str, Tensor]:
    """Return the backward sets."""
    return dict(vars(loop.method)["_trained"])


def weights_of(loop: Loop) -> dict[str, Tensor]:
    return {name: loop.net.get_parameter(name).detach().clone() for name in NAMES}


def gradient_of(loop: Loop, name: str) -> Tensor:
    gradient = loop.net.get_parameter(name).grad
    assert gradient is not None
    return gradient


def fast(parameters: Any) -> SGD:
    return SGD(parameters, lr=0.5, momentum=0.9)


# Functions of tensors


@pytest.mark.parametrize(("extra", "count"), [(0.0, 3), (0.04, 3), (0.1, 4), (0.66, 10), (1.0, 10)])
def test_a_backward_set_has_exactly_its_count_and_contains_the_forward_set(extra: float, count: int) -> None:
    theta = torch.linspace(-1, 1, 10)
    forward = torch.zeros(10, dtype=torch.bool)
    forward[[4, 5, 6]] = True  # the smallest: it contains them nevertheless
    trained = trained_set(theta, forward, extra)
    assert int(trained.sum()) == count
    assert (trained & forward).equal(forward)
    largest = theta.abs()[trained & ~forward].min() if count > 3 else torch.tensor(torch.inf)
    assert (theta.abs()[~trained] <= largest).all()


def test_of_equal_values_those_with_the_lowest_index_are_trained() -> None:
    none = torch.zeros(2, 3, dtype=torch.bool)
    assert trained_set(torch.full((2, 3), -0.5), none, 0.5).tolist() == [[True, True, True], [False, False, False]]


@pytest.mark.parametrize(("power", "slopes"), [(1.0, [1.0, -4.0, 0.0, 0.0]), (2.0, [4.0, -4.0, 0.0, 0.0])])
def test_the_penalty_is_steeper_outside_of_the_forward_set(power: float, slopes: list[float]) -> None:
    theta = torch.tensor([2.0, -0.5, 3.0, 0.0])
    forward, trained = torch.tensor([True, False, False, False]), torch.tensor([True, True, False, True])
    assert exploration_gradient(theta, forward, trained, 0.25, power).tolist() == slopes


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_the_penalty_gradient_is_that_of_autograd(power: float) -> None:
    theta = torch.tensor([[2.0, -0.5], [3.0, 1.0]], dtype=torch.float64, requires_grad=True)
    forward = torch.tensor([[True, False], [False, False]])
    trained = torch.tensor([[True, True], [False, True]])
    penalty = (theta.abs() ** power)[forward].sum() + (theta.abs() ** power / 0.25)[trained & ~forward].sum()
    (gradient,) = torch.autograd.grad(penalty, [theta])
    torch.testing.assert_close(exploration_gradient(theta.detach(), forward, trained, 0.25, power), gradient)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_functions_keep_the_dtype(dtype: torch.dtype) -> None:
    theta, mask = torch.tensor([1.0, -2.0, 0.5], dtype=dtype), torch.tensor([False, True, False])
    trained = trained_set(theta, mask, 0.4)
    assert trained.tolist() == [True, True, False]
    assert exploration_gradient(theta, mask, trained, 1 / 3, 2.0).dtype == dtype
    assert stepped_theta(theta, theta, mask, trained).dtype == dtype


def test_a_step_changes_theta_in_the_backward_set_only() -> None:
    theta, parameter = torch.tensor([3.0, 2.0, 1.0, 4.0]), torch.tensor([2.5, -0.5, torch.inf, 0.0])
    forward, trained = torch.tensor([True, False, False, False]), torch.tensor([True, True, False, True])
    assert stepped_theta(theta, parameter, forward, trained).tolist() == [2.5, 1.5, 1.0, 4.0]


def test_weights_are_scored_by_theta_and_not_by_their_values() -> None:
    weight, mask = torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool)
    theta = torch.tensor([[1.0, -2.0], [0.0, 0.5]])
    view = LayerView("w", weight, mask, torch.Generator(), others={"theta": theta})
    assert theta_magnitude(view).equal(theta.abs())
    with pytest.raises(MissingSignalError, match="the theta of layer 'w'"):
        theta_magnitude(LayerView("w", weight, mask, torch.Generator()))


# In a plain loop


@pytest.mark.parametrize("density", [0.05, 0.2, 0.7, 1.0])
def test_a_run_begins_with_the_largest_initial_weights_and_keeps_the_others_as_theta(density: float) -> None:
    initial = {name: each.detach().clone() for name, each in small_network().named_parameters() if name in NAMES}
    loop = Loop(TopKast(), density)
    assert sum(active(loop.network).values()) == round(density * 160)
    assert differences(theta_of(loop), initial) == []
    for name, mask in loop.network.masks.items():
        assert mask.equal(top_k_mask(initial[name].abs(), int(mask.sum())))
        assert weights_of(loop)[name].equal(initial[name] * mask)


@pytest.mark.parametrize("make_optimizer", [fast, lambda p: Adam(p, lr=0.05), lambda p: AdamW(p, 0.05)])
@pytest.mark.parametrize("extra", [0.0, 0.1, 1.0])
def test_budget_zeros_and_sets_are_kept_at_every_step(extra: float, make_optimizer: Any) -> None:
    loop = Loop(TopKast(extra, every_n_steps=3), 0.2, make_optimizer=make_optimizer)
    counts = active(loop.network)
    assert sum(counts.values()) == BUDGET

    def look(loop: Loop) -> None:
        assert active(loop.network) == counts
        assert loop.network.count_outside() == {}
        for name, mask in loop.network.masks.items():
            theta, trained = theta_of(loop)[name], trained_of(loop)[name]
            assert weights_of(loop)[name].equal(torch.where(mask, theta, torch.zeros(())))
            assert int(trained.sum()) == min(mask.numel(), round(counts[name] + extra * mask.numel()))
            assert (mask & ~trained).sum() == 0
            best = top_k_mask(theta.abs(), counts[name])
            assert loop.step % 3 != 0 or mask.equal(best)

    loop.train(20, look)


def test_theta_outside_of_the_backward_set_never_changes() -> None:
    loop = Loop(TopKast(0.1, every_n_steps=50), 0.2, make_optimizer=fast)
    before, trained = theta_of(loop), trained_of(loop)
    loop.train(20)
    after = theta_of(loop)
    for name in NAMES:
        assert after[name][~trained[name]].equal(before[name][~trained[name]])
        forward = loop.network.masks[name]
        for part in (forward, trained[name] & ~forward):
            assert (after[name][part] != before[name][part]).any()


def test_a_weight_that_outgrows_others_takes_a_place_with_its_value() -> None:
    loop = Loop(TopKast(0.3, every_n_steps=2), 0.2, make_optimizer=fast)
    first = loop.network.masks
    loop.train(20)
    entered = {name: mask & ~first[name] for name, mask in loop.network.masks.items()}
    assert sum(int(each.sum()) for each in entered.values()) > 0
    assert all((weights_of(loop)[name][each] != 0).all() for name, each in entered.items())


def test_without_extra_weights_only_those_that_were_never_active_stay_as_they_were() -> None:
    loop = Loop(TopKast(0.0, every_n_steps=1, penalty=0.0), 0.2, make_optimizer=fast)
    initial, ever = theta_of(loop), loop.network.masks

    def look(loop: Loop) -> None:
        for name, mask in loop.network.masks.items():
            ever[name] |= mask

    loop.train(20, look)
    for name, theta in theta_of(loop).items():
        assert theta[~ever[name]].equal(initial[name][~ever[name]])


@pytest.mark.parametrize("every", [1, 4, 100])
def test_sets_are_chosen_again_after_every_so_many_steps(every: int) -> None:
    loop = Loop(TopKast(0.5, every_n_steps=every), 0.2, make_optimizer=fast)
    versions = [loop.network.mask_version]
    loop.train(12, lambda loop: versions.append(loop.network.mask_version))
    changed = [step for step in range(1, 13) if versions[step] != versions[step - 1]]
    assert changed == list(range(every, 13, every))


def test_the_penalty_pulls_backward_sets_to_zero_and_without_it_nothing_does() -> None:
    def largest(penalty: float) -> list[float]:
        loop = Loop(TopKast(0.5, every_n_steps=100, penalty=penalty), 0.2, make_optimizer=lambda p: SGD(p, lr=0.01))
        method, network = loop.method, loop.network
        for name in NAMES:
            loop.net.get_parameter(name).grad = torch.zeros_like(loop.net.get_parameter(name))
        method.gradients_ready(network, NAMES, Progress(0))
        return [float(gradient_of(loop, name).abs().max()) for name in NAMES]

    assert largest(0.0) == [0.0, 0.0]
    assert all(each > 0 for each in largest(1e-2))


def test_gradients_are_those_of_the_loss_and_the_penalty_in_the_backward_set() -> None:
    loop = Loop(TopKast(0.2, penalty=0.1, power=2.0), 0.2)
    for name in NAMES:
        loop.net.get_parameter(name).grad = torch.full_like(loop.net.get_parameter(name), 3.0)
    loop.method.gradients_ready(loop.network, NAMES, Progress(0))
    for name, theta in theta_of(loop).items():
        forward, trained = loop.network.masks[name], trained_of(loop)[name]
        density = int(forward.sum()) / forward.numel()
        expected = 3.0 + 0.1 * 2 * theta * torch.where(forward, 1.0, 1 / density)
        torch.testing.assert_close(gradient_of(loop, name), torch.where(trained, expected, 0.0))


def test_a_gradient_that_is_infinite_outside_of_the_backward_set_does_no_harm() -> None:
    loop = Loop(TopKast(0.0), 0.2)
    gradients = {name: torch.where(loop.network.masks[name], 1.0, torch.nan) for name in NAMES}
    for name in NAMES:
        loop.net.get_parameter(name).grad = gradients[name]
    loop.method.gradients_ready(loop.network, NAMES, Progress(0))
    assert all(torch.isfinite(gradient_of(loop, name)).all() for name in NAMES)


def test_a_layer_without_gradient_stays_as_it_is() -> None:
    net = small_network()
    net.append(nn.Linear(4, 4, bias=False))
    loop = Loop(TopKast(0.2, every_n_steps=2), 0.2, net)
    net.forward = lambda inputs: nn.Sequential(*[*net][:3])(inputs)  # type: ignore[method-assign]  # the last is unused
    before = {"theta": theta_of(loop)["3.weight"], "mask": loop.network.masks["3.weight"]}
    loop.train(5)
    assert net[3].weight.grad is None
    assert differences({"theta": theta_of(loop)["3.weight"], "mask": loop.network.masks["3.weight"]}, before) == []


def test_layers_of_two_optimizers_have_sets_chosen_after_steps_of_their_own() -> None:
    net, method = small_network(), TopKast(0.5, every_n_steps=2)
    network = SparseNetwork(net, density=method.starting_density(0.2), seed=0)
    driver = MethodDriver(method, network, 0.2)
    optimizers = [SGD(net[0].parameters(), lr=0.5), SGD(net[2].parameters(), lr=0.5)]
    driver.start()
    for optimizer in optimizers:
        network.attach(optimizer)
    driver.attach(optimizers)
    trained: dict[str, list[int]] = {name: [] for name in NAMES}
    for step in range(8):
        for optimizer, name in zip(optimizers, NAMES, strict=True):
            if name == "0.weight" or step % 2:  # the second one steps half as often
                net.zero_grad()
                net(torch.randn(16, 12, generator=torch.Generator().manual_seed(step))).square().mean().backward()
                driver.gradients_ready(optimizer, Progress(step))
                optimizer.step()
            trained[name].append(method.state_dict()["steps"][name])
            theta = method.state_dict()["theta"]
            for each, mask in network.masks.items():
                assert net.get_parameter(each).equal(torch.where(mask, theta[each], 0.0))
    assert trained == {"0.weight": [1, 0, 1, 0, 1, 0, 1, 0], "2.weight": [0, 1, 1, 0, 0, 1, 1, 0]}
    assert sum(active(network).values()) == BUDGET
    assert network.count_outside() == {}


def test_densities_of_single_layers_are_met() -> None:
    net, method = small_network(), TopKast()
    densities = {"0": 0.1, "2": 0.5}
    network = SparseNetwork(net, density=method.starting_density(densities))
    MethodDriver(method, network, densities).start()
    assert active(network) == {"0.weight": 12, "2.weight": 20}


@pytest.mark.parametrize("min_active", [0, 1, 8])
def test_a_minimum_of_active_weights_is_kept_and_masks_are_the_largest(min_active: int) -> None:
    loop = Loop(TopKast(0.3, every_n_steps=2), 0.1, make_optimizer=fast, min_active=min_active)
    loop.train(10)
    counts = active(loop.network)
    assert sum(counts.values()) == 16
    assert min(counts.values()) >= min_active
    for name, theta in theta_of(loop).items():
        assert loop.network.masks[name].equal(top_k_mask(theta.abs(), counts[name]))


def test_among_equal_values_the_lowest_index_is_active() -> None:
    net = small_network()
    with torch.no_grad():
        net.get_parameter("0.weight").fill_(0.5)
        net.get_parameter("2.weight").fill_(-0.5)
    loop = Loop(TopKast(), 0.2, net)
    loop.method._choose(loop.network, NAMES)  # type: ignore[attr-defined]  # of Top-KAST
    for mask in loop.network.masks.values():
        count = int(mask.sum())
        assert mask.flatten().tolist() == [True] * count + [False] * (mask.numel() - count)


def test_layers_that_stay_dense_are_trained_as_usual() -> None:
    loop = Loop(TopKast(0.1, every_n_steps=2), 0.5, dense="2", make_optimizer=fast)
    loop.train(6)
    assert active(loop.network) == {"0.weight": 40, "2.weight": 40}
    assert [*theta_of(loop)] == ["0.weight"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_theta_follows_the_weights_when_these_change_their_dtype(dtype: torch.dtype) -> None:
    loop = Loop(TopKast(0.3, every_n_steps=2), 0.2)
    loop.train(3)
    loop.net.to(dtype)
    loop.net.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(dtype),))
    loop.net.register_forward_hook(lambda _, inputs, outputs: outputs.float())
    loop.train(5)
    assert {theta.dtype for theta in theta_of(loop).values()} == {dtype}
    assert sum(active(loop.network).values()) == BUDGET
    assert loop.network.count_outside() == {}


def test_training_that_diverges_is_an_error_that_names_the_layer() -> None:
    loop = Loop(TopKast(0.1, every_n_steps=2), 0.2)
    loop.train(1)
    with torch.no_grad():
        loop.net.get_parameter("0.weight")[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"'0\.weight'"):
        loop.train(1)


def test_a_sparse_network_learns() -> None:
    images = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
    classes, losses = images[:, :4].argmax(1), []
    loop = Loop(TopKast(0.5, every_n_steps=5), 0.3, make_optimizer=lambda p: Adam(p, lr=0.02))
    for step in range(150):
        loop.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(loop.net(images), classes)
        loss.backward()  # type: ignore[no-untyped-call]  # of some versions
        loop.driver.gradients_ready(loop.optimizer, Progress(step))
        loop.optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# Arguments and states


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra": -0.1}, r"extra as a fraction in \[0, 1\]"),
        ({"extra": 1.1}, r"extra as a fraction in \[0, 1\]"),
        ({"extra": "0.1"}, r"extra as a fraction in \[0, 1\]"),
        ({"every_n_steps": 0}, "every_n_steps as a number"),
        ({"every_n_steps": 2.0}, "every_n_steps as a number"),
        ({"every_n_steps": True}, "every_n_steps as a number"),
        ({"penalty": -1e-4}, "penalty as a finite number >= 0"),
        ({"penalty": float("inf")}, "penalty as a finite number >= 0"),
        ({"penalty": float("nan")}, "penalty as a finite number >= 0"),
        ({"power": 0.5}, "power as a finite number >= 1"),
        ({"power": float("inf")}, "power as a finite number >= 1"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        TopKast(**options)


def damaged(state: dict[str, Any], how: str) -> Any:
    changes: dict[str, Any] = {
        "no mapping": None,
        "no theta": {"trained": state["trained"], "steps": state["steps"]},
        "another entry": {**state, "more": {}},
        "theta is a tensor": {**state, "theta": torch.zeros(2)},
        "another layer": {**state, "theta": {"0.weight": state["theta"]["0.weight"]}},
        "another shape": {**state, "theta": {**state["theta"], "0.weight": torch.zeros(2, 2)}},
        "integers": {**state, "theta": {**state["theta"], "0.weight": torch.zeros(10, 12, dtype=torch.int64)}},
        "negative steps": {**state, "steps": {**state["steps"], "0.weight": -1}},
        "no set": {**state, "trained": {**state["trained"], "0.weight": None}},
        "a set of another size": {**state, "trained": {**state["trained"], "0.weight": torch.zeros(3).byte()}},
    }
    return changes[how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no mapping", "theta, backward sets and steps"),
        ("no theta", "theta, backward sets and steps"),
        ("another entry", "theta, backward sets and steps"),
        ("theta is a tensor", "theta, backward sets and steps"),
        ("another layer", r"of 0\.weight, 2\.weight; got theta of 0\.weight, trained of"),
        ("another shape", r"theta of shape \(10, 12\).* for '0\.weight'; got a tensor of shape \(2, 2\)"),
        ("integers", r"theta of shape \(10, 12\)"),
        ("negative steps", "a number of steps >= 0"),
        ("no set", "a packed backward set"),
        ("a set of another size", "a packed mask of 15 bytes"),
    ],
)
def test_a_damaged_state_is_refused_and_nothing_changes(how: str, message: str) -> None:
    loop = Loop(TopKast(), 0.2)
    before = loop.method.state_dict()
    with pytest.raises(InvalidValueError, match=message):
        loop.method.load_state_dict(damaged(loop.method.state_dict(), how))
    assert differences(loop.method.state_dict(), before) == []


def test_a_state_is_a_copy() -> None:
    loop = Loop(TopKast(0.1, every_n_steps=2), 0.2)
    state = loop.method.state_dict()
    kept = copy.deepcopy(state)
    loop.train(5)
    assert differences(state, kept) == []
    other = Loop(TopKast(0.1, every_n_steps=2), 0.2)
    other.method.load_state_dict(state)
    other.train(3)
    assert differences(state, kept) == []


# In a Lightning Trainer


def sparse(every: int = 2, **options: Any) -> SparseTrainingCallback:
    return SparseTrainingCallback(method=TopKast(0.2, every_n_steps=every, penalty=1e-2), density=0.3, **options)


class SavesEverything(At):
    """Saves a checkpoint after every step."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            "on_train_batch_end",
            lambda run, _: run.save_checkpoint(folder / f"{run.global_step:02d}-{run.current_epoch}.ckpt"),
        )


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_run_resumes_exactly_from_every_step(tmp_path: Path, optimizer: str) -> None:
    callback = sparse(every=4)
    run = fit(callback, SavesEverything(tmp_path), module=TinyModule(optimizer))
    expected = everything(run, callback)
    checkpoints = saved(tmp_path)
    assert len(checkpoints) == run.global_step == 9
    wrong = {}
    for moment, path in checkpoints.items():
        torch.manual_seed(99)
        resumed = sparse(every=4)
        rerun = fit(resumed, module=TinyModule(optimizer), ckpt_path=path)
        wrong[moment] = differences(everything(rerun, resumed), expected)
    assert {moment: places for moment, places in wrong.items() if places} == {}


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}], ids=str)
def test_budget_and_zeros_are_kept_in_a_trainer(options: dict[str, Any]) -> None:
    callback = sparse()
    watch = Watch(callback)
    before = {name: each.detach().clone() for name, each in TinyModule().named_parameters()}
    run = fit(callback, watch, **options)
    assert watch.stray == []
    assert set(watch.budgets) == {24}
    assert not run.lightning_module.get_parameter("net.0.weight").equal(before["net.0.weight"])


def test_a_gradient_scaler_changes_nothing_but_steps_that_it_skips() -> None:
    plain, callback = sparse(), sparse()
    fit(plain)
    watch = Watch(callback)
    fit(callback, watch, plugins=scaled())
    assert watch.stray == []
    assert set(watch.budgets) == {24}
    thetas = [each.state_dict()["method"]["state"] for each in (plain, callback)]
    assert thetas[0]["steps"] == thetas[1]["steps"] == {"net.0.weight": 1, "net.3.weight": 1}


class Overflowing(TinyModule):
    """Has gradients that a scaler finds to be infinite in every second step."""

    def loss(self, batch: Any) -> Tensor:
        loss = super().loss(batch)
        return loss * (torch.inf if self.training and self.trainer.fit_loop.total_batch_idx % 2 else 1.0)


def test_skipped_steps_leave_theta_and_its_clock_as_they_were() -> None:
    callback, seen = sparse(every=3), []

    def look(run: Any, _: Any) -> None:
        seen.append(copy.deepcopy(callback.state_dict()["method"]["state"]))

    fit(callback, At("on_train_batch_end", look), module=Overflowing(), plugins=scaled(), max_epochs=2)
    assert [each["steps"]["net.0.weight"] for each in seen] == [1, 1, 2, 2, 0, 0]
    for taken, skipped in ((0, 1), (2, 3), (4, 5)):
        assert differences(seen[taken], seen[skipped]) == []


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_other_precisions_keep_budget_and_zeros(precision: str) -> None:
    callback = sparse()
    run = fit(callback, precision=precision)
    assert active_weights(callback) == 24
    assert stray_weights(callback, run.lightning_module) == {}


def test_a_second_fit_continues_with_theta() -> None:
    callback, module = sparse(every=4), TinyModule()
    fit(callback, module=module, max_epochs=1)
    before = callback.state_dict()["method"]["state"]
    assert before["steps"]["net.0.weight"] == 3
    fit(callback, module=module, max_epochs=1, limit_train_batches=1)
    after = callback.state_dict()["method"]["state"]
    assert after["steps"]["net.0.weight"] == 0
    outside = ~(vars(callback)["_calls"]._driver.method._trained["net.0.weight"])
    unchanged = before["theta"]["net.0.weight"] == after["theta"]["net.0.weight"]
    assert unchanged[outside].any()


def test_masks_that_are_taken_over_are_those_of_the_start() -> None:
    masks = {"net.0.weight": torch.zeros(8, 6, dtype=torch.bool), "net.3.weight": torch.ones(4, 8, dtype=torch.bool)}
    masks["net.0.weight"][:, 0] = True
    seen: list[dict[str, Tensor]] = []
    callback = SparseTrainingCallback(method=TopKast(0.2, every_n_steps=100), masks_from=masks)
    fit(callback, At("on_train_batch_start", lambda *_: seen.append(callback.network.masks)))
    assert differences(seen[0], masks) == []
    assert active_weights(callback) == 8 + 32


def test_copies_of_a_callback_in_training_and_after_it_have_its_state() -> None:
    callback = sparse()
    copies: list[Any] = []
    look = At("on_train_batch_end", lambda *_: copies.append((copy.deepcopy(callback), callback.state_dict())))
    fit(callback, look, max_epochs=1)
    copies.append((pickle.loads(pickle.dumps(callback)), callback.state_dict()))
    assert [differences(copied.state_dict(), state) for copied, state in copies] == [[]] * 4


def test_the_method_of_the_user_is_not_changed() -> None:
    method = TopKast(0.2, every_n_steps=2)
    before = copy.deepcopy(vars(method))
    fit(SparseTrainingCallback(method=method, density=0.3))
    assert vars(method) == before
