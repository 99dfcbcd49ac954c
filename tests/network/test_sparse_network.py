"""SparseNetwork: an exact number of active weights, exact zeros elsewhere, and a state that loses nothing."""

from __future__ import annotations

import copy
import dataclasses
import gc
import io
import re
import weakref
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.state import with_checksum
from lightning_sparse.topology.density import DISTRIBUTIONS
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.layer import LayerView, MissingSignalError, NonFiniteError
from lightning_sparse.topology.packing import pack_mask
from lightning_sparse.topology.pruning import PRUNING
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.recipes import RIGL, SET, SPARSE_MOMENTUM, STATIC
from lightning_sparse.topology.redistribution import REDISTRIBUTION

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda parameters: SGD(parameters, lr=0.1, weight_decay=0.01),
    "nesterov": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda parameters: Adam(parameters, lr=0.05),
    "adamw": lambda parameters: AdamW(parameters, lr=0.05, weight_decay=0.1),
    "nadam": lambda parameters: NAdam(parameters, lr=0.05),
    "radam": lambda parameters: RAdam(parameters, lr=0.05),
    "adamax": lambda parameters: Adamax(parameters, lr=0.05),
    "rmsprop": lambda parameters: RMSprop(parameters, lr=0.05, momentum=0.9),
    "adagrad": lambda parameters: Adagrad(parameters, lr=0.05),
    "lbfgs": lambda parameters: LBFGS(parameters, lr=0.1, max_iter=2),
}


def build(channels: list[int], kernel: int, features: list[int], norm: bool) -> nn.Sequential:
    """Return convolutions, if there are two channel numbers or more, and linear layers after them."""
    modules: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        modules += [nn.Conv2d(inputs, outputs, kernel, padding="same"), *([nn.BatchNorm2d(outputs)] if norm else [])]
        modules.append(nn.Tanh())
    modules += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for inputs, outputs in pairwise([channels[-1], *features]):
        modules += [nn.Linear(inputs, outputs), *([nn.BatchNorm1d(outputs)] if norm else []), nn.Tanh()]
    return nn.Sequential(*modules)


sizes = st.integers(1, 6)
models = st.builds(
    build,
    channels=st.lists(sizes, min_size=1, max_size=3),
    kernel=st.sampled_from([1, 3]),
    features=st.lists(sizes, min_size=1, max_size=3),
    norm=st.booleans(),
)


def small(seed: int = 0) -> nn.Sequential:
    """Return a network of one convolution and two linear layers: 54 + 36 + 24 = 114 weights that can be masked."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build([2, 3], 3, [12, 2], norm=True)


def maskable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return what is to be masked, by a rule of the test's own: weights of two and more dimensions."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.dim() > 1}


def step(model: nn.Module, optimizer: Optimizer) -> None:
    """Take one optimizer step on data that depend on nothing."""
    inputs = torch.linspace(-1, 1, 5 * 16 * next(model.parameters()).shape[1], dtype=next(model.parameters()).dtype)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = (model(inputs.view(5, -1, 4, 4).sin()) - 0.7).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def identical(left: object, right: object) -> bool:
    """Compare nested states bit for bit."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(identical(left[key], right[key]) for key in left)
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    return type(left) is type(right) and left == right


def check_budget(network: SparseNetwork, budget: int, min_active: int) -> None:
    """Recount active weights from the masks and compare with everything that the network says."""
    weights, masks, layers = maskable(network.model), network.masks, network.layers
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    assert sum(counts.values()) == budget
    assert list(masks) == list(layers) == list(weights)
    assert {name: layer.active for name, layer in layers.items()} == counts
    assert all(
        min(min_active, weights[name].numel()) <= count <= weights[name].numel() for name, count in counts.items()
    )
    assert network.density == budget / sum(weight.numel() for weight in weights.values())


def check_zeros(network: SparseNetwork) -> None:
    weights, masks = maskable(network.model), network.masks
    assert not any(torch.count_nonzero(weights[name][~mask]) for name, mask in masks.items())


