"""The package against the slow and obvious version: every mask, every weight, every count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from slow_sparse_momentum import Array, Layer, Noise, Outcome, update
from torch import Tensor, nn

from lightning_sparse import SparseNetwork
from lightning_sparse.topology import LayerView, Recipe, Rewiring, rewire
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.pruning import PRUNING
from lightning_sparse.topology.redistribution import REDISTRIBUTION

# An update is a few milliseconds of Python loops; the fewer the weights, the more cases.
SHAPES = [(1, 1), (1, 4), (3, 1), (2, 3), (4, 6), (5, 8), (2, 1, 3, 3), (3, 2, 1, 1), (2, 3, 2), (1, 2, 1, 2, 2)]
ACTIVE = ["none", "one", "random", "all but one", "all"]
WEIGHTS = ["integers", "equal", "distinct"]
SIGNALS = ["integers", "zero", "fine", "huge", "zero where active"]


@dataclass(frozen=True)
class Case:
    layers: list[Layer]
    prune_rate: float
    redistribute: str
    grow: str
    min_active: int
    seed: int


def _mask(shape: tuple[int, ...], kind: str, rng: np.random.Generator) -> NDArray[np.bool_]:
    size = int(np.prod(shape))
    active = {"none": 0, "one": 1, "random": int(rng.integers(size + 1)), "all but one": size - 1, "all": size}[kind]
    return rng.permutation(np.arange(size) < active).reshape(shape)


def _weight(mask: NDArray[np.bool_], kind: str, rng: np.random.Generator) -> Array:
    integers = rng.integers(-3, 4, mask.shape)
    distinct = rng.permutation(np.arange(1, mask.size + 1)).reshape(mask.shape) * rng.choice(
        [-0.125, 0.125], mask.shape
    )
    return {"integers": integers, "equal": np.ones(mask.shape), "distinct": distinct}[kind] * mask


def _signal(mask: NDArray[np.bool_], kind: str, rng: np.random.Generator) -> Array:
    # All multiples of 1/16: sums of them are exact in any order, so that rounding can't break a tie.
    integers = rng.integers(-2, 3, mask.shape).astype(np.float64)
    fine = np.round(rng.normal(size=mask.shape) * 16) / 16
    return {
        "integers": integers,
        "zero": np.zeros(mask.shape),
        "fine": fine,
        "huge": fine * 1024,
        "zero where active": fine * ~mask,
    }[kind]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    layers = []
    for shape in draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=6)):
        mask = _mask(shape, draw(st.sampled_from(ACTIVE)), rng)
        momentum, gradient = (_signal(mask, draw(st.sampled_from(SIGNALS)), rng) for _ in range(2))
        layers.append(Layer(_weight(mask, draw(st.sampled_from(WEIGHTS)), rng), mask, momentum, gradient))
    return Case(
        layers,
        prune_rate=draw(st.sampled_from([0.0, 0.2, 0.3, 0.5, 1.0]) | st.floats(0, 1)),
        redistribute=draw(st.sampled_from(["momentum", "momentum", "none"])),
        grow=draw(st.sampled_from(["momentum", "gradient", "random"])),
        min_active=draw(st.sampled_from([1, 1, 0, 2, 5])),
        seed=draw(st.integers(0, 2**32)),
    )


def _noise(generator: torch.Generator) -> Noise:
    return lambda shape: torch.rand(shape, generator=generator).double().numpy()


def _tensor(values: NDArray[np.generic]) -> Tensor:
    tensor = torch.from_numpy(values.copy())
    return tensor if tensor.dtype == torch.bool else tensor.float()


def _by_the_package(case: Case, prune: str) -> Rewiring[Tensor]:
    generator = torch.Generator().manual_seed(case.seed)
    views = [
        LayerView(
            str(i), _tensor(each.weight), _tensor(each.mask), generator, _tensor(each.momentum), _tensor(each.gradient)
        )
        for i, each in enumerate(case.layers)
    ]
    recipe = Recipe(PRUNING[prune], REDISTRIBUTION[case.redistribute], GROWTH[case.grow])
    return rewire(views, recipe, case.prune_rate, min_active=case.min_active)


def _slowly(case: Case, prune: str) -> list[Outcome]:
    noise = _noise(torch.Generator().manual_seed(case.seed))
    return update(case.layers, case.prune_rate, prune, case.redistribute, case.grow, case.min_active, noise)


def assert_same(case: Case, prune: str) -> None:
    got, expected = _by_the_package(case, prune), _slowly(case, prune)
    assert [(c.pruned, c.grown) for c in got.changes] == [(e.pruned, e.grown) for e in expected]
    for i, (layer, outcome) in enumerate(zip(case.layers, expected, strict=True)):
        np.testing.assert_array_equal(got.masks[str(i)].numpy(), outcome.mask)
        np.testing.assert_array_equal(layer.weight * got.survivors[str(i)].numpy(), outcome.weight)


@pytest.mark.parametrize("prune", ["magnitude", "signed_magnitude"])
@settings(max_examples=500, deadline=None)
@given(case=cases())
def test_an_update_agrees_with_the_slow_version_on_every_mask(prune: str, case: Case) -> None:
    assert_same(case, prune)


@pytest.mark.parametrize("unused", [0.0, 0.5, 0.9])
def test_an_update_of_large_layers_agrees_with_the_slow_version(unused: float) -> None:
    rng = np.random.default_rng(0)
    layers = []
    for shape in ((150, 200), (40, 30), (8, 3, 3, 3)):
        mask = rng.random(shape) < 0.1
        # The momentum of unused inputs is exactly zero: thousands of candidates for growth tie.
        momentum = np.round(rng.normal(size=shape) * 64) / 64 * (rng.random(shape) >= unused)
        layers.append(Layer(rng.integers(-20, 21, shape) * mask / 16, mask, momentum, momentum))
    assert_same(Case(layers, 0.5, "momentum", "momentum", min_active=1, seed=0), "magnitude")


@dataclass(frozen=True)
class Training:
    shapes: list[tuple[int, ...]]
    density: float
    min_active: int
    redistribute: str
    grow: str
    keep_regrown: bool
    prune_rates: list[float]
    seed: int


@st.composite
def trainings(draw: st.DrawFn) -> Training:
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=5))
    size, min_active = sum(int(np.prod(shape)) for shape in shapes), draw(st.integers(0, 2))
    least = max(1, sum(min(min_active, int(np.prod(shape))) for shape in shapes))
    return Training(
        shapes,
        density=draw(st.integers(least, size)) / size,
        min_active=min_active,
        redistribute=draw(st.sampled_from(["momentum", "none"])),
        grow=draw(st.sampled_from(["momentum", "gradient", "random"])),
        keep_regrown=draw(st.booleans()),
        prune_rates=draw(st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]), min_size=1, max_size=3)),
        seed=draw(st.integers(0, 2**32)),
    )


def _module(shape: tuple[int, ...]) -> nn.Module:
    outputs, inputs, *kernel = shape
    if not kernel:
        return nn.Linear(inputs, outputs, bias=False)
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(kernel) - 1]
    return convolution(inputs, outputs, tuple(kernel), bias=False)  # type: ignore[arg-type]  # as long as its kind


def _step(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], rng: np.random.Generator) -> None:
    for parameter in parameters:
        parameter.grad = _tensor(np.round(rng.normal(size=tuple(parameter.shape)) * 4) / 4)
    optimizer.step()


def _evidence(
    network: SparseNetwork, optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]
) -> list[Layer]:
    return [
        Layer(
            parameter.detach().double().numpy(),
            network.masks[name].numpy(),
            optimizer.state[parameter]["momentum_buffer"].double().numpy(),
            parameter.grad.double().numpy(),  # type: ignore[union-attr]  # set before every step
        )
        for name, parameter in parameters.items()
    ]


@settings(max_examples=150, deadline=None)
@given(training=trainings())
def test_a_network_in_training_agrees_with_the_slow_version_after_every_update(training: Training) -> None:
    rng = np.random.default_rng(training.seed)
    model = nn.Sequential(*map(_module, training.shapes))
    parameters = dict(model.named_parameters())
    for parameter in parameters.values():
        # Binary fractions with few digits, here and in the learning rate: the optimizer's arithmetic is exact.
        # None is zero: random masks are for dense weights.
        parameter.data = _tensor(rng.integers(-4, 4, tuple(parameter.shape)) + 0.5)
    network = SparseNetwork(model, training.density, min_active=training.min_active, seed=training.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25, momentum=0.5)
    network.attach(optimizer)
    recipe = Recipe(
        PRUNING["magnitude"], REDISTRIBUTION[training.redistribute], GROWTH[training.grow], training.keep_regrown
    )
    for prune_rate in training.prune_rates:
        _step(optimizer, list(parameters.values()), rng)
        noise = _noise(torch.Generator().set_state(network.state_dict()["generator"]))
        before = _evidence(network, optimizer, parameters)
        expected = update(
            before,
            prune_rate,
            "magnitude",
            training.redistribute,
            training.grow,
            training.min_active,
            noise,
            training.keep_regrown,
        )
        changes = network.rewire(recipe, prune_rate)
        assert [(c.pruned, c.grown) for c in changes] == [(e.pruned, e.grown) for e in expected]
        for outcome, (name, parameter) in zip(expected, parameters.items(), strict=True):
            np.testing.assert_array_equal(network.masks[name].numpy(), outcome.mask)
            np.testing.assert_array_equal(parameter.detach().numpy(), outcome.weight)
