"""Deep rewiring: signs that stay, connections that are replaced in the step in which they cross zero."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from math import sqrt
from typing import Any

import pytest
import torch
from loops import Loop, active
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from lightning_sparse.methods import MethodDriver, Progress
from lightning_sparse.methods.throughout.deep_rewiring import (
    DeepRewiring,
    count_crossed,
    first_signs,
    first_value,
    has_crossed,
    noise_deviation,
    theta,
)
from lightning_sparse.network import SparseNetwork
from lightning_sparse.testing.equality import differences
from lightning_sparse.topology import LayerView, MissingSignalError, NonFiniteError
from lightning_sparse.topology.packing import unpack_mask

QUIET: dict[str, Any] = {"l1": 0.0, "gradient_noise": 0.0}
ROW = [0.5, -0.25, 0.125, 0.0, 0.0, 0.0, 0.0, 0.0]
START = torch.tensor(1e-12).item()  # in single precision
PLAIN = partial(SGD, lr=1.0)
# Hot enough that connections cross zero in most steps.
HOT: dict[str, Any] = {"temperature": 0.05}


class OneLayer:
    """One layer of one output, whose gradients a test chooses."""

    def __init__(
        self,
        method: DeepRewiring,
        values: list[float] = ROW,
        number: int = 3,
        make_optimizer: Callable[..., Optimizer] = PLAIN,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.net, self.method = nn.Linear(len(values), 1, bias=False, dtype=dtype), method
        with torch.no_grad():
            self.net.weight.copy_(torch.tensor([values]))
        mask = torch.arange(len(values)).view(1, -1) < number
        self.network = SparseNetwork(self.net, masks={"weight": mask}, seed=seed)
        self.optimizer = make_optimizer(self.net.parameters())
        self.driver = MethodDriver(method, self.network, self.network.density)
        self.driver.start()
        self.network.attach(self.optimizer, track_momentum=False)
        self.driver.attach([self.optimizer])

    def step(self, gradient: list[float]) -> Tensor:
        self.net.weight.grad = torch.tensor([gradient], dtype=self.net.weight.dtype)
        self.driver.gradients_ready(self.optimizer, Progress(0))
        self.optimizer.step()
        return self.weight

    @property
    def weight(self) -> Tensor:
        return self.net.weight.detach().clone()[0]

    @property
    def mask(self) -> Tensor:
        return self.network.masks["weight"][0]

    @property
    def signs(self) -> Tensor:
        return unpack_mask(self.method.state_dict()["signs"]["weight"], (1, len(self.mask)))[0].float() * 2 - 1


def view(weight: Tensor, mask: Tensor, **others: Tensor) -> LayerView:
    return LayerView("layer", weight, mask, torch.Generator(), others=others)


def test_signs_are_those_of_active_weights_and_random_elsewhere() -> None:
    weight, active = torch.tensor([0.5, -0.5, 0.0, 0.3]), torch.tensor([True, True, True, False])
    drawn = torch.tensor([-1, 1, -1, -1], dtype=torch.int8)
    assert first_signs(weight, active, drawn).tolist() == [1, -1, -1, -1]
    assert first_signs(weight, active, -drawn).tolist() == [1, -1, 1, 1]


def test_connections_with_theta_at_or_below_zero_have_crossed() -> None:
    weight, sign = torch.tensor([0.5, -0.5, -0.1, 0.0, 0.1, -1.0]), torch.tensor([1.0, -1, 1, 1, -1, 1])
    mask = torch.tensor([True, True, True, True, True, False])
    assert has_crossed(weight, sign, mask).tolist() == [False, False, True, True, True, False]
    layer = view(weight, mask, sign=sign)
    assert int(count_crossed(layer)) == 3
    assert theta(layer).tolist() == pytest.approx([0.5, 0.5, -0.1, 0.0, -0.1, -1.0])
    for rule in (count_crossed, theta):
        with pytest.raises(MissingSignalError, match="the sign of layer 'layer'"):
            rule(view(weight, mask))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_connections_start_at_the_value_of_the_released_script(dtype: torch.dtype) -> None:
    assert first_value(dtype) == 1e-12


def test_connections_in_half_precision_start_at_its_smallest_normal_number() -> None:
    assert first_value(torch.float16) == 2.0**-14


def test_noise_is_that_of_the_paper_or_of_the_released_script() -> None:
    assert noise_deviation(0.5, 1e-5, None) == 0.5 * 1e-5
    assert noise_deviation(0.5, 1e-5, 0.01) == sqrt(2 * 0.5 * 0.01)
    assert noise_deviation(0.5, 0.0, 0.5 * 1e-10 / 2) == pytest.approx(noise_deviation(0.5, 1e-5, None))


def test_a_connection_that_crosses_zero_is_replaced_by_a_random_one() -> None:
    grown = set()
    for seed in range(30):
        layer = OneLayer(DeepRewiring(**QUIET), seed=seed)
        weight = layer.step([0.1, -0.5, 0.0, 9.0, 9.0, 9.0, 9.0, 9.0])  # the second becomes positive
        assert weight[[0, 2]].tolist() == pytest.approx([0.4, 0.125])
        (new,) = set(layer.mask.nonzero().flatten().tolist()) - {0, 2}
        assert float(weight[new] * layer.signs[new]) == START
        assert int(weight.count_nonzero()) == 3
        grown.add(new)
    assert grown == {1, 3, 4, 5, 6, 7}  # the one that crossed zero, too


def test_nothing_is_rewired_or_drawn_where_nothing_crosses() -> None:
    layer = OneLayer(DeepRewiring(**QUIET))
    before, version = layer.network.state_dict(), layer.network.mask_version
    assert layer.step([0.1, 0.1, 0.1, 9.0, 9.0, 9.0, 9.0, 9.0])[:3].tolist() == pytest.approx([0.4, -0.35, 0.025])
    assert layer.network.mask_version == version
    assert differences(layer.network.state_dict()["generator"], before["generator"]) == []


def test_a_connection_at_exactly_zero_is_dormant() -> None:
    layer = OneLayer(DeepRewiring(**QUIET))
    layer.step([0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert int(layer.weight.count_nonzero()) == 3
    assert abs(layer.weight).sort().values[5:].tolist() == [START, 0.125, 0.25]


def test_a_full_layer_restarts_connections_with_their_signs() -> None:
    layer = OneLayer(DeepRewiring(**QUIET), [0.5, -0.25, 0.125], 3)
    assert layer.step([1.0, -1.0, 0.1]).tolist() == pytest.approx([START, -START, 0.025], rel=1e-6, abs=0)


def test_active_weights_of_zero_start_as_new_connections() -> None:
    layer = OneLayer(DeepRewiring(**QUIET), [0.5, 0.0, 0.0, 0.0, 0.0, 0.0], 3)
    assert layer.weight.tolist() == [0.5, *(START * layer.signs[1:3]).tolist(), 0.0, 0.0, 0.0]


@pytest.mark.parametrize(("l1", "expected"), [(0.01, [0.49, -0.24, 0.115]), (0.0, [0.5, -0.25, 0.125])])
def test_the_penalty_pulls_active_weights_to_zero(l1: float, expected: list[float]) -> None:
    layer = OneLayer(DeepRewiring(l1, 0.0))
    assert layer.step([0.0] * 8)[:3].tolist() == pytest.approx(expected)
    assert layer.net.weight.grad is not None
    assert not layer.net.weight.grad[0, 3:].any()


@pytest.mark.parametrize(
    ("noise", "deviation"),
    [
        ({}, 0.1 * 1e-5),
        ({"gradient_noise": 1e-3}, 0.1 * 1e-3),
        ({"temperature": 1e-6}, sqrt(2 * 0.1 * 1e-6)),
        ({"gradient_noise": 0.0}, 0.0),
        ({"temperature": 0.0}, 0.0),
    ],
    ids=str,
)
def test_noise_has_the_deviation_of_the_options(noise: dict[str, Any], deviation: float) -> None:
    values = [1.0, -1.0] * 2000
    layer = OneLayer(DeepRewiring(0.0, **noise), values, 3000, partial(SGD, lr=0.1), dtype=torch.float64)
    change = layer.step([0.0] * 4000) - torch.tensor(values)
    assert float(change[:3000].std()) == pytest.approx(deviation, rel=0.05)
    assert abs(float(change[:3000].mean())) <= 5 * deviation / sqrt(3000)
    assert not layer.weight[3000:].any()


@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize("make", [partial(SGD, lr=1.0, momentum=0.9), partial(Adam, lr=0.3)], ids=["sgd", "adam"])
def test_new_connections_have_no_momentum_unless_it_is_to_stay(make: Callable[..., Optimizer], resets: bool) -> None:
    layer = OneLayer(DeepRewiring(reset_momentum=resets, **QUIET), make_optimizer=make)
    layer.step([0.1, -2.0, 0.0, 3.0, 3.0, 3.0, 3.0, 3.0])
    new = abs(layer.weight).eq(layer.weight[layer.mask].abs().min())
    kept = [each[0] for each in layer.optimizer.state[layer.net.weight].values() if each.dim()]
    assert len(kept) == {SGD: 1, Adam: 2}[type(layer.optimizer)]
    assert all(bool((each[new] == 0).all()) is resets for each in kept)
    assert all(float(each[0]) != 0 for each in kept)


def test_a_weight_that_is_not_finite_is_an_error_where_others_cross_zero() -> None:
    layer = OneLayer(DeepRewiring(**QUIET))
    assert layer.step([torch.nan, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]).isnan().tolist() == [True, *[False] * 7]
    with pytest.raises(NonFiniteError, match=r"finite numbers in the weight of layer 'weight'"):
        layer.step([0.0, -0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])


def theta_is_right(loop: Loop) -> bool:
    signs = loop.method.state_dict()["signs"]
    found = []
    for name, mask in loop.network.masks.items():
        weight = loop.net.get_parameter(name).detach()
        found.append(torch.equal(weight * (unpack_mask(signs[name], mask.shape) * 2.0 - 1) > 0, mask))
    return all(found)


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam"])
@pytest.mark.parametrize("density", [0.05, 0.5, 1.0])
def test_every_layer_has_its_number_and_its_signs_after_every_step(density: float, optimizer: str) -> None:
    makes: dict[str, Callable[..., Optimizer]] = {
        "sgd": partial(SGD, lr=0.5),
        "nesterov": partial(SGD, lr=0.2, momentum=0.9, nesterov=True, weight_decay=0.01),
        "adam": partial(Adam, lr=0.05),
    }
    loop = Loop(DeepRewiring(**HOT), density, make_optimizer=makes[optimizer])
    budgets, signs, kept = active(loop.network), loop.method.state_dict()["signs"], loop.network.masks
    seen: list[bool] = []
    loop.train(25, lambda run: seen.append(theta_is_right(run) and active(run.network) == budgets))
    assert seen == [True] * 25
    assert differences(loop.method.state_dict()["signs"], signs) == []
    assert (differences(loop.network.masks, kept) == []) is (density == 1)


def test_lenet_keeps_the_numbers_of_the_released_script() -> None:
    net = nn.Sequential(*(nn.Linear(*size, bias=False) for size in ((784, 300), (300, 100), (100, 10))))
    network = SparseNetwork(net, density={"0": 0.01, "1": 0.03, "2": 0.3}, seed=0)
    optimizer, driver = SGD(net.parameters(), lr=0.5), MethodDriver(DeepRewiring(), network, network.density)
    driver.start()
    network.attach(optimizer)
    driver.attach([optimizer])
    first = network.masks
    for _ in range(3):
        net(torch.randn(10, 784)).logsumexp(1).mean().backward()
        driver.gradients_ready(optimizer, Progress(0))
        optimizer.step()
        assert [*active(network).values()] == [2352, 900, 300]
    assert differences(network.masks, first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_keep_number_and_signs(dtype: torch.dtype) -> None:
    layer = OneLayer(DeepRewiring(**HOT), dtype=dtype, make_optimizer=partial(SGD, lr=0.1))
    for step in range(20):
        weight = layer.step([0.3 * (-1) ** step, -0.2, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0])
        assert torch.equal(weight * layer.signs > 0, layer.mask)
        assert int(layer.mask.sum()) == 3


def test_frozen_and_dense_layers_are_left_alone() -> None:
    net = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(3)))
    loop = Loop(DeepRewiring(**HOT), 0.6, nn.Sequential(nn.Linear(12, 6), *net, nn.Linear(6, 4)), dense="1")
    loop.net.get_parameter("2.weight").requires_grad_(False)
    before, masks = copy.deepcopy(loop.net.state_dict()), loop.network.masks
    loop.train(5)
    after, changed = loop.net.state_dict(), {name: differences(loop.network.masks[name], masks[name]) for name in masks}
    assert torch.equal(after["2.weight"], before["2.weight"])
    assert {name for name, found in changed.items() if found} == {"0.weight", "3.weight", "4.weight"}
    assert float(abs(after["1.weight"] - before["1.weight"]).max()) < 0.05  # no noise


def test_weights_whose_signs_others_turned_are_replaced_when_some_weight_crosses_zero() -> None:
    net = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4))
    loop = Loop(DeepRewiring(**HOT), 0.5, net, make_optimizer=lambda _: SGD(net[0].parameters(), lr=0.1))
    with torch.no_grad():
        net.get_parameter("2.weight").neg_()
    loop.train(1)
    assert theta_is_right(loop)
    assert float(abs(net.get_parameter("2.weight").detach()).max()) == START


def end_of(seed: int) -> Any:
    loop = Loop(DeepRewiring(**HOT), 0.3, seed=seed)
    loop.train(5)
    return copy.deepcopy([loop.net.state_dict(), loop.network.masks, loop.method.state_dict()])


def test_a_run_follows_its_seed() -> None:
    assert differences(end_of(1), end_of(1)) == []
    assert differences(end_of(1), end_of(2))


def test_signs_and_noise_follow_the_seed() -> None:
    first, second, again = (Loop(DeepRewiring(), 0.3, seed=seed).method.state_dict() for seed in (1, 2, 1))
    assert differences(first["generator"], second["generator"])
    assert differences(first, again) == []