def check_survivors(network: SparseNetwork, recipe: Recipe, prune_rate: float) -> None:
    """Update the topology; survivors keep their values, everything else is zero."""
    before, old_masks = values(network.model), network.masks
    changes = network.rewire(recipe, prune_rate)
    after, new_masks = values(network.model), network.masks
    assert sum(change.pruned for change in changes) == sum(change.grown for change in changes)
    for change in changes:
        was, now, old, new = (each[change.name] for each in (before, after, old_masks, new_masks))
        lost = old & (now != was)
        assert not now[lost].any()
        assert int(lost.sum()) <= change.pruned
        assert int((old & (now != 0)).sum()) <= change.before - change.pruned
        assert not now[new & ~old].any()
        assert int((new & ~old).sum()) <= change.grown
        assert int(new.sum()) == change.active == change.before - change.pruned + change.grown
    untouched = [name for name in before if name not in new_masks]
    assert all(torch.equal(before[name], after[name]) for name in untouched)


@pytest.mark.parametrize(("prune", "redistribute", "grow"), list(product(PRUNING, REDISTRIBUTION, GROWTH)))
@settings(max_examples=50)
@given(data=st.data())
def test_the_budget_is_met_exactly_at_every_point_of_training(
    data: st.DataObject, prune: str, redistribute: str, grow: str
) -> None:
    model, min_active = data.draw(models), data.draw(st.integers(0, 3))
    numels = [weight.numel() for weight in maskable(model).values()]
    least = sum(min(min_active, numel) for numel in numels) / sum(numels)
    density = data.draw(st.floats(max(least, 1e-6), 1))
    budget = round(density * sum(numels))
    network = SparseNetwork(
        model,
        density,
        distribution=data.draw(st.sampled_from(sorted(DISTRIBUTIONS))),
        min_active=min_active,
        seed=data.draw(st.integers(0, 9)),
    )
    check_budget(network, budget, min_active)
    check_zeros(network)
    stepping = OPTIMIZERS[data.draw(st.sampled_from(["sgd", "nesterov", "adam"]))](model.parameters())
    network.attach(stepping, track_multiplications=True)
    recipe = Recipe(PRUNING[prune], REDISTRIBUTION[redistribute], GROWTH[grow])
    for _ in range(2):
        step(model, stepping)
        check_zeros(network)
        check_survivors(network, recipe, data.draw(st.floats(0, 1)))
        check_budget(network, budget, min_active)
        check_zeros(network)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_inactive_weights_are_exactly_zero_after_every_step(name: str) -> None:
    model = small()
    network, optimizer = SparseNetwork(model, 0.3), OPTIMIZERS[name](model.parameters())
    network.attach(optimizer)
    for _ in range(4):
        before = values(model)
        step(model, optimizer)
        check_zeros(network)
        assert any(not torch.equal(before[key], weight) for key, weight in maskable(model).items())
    assert network.steps == 4


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_attached_optimizer_the_same_steps_revive_inactive_weights(name: str) -> None:
    model = small()
    network, optimizer = SparseNetwork(model, 0.3), OPTIMIZERS[name](model.parameters())
    step(model, optimizer)
    with pytest.raises(AssertionError):
        check_zeros(network)


def test_a_prune_rate_above_zero_moves_weights_and_zero_moves_none() -> None:
    model = small()
    network, optimizer = SparseNetwork(model, 0.3), OPTIMIZERS["nesterov"](model.parameters())
    network.attach(optimizer)
    step(model, optimizer)
    masks, weights = network.masks, values(model)
    network.rewire(SPARSE_MOMENTUM, 0.0)
    assert identical(network.masks, masks)
    assert identical(values(model), weights)
    network.rewire(STATIC, 0.5)
    assert identical(network.masks, masks)
    network.rewire(SPARSE_MOMENTUM, 0.5)
    assert not identical(network.masks, masks)


@settings(max_examples=40)
@given(model=models, data=st.data())
def test_dense_layers_stay_full_and_use_up_budget(model: nn.Sequential, data: st.DataObject) -> None:
    weights = maskable(model)
    numels = {name: weight.numel() for name, weight in weights.items()}
    dense = data.draw(st.lists(st.sampled_from(sorted(weights)), min_size=1, unique=True))
    closed = sum(numels[name] for name in dense)
    least = (closed + len(weights) - len(dense)) / sum(numels.values())
    density = data.draw(st.floats(least, 1))
    network = SparseNetwork(model, density, dense=dense)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    if len(dense) < len(weights):
        network.attach(optimizer)
    step(model, optimizer)
    network.rewire(SET, 0.5)
    check_budget(network, round(density * sum(numels.values())), 1)
    assert {name for name, layer in network.layers.items() if layer.dense} == set(dense)
    assert all(network.layers[name].active == numels[name] for name in dense)
    assert all(bool(network.masks[name].all()) for name in dense)


@settings(max_examples=60)
@given(model=models, min_active=st.integers(1, 4), data=st.data())
def test_an_infeasible_density_names_a_limit_that_is_feasible(
    model: nn.Sequential, min_active: int, data: st.DataObject
) -> None:
    numels = [weight.numel() for weight in maskable(model).values()]
    least = sum(min(min_active, numel) for numel in numels)
    total = data.draw(st.integers(0, least - 1))
    before = values(model)
    with pytest.raises(ValueError, match=r"Expected a density from \S+ to 1") as caught:
        SparseNetwork(model, max(total / sum(numels), 1e-9), min_active=min_active)
    assert identical(values(model), before)
    named = re.search(r"from (\S+) to 1", str(caught.value))
    assert named is not None
    check_budget(SparseNetwork(model, float(named[1]), min_active=min_active), least, min_active)


def test_the_feasible_limit_of_a_large_layer_that_stays_dense_is_not_rounded_down() -> None:
    model = nn.Sequential(nn.Linear(457, 123), nn.Linear(123, 11))
    with pytest.raises(ValueError, match="Expected a density from") as caught:
        SparseNetwork(model, 0.5, dense="0")
    named = re.search(r"from (\S+) to 1", str(caught.value))
    assert named is not None
    assert SparseNetwork(model, float(named[1]), dense="0").layers["1.weight"].active >= 1


@pytest.mark.parametrize("density", [0, -0.1, 1.01, float("nan"), True, "0.5"])
def test_a_density_outside_of_0_to_1_is_refused(density: Any) -> None:
    with pytest.raises(ValueError, match=r"Expected a density in \(0, 1\].*got"):
        SparseNetwork(small(), density)


def test_of_a_mapping_the_first_matching_pattern_gives_the_density() -> None:
    network = SparseNetwork(small(), {"0": 0.5, "Conv2d": 0.1, "*": 0.25})
    assert {name: layer.active for name, layer in network.layers.items()} == {
        "0.weight": 27,
        "5.weight": 9,
        "8.weight": 6,
    }


def trained(
    *, seed: int = 0, optimizer: str = "nesterov", recipe: Recipe | None = SPARSE_MOMENTUM
) -> tuple[SparseNetwork, Optimizer]:
    """Return a network with its optimizer after two steps, an update and one more step."""
    model = small()
    network, stepping = SparseNetwork(model, 0.3, seed=seed), OPTIMIZERS[optimizer](model.parameters())
    network.attach(stepping)
    step(model, stepping)
    step(model, stepping)
    if recipe is not None:
        network.rewire(recipe, 0.5)
        step(model, stepping)
    return network, stepping


def through_a_file(state: object) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("recipe", [SPARSE_MOMENTUM, SET, RIGL], ids=["momentum", "random", "gradient"])
@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam"])
def test_a_network_goes_on_from_a_saved_state_as_if_it_never_stopped(recipe: Recipe, optimizer: str) -> None:
    network, stepping = trained(optimizer=optimizer, recipe=recipe)
    saved = through_a_file(
        {
            "network": network.state_dict(gradients=True),
            "model": network.model.state_dict(),
            "optimizer": stepping.state_dict(),
        }
    )
    resumed, resumed_optimizer = trained(seed=1, optimizer=optimizer, recipe=None)
    resumed.model.load_state_dict(saved["model"])
    resumed_optimizer.load_state_dict(saved["optimizer"])
    resumed.load_state_dict(saved["network"])
    for each, its_optimizer in ((network, stepping), (resumed, resumed_optimizer)):
        each.rewire(recipe, 0.5)
        step(each.model, its_optimizer)
    assert identical(resumed.state_dict(gradients=True), network.state_dict(gradients=True))
    assert identical(values(resumed.model), values(network.model))
    assert resumed.layers == network.layers
    check_zeros(resumed)


def test_the_state_has_what_the_optimizer_lacks_and_no_more() -> None:
    without, _ = trained(optimizer="sgd")
    assert set(without.state_dict()["averages"]) == set(without.masks)
    assert without.state_dict()["gradients"] == {}
    assert set(without.state_dict(gradients=True)["gradients"]) == set(without.masks)
    having, _ = trained(optimizer="nesterov")
    assert having.state_dict()["averages"] == {}
    assert having.state_dict()["steps"] == 3


def test_a_state_is_a_copy() -> None:
    network, stepping = trained(optimizer="sgd")
    state = network.state_dict(gradients=True)
    kept = copy.deepcopy(state)
    step(network.model, stepping)
    network.rewire(SET, 0.5)
    assert identical(state, kept)
    network.load_state_dict(state)
    step(network.model, stepping)
    network.rewire(SET, 0.5)
    assert identical(state, kept)


def test_masks_are_not_read_off_the_weights() -> None:
    network, _ = trained()
    network.rewire(SPARSE_MOMENTUM, 0.5)
    weights, masks = maskable(network.model), network.masks
    assert any(int((weights[name] != 0).sum()) < int(mask.sum()) for name, mask in masks.items())
    saved = through_a_file([network.state_dict(), network.model.state_dict()])
    resumed = SparseNetwork(small(), 0.3, seed=1)
    resumed.model.load_state_dict(saved[1])
    resumed.load_state_dict(saved[0])
    assert identical(resumed.masks, masks)
    check_budget(resumed, round(0.3 * 114), 1)


def test_loading_a_state_zeroes_what_is_inactive_in_it() -> None:
    state = SparseNetwork(small(), 0.3, seed=1).state_dict()
    network = SparseNetwork(small(), 0.3, seed=2)
    network.model.load_state_dict(small().state_dict())
    network.load_state_dict(state)
    check_zeros(network)
    assert int(torch.count_nonzero(maskable(network.model)["0.weight"])) == network.layers["0.weight"].active


def test_a_network_made_from_a_state_leaves_loaded_weights_as_they_are() -> None:
    network, _ = trained(recipe=SET)
    saved = through_a_file([network.state_dict(), network.model.state_dict()])
    model = small()
    model.load_state_dict(saved[1])
    resumed = SparseNetwork(model, 0.3, seed=5, state=saved[0])
    assert identical(values(model), saved[1])
    assert identical(resumed.state_dict(), saved[0])
    assert resumed.layers == network.layers


def test_a_network_is_not_made_from_a_state_of_another_and_leaves_weights_as_they_are() -> None:
    for state, density in (({}, 0.3), (trained()[0].state_dict(), 0.5)):
        model = small()
        with pytest.raises(ValueError, match="Expected"):
            SparseNetwork(model, density, state=state)
        assert identical(values(model), values(small()))


def _flip(packed: Tensor) -> Tensor:
    flipped = packed.clone()
    flipped[0] ^= 1
    return flipped


def _with_mask(state: dict[str, Any], name: str, mask: Tensor) -> dict[str, Any]:
    return {**state, "masks": {**state["masks"], name: mask}}


BROKEN: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "no masks": lambda state: {key: value for key, value in state.items() if key != "masks"},
    "no averages": lambda state: {key: value for key, value in state.items() if key != "averages"},
    "no generator": lambda state: {key: value for key, value in state.items() if key != "generator"},
    "a mask missing": lambda state: {
        **state,
        "masks": {name: mask for name, mask in state["masks"].items() if name != "8.weight"},
    },
    "a layer missing": lambda state: {
        **state,
        "masks": {name: mask for name, mask in state["masks"].items() if name != "8.weight"},
        "shapes": {name: shape for name, shape in state["shapes"].items() if name != "8.weight"},
    },
    "an unknown mask": lambda state: _with_mask(state, "9.weight", torch.zeros(1, dtype=torch.uint8)),
    "an unknown layer": lambda state: {
        **_with_mask(state, "9.weight", torch.zeros(1, dtype=torch.uint8)),
        "shapes": {**state["shapes"], "9.weight": [2, 2]},
    },
    "another shape": lambda state: {**state, "shapes": {**state["shapes"], "8.weight": [12, 2]}},
    "a mask too short": lambda state: _with_mask(state, "8.weight", state["masks"]["8.weight"][:-1]),
    "a mask unpacked": lambda state: _with_mask(state, "8.weight", torch.ones(2, 12, dtype=torch.bool)),
    "a weight too many or too few": lambda state: _with_mask(state, "8.weight", _flip(state["masks"]["8.weight"])),
    "an empty mask": lambda state: _with_mask(state, "8.weight", pack_mask(torch.zeros(2, 12, dtype=torch.bool))),
    "an average of another shape": lambda state: {**state, "averages": {"8.weight": torch.zeros(12, 2)}},
    "an average of an unknown layer": lambda state: {**state, "averages": {"9.weight": torch.zeros(2, 12)}},
    "a gradient of another shape": lambda state: {**state, "gradients": {"8.weight": torch.zeros(12, 2)}},
    "a generator state too short": lambda state: {**state, "generator": state["generator"][:16]},
    "no number of steps": lambda state: {**state, "steps": None},
}


def broken(kind: str, state: dict[str, Any]) -> dict[str, Any]:
    """Return a state that is wrong but not damaged: its checksum fits."""
    content = {key: value for key, value in BROKEN[kind](state).items() if key not in ("version", "checksum")}
    return with_checksum(content)


def _flip_a_bit(values: Tensor) -> Tensor:
    flipped = values.clone()
    flipped.view(torch.uint8).view(-1)[values.numel() // 2] ^= 4
    return flipped


DAMAGED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "a bit of a mask": lambda state: _with_mask(state, "8.weight", _flip_a_bit(state["masks"]["8.weight"])),
    "two bits of a mask": lambda state: _with_mask(state, "8.weight", state["masks"]["8.weight"].flip(0)),
    "a bit of the random state": lambda state: {**state, "generator": _flip_a_bit(state["generator"])},
    "a bit of an average": lambda state: {
        **state,
        "averages": {**state["averages"], "8.weight": _flip_a_bit(state["averages"]["8.weight"])},
    },
    "the number of steps": lambda state: {**state, "steps": state["steps"] + 1},
    "a foreign entry": lambda state: {**state, "extra": 1},
    "the version": lambda state: {**state, "version": 2},
    "no checksum": lambda state: {key: value for key, value in state.items() if key != "checksum"},
    "the checksum": lambda state: {**state, "checksum": "0" * 32},
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_state_is_refused_with_the_cure_and_changes_nothing(kind: str) -> None:
    network, _ = trained(optimizer="sgd")
    state = trained(seed=1, optimizer="sgd")[0].state_dict()
    before, weights = network.state_dict(), values(network.model)
    with pytest.raises(ValueError, match=r"Expected a state .*got.*Cure: "):
        network.load_state_dict(DAMAGED[kind](state))
    assert identical(network.state_dict(), before)
    assert identical(values(network.model), weights)
    network.load_state_dict(state)
    assert identical(network.state_dict(), state)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_state_is_refused_and_changes_nothing(kind: str) -> None:
    network, _ = trained(optimizer="sgd")
    state = broken(kind, trained(seed=1, optimizer="sgd")[0].state_dict())
    before, weights = network.state_dict(), values(network.model)
    with pytest.raises(ValueError, match=r"Expected .*; got .*\. Cure: "):
        network.load_state_dict(state)
    assert identical(network.state_dict(), before)
    assert identical(values(network.model), weights)
    network.load_state_dict(trained(seed=1, optimizer="sgd")[0].state_dict())
    assert not identical(network.state_dict(), before)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no masks", "got none of .*masks"),
        ("a layer missing", "Expected masks of .*8.weight.*Cure: load the state of a run with the same model"),
        ("an unknown layer", "got .*9.weight"),
        ("another shape", r"8.weight \(2, 12\).*got.*8.weight \(12, 2\)"),
        ("an empty mask", r"Expected masks with 34 active weights, this network's budget; got \d+. Cure: give the den"),
        ("an average of an unknown layer", "Expected saved averages of the masked weights.*got '9.weight'"),
    ],
)
def test_a_refused_state_is_named_with_the_cure(kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trained()[0].load_state_dict(broken(kind, trained()[0].state_dict()))


def _drawing(failing: str, error: BaseException) -> Callable[[LayerView], Tensor]:
    """Return random growth that fails at one layer, after it has drawn for the layers before."""

    def rule(layer: LayerView) -> Tensor:
        noise = torch.rand(layer.weight.shape, generator=layer.generator)
        if layer.name == failing:
            raise error
        return noise

    return rule


def _refused(network: SparseNetwork, recipe: Recipe, prune_rate: float, error: type[BaseException]) -> None:
    before, weights = network.state_dict(), values(network.model)
    with pytest.raises(error):
        network.rewire(recipe, prune_rate)
    assert network.state_dict().keys() == before.keys()
    assert identical(network.state_dict(), before)
    after = values(network.model)
    assert all(torch.equal(weights[name].nan_to_num(7), after[name].nan_to_num(7)) for name in weights)


@pytest.mark.parametrize("error", [RuntimeError("from the rule"), KeyboardInterrupt()])
def test_an_error_in_a_rule_changes_nothing_not_even_the_generator(error: BaseException) -> None:
    network, _ = trained()
    grow = _drawing("8.weight", error)
    _refused(network, Recipe(PRUNING["magnitude"], None, grow), 0.5, type(error))
    before = network.state_dict()["generator"]
    network.rewire(Recipe(PRUNING["magnitude"], None, _drawing("no layer", error)), 0.5)
    assert not torch.equal(network.state_dict()["generator"], before)


def test_scores_of_the_wrong_shape_change_nothing() -> None:
    def grow(layer: LayerView) -> Tensor:
        noise = torch.rand(layer.weight.shape, generator=layer.generator)
        return noise.flatten() if layer.name == "8.weight" else noise

    _refused(trained()[0], Recipe(PRUNING["magnitude"], None, grow), 0.5, ValueError)


@pytest.mark.parametrize("name", ["0.weight", "8.weight"])
@pytest.mark.parametrize("recipe", [SPARSE_MOMENTUM, SET], ids=["momentum", "random"])
def test_nan_in_one_weight_changes_nothing(name: str, recipe: Recipe) -> None:
    network, _ = trained()
    with torch.no_grad():
        maskable(network.model)[name][0, 0] = float("nan")
    _refused(network, recipe, 0.5, NonFiniteError)


@pytest.mark.parametrize("name", ["0.weight", "8.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_momentum_that_is_not_finite_changes_nothing(name: str, value: float) -> None:
    network, optimizer = trained()
    optimizer.state[maskable(network.model)[name]]["momentum_buffer"][0, 0] = value
    _refused(network, SPARSE_MOMENTUM, 0.5, NonFiniteError)


def test_missing_momentum_changes_nothing_and_names_layer_and_cure() -> None:
    model = small()
    network = SparseNetwork(model, 0.3)
    network.attach(OPTIMIZERS["nesterov"](model.parameters()))
    _refused(network, SPARSE_MOMENTUM, 0.5, MissingSignalError)
    with pytest.raises(MissingSignalError, match=r"momentum of layer '0.weight'.*got none.*Cure: take an opt"):
        network.rewire(SPARSE_MOMENTUM, 0.5)


@pytest.mark.parametrize("prune_rate", [-0.1, 1.1, float("nan")])
def test_a_prune_rate_outside_of_0_to_1_changes_nothing(prune_rate: float) -> None:
    _refused(trained()[0], SPARSE_MOMENTUM, prune_rate, ValueError)


def test_masks_that_are_handed_out_are_copies() -> None:
    network = SparseNetwork(small(), 0.5, dense="0")
    before = network.masks
    assert {mask.dtype for mask in before.values()} == {torch.bool}
    for mask in network.masks.values():
        mask.logical_not_()
    assert identical(network.masks, before)
    network.enforce()
    check_budget(network, 57, 1)


def test_weights_that_are_loaded_are_masked_at_the_next_enforcement_or_step() -> None:
    network, optimizer = trained()
    for cure in (network.enforce, lambda: step(network.model, optimizer)):
        network.model.load_state_dict(small().state_dict())
        with pytest.raises(AssertionError):
            check_zeros(network)
        cure()
        check_zeros(network)
        check_budget(network, 34, 1)


def test_masks_follow_a_model_to_another_dtype() -> None:
    model = small()
    network = SparseNetwork(model, 0.3)
    masks = network.masks
    model.double()
    network.rewire(SET, 0.0)
    optimizer = OPTIMIZERS["nesterov"](model.parameters())
    network.attach(optimizer)
    step(model, optimizer)
    assert identical(network.masks, masks)
    check_zeros(network)
    check_survivors(network, SPARSE_MOMENTUM, 0.5)
    check_budget(network, 34, 1)
    assert maskable(model)["0.weight"].dtype == torch.float64


def test_memory_format_does_not_matter() -> None:
    plain, last = small(), small().to(memory_format=torch.channels_last)
    masks = []
    for model in (plain, last):
        network, optimizer = SparseNetwork(model, 0.3, seed=0), OPTIMIZERS["nesterov"](model.parameters())
        network.attach(optimizer)
        step(model, optimizer)
        check_survivors(network, SET, 0.5)
        check_zeros(network)
        masks.append(network.masks)
    assert identical(*masks)


def test_the_seed_alone_decides_on_masks_and_random_growth() -> None:
    states = []
    for seed, burnt in ((5, 0), (5, 3), (6, 0)):
        torch.manual_seed(burnt)
        torch.rand(burnt)
        network = SparseNetwork(small(), 0.3, seed=seed)
        network.rewire(SET, 0.5)
        states.append(network.state_dict())
    assert identical(states[0], states[1])
    assert not identical(states[0]["masks"], states[2]["masks"])


def test_by_default_the_seed_is_the_one_given_to_torch_whatever_was_drawn_since() -> None:
    torch.manual_seed(11)
    first = SparseNetwork(small(), 0.3)
    torch.rand(7)
    assert identical(SparseNetwork(small(), 0.3).masks, first.masks)
    assert identical(SparseNetwork(small(), 0.3, seed=11).masks, first.masks)
    torch.manual_seed(12)
    assert not identical(SparseNetwork(small(), 0.3).masks, first.masks)


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    network = SparseNetwork(small(), 0.3)
    network.rewire(SET, 0.5)
    assert torch.equal(torch.get_rng_state(), before)


def test_layers_get_masks_that_differ() -> None:
    masks = SparseNetwork(nn.Sequential(*(nn.Linear(8, 8) for _ in range(3))), 0.5).masks
    assert not torch.equal(masks["0.weight"], masks["1.weight"])
    assert not torch.equal(masks["1.weight"], masks["2.weight"])


def test_the_model_stays_an_ordinary_module() -> None:
    network, _ = trained()
    plain = small(seed=1)
    plain.load_state_dict(network.model.state_dict(), strict=True)
    assert identical(values(plain), values(network.model))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.model.modules())
    assert not any(parameter._backward_hooks for parameter in network.model.parameters())
    assert identical(values(copy.deepcopy(network.model)), values(network.model))


def test_an_optimizer_steps_a_network_if_it_steps_a_masked_weight() -> None:
    model, other = small(), small()
    network, optimizer = SparseNetwork(model, 0.3), OPTIMIZERS["sgd"](model.parameters())
    assert network.is_stepped_by(optimizer)
    assert not network.is_stepped_by(OPTIMIZERS["sgd"](other.parameters()))
    assert not network.is_stepped_by(SGD([parameter for parameter in model.parameters() if parameter.dim() == 1], 0.1))


def test_detaching_ends_enforcement_and_keeps_masks() -> None:
    network, optimizer = trained()
    masks = network.masks
    network.detach()
    step(network.model, optimizer)
    assert identical(network.masks, masks)
    with pytest.raises(AssertionError):
        check_zeros(network)
    assert network.steps == 3
    network.attach(optimizer)
    step(network.model, optimizer)
    check_zeros(network)
    assert network.steps == 4


def test_the_first_mask_is_independent_of_initial_weights_drawn_with_the_same_seed() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(784, 300)
    bound = layer.weight.abs().max()
    SparseNetwork(layer, 0.05, seed=0)
    active = layer.weight[layer.weight != 0] / bound
    # Uniform in [-1, 1]: the mean of 11,760 of them has a standard error of 0.005.
    assert abs(active.mean()) < 0.03
    assert 0.5 < active.std() < 0.65


def test_a_weight_pruned_and_regrown_starts_at_zero_unless_the_recipe_keeps_its_value() -> None:
    everything_returns = Recipe(prune=PRUNING["magnitude"], redistribute=None, grow=lambda layer: layer.mask.float())
    for recipe in (everything_returns, dataclasses.replace(everything_returns, keep_regrown=True)):
        model = nn.Linear(20, 10)
        network = SparseNetwork(model, 0.5)
        before = model.weight.detach().clone()
        network.rewire(recipe, 0.4)
        torch.testing.assert_close(network.masks["weight"], before != 0)
        assert torch.count_nonzero(model.weight) == (100 if recipe.keep_regrown else 60)
        kept = model.weight != 0
        assert torch.equal(model.weight[kept], before[kept])


def test_a_network_made_from_a_state_zeroes_what_the_state_says_is_inactive() -> None:
    state = SparseNetwork(nn.Linear(20, 10), 0.5, seed=1).state_dict()
    loaded, made = nn.Linear(20, 10), nn.Linear(20, 10)
    network = SparseNetwork(loaded, 0.5, seed=2)
    loaded.weight.data.fill_(1.0)
    network.load_state_dict(state)
    made.weight.data.fill_(1.0)
    SparseNetwork(made, 0.5, state=state)
    for model in (loaded, made):
        assert torch.equal(model.weight != 0, network.masks["weight"])
        assert torch.count_nonzero(model.weight) == 100


def test_a_copy_of_the_model_is_given_the_same_zeros_wherever_and_in_whatever_precision_it_is() -> None:
    network = SparseNetwork(small(), density=0.3)
    copied = small(seed=1).double()
    dense = values(copied)
    network.enforce_on(copied)
    for name, parameter in copied.named_parameters():
        expected = dense[name] * network.masks[name] if name in network.masks else dense[name]
        assert torch.equal(parameter, expected)


@pytest.mark.parametrize("other", [build([2, 4], 3, [12, 2], norm=True), nn.Linear(3, 3)], ids=["wider", "another"])
def test_a_model_that_is_no_copy_is_refused_and_left_as_it_is(other: nn.Module) -> None:
    network, before = SparseNetwork(small(), density=0.3), values(other)
    with pytest.raises(ValueError, match=r"Expected a copy of '0.weight'.*Cure: pass a copy of the masked model"):
        network.enforce_on(other)
    assert identical(values(other), before)


def test_networks_have_the_same_fingerprint_as_long_as_masks_and_weights_are_the_same() -> None:
    one, two = SparseNetwork(small(), density=0.3, seed=1), SparseNetwork(small(), density=0.3, seed=1)
    assert torch.equal(one.fingerprint(), two.fingerprint())
    with torch.no_grad():
        next(iter(maskable(two.model).values())).mul_(2)
    assert (one.fingerprint() == two.fingerprint()).tolist() == [True, False]
    assert one.fingerprint()[0] != SparseNetwork(small(), density=0.3, seed=2).fingerprint()[0]


def test_the_fingerprint_depends_on_which_layer_has_which_mask() -> None:
    network = SparseNetwork(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), density=0.5, seed=1)
    before, (first, second) = network.fingerprint()[0], network.masks.values()
    assert not torch.equal(first, second)
    network._masks["0.weight"], network._masks["1.weight"] = second, first
    assert network.fingerprint()[0] != before


def replaced(model: nn.Sequential) -> None:
    model[0].weight = nn.Parameter(model[0].weight.detach().clone())


def renamed(model: nn.Sequential) -> None:
    layer = model.pop(2)
    model.add_module("other", layer)


def extended(model: nn.Sequential) -> None:
    model.append(nn.Linear(3, 3))


def unfrozen(model: nn.Sequential) -> None:
    model[1].weight.requires_grad_()


@pytest.mark.parametrize("change", [replaced, renamed, extended, unfrozen])
@pytest.mark.parametrize("copied", [False, True], ids=["itself", "in a copy"])
def test_a_change_of_the_weights_is_found_after_an_examination_that_found_none(
    change: Callable[[nn.Sequential], None], copied: bool
) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(4, 3))
    model[1].weight.requires_grad_(False)
    network = SparseNetwork(model, 0.5, seed=0)
    network.check_weights()
    network.check_weights()
    network = copy.deepcopy(network) if copied else network
    network.check_weights()
    change(network.model)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"Expected the weights that were masked"):
            network.check_weights()


def test_an_examination_keeps_no_removed_parameter_alive() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5))
    network = SparseNetwork(model, 0.5, seed=0)
    network.check_weights()
    removed = weakref.ref(model[1].weight)
    del model[1]
    gc.collect()
    assert removed() is None
    network.check_weights()
