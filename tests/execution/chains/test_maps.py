"""Convolutional networks in chains compute what PyTorch does: outputs, gradients, running statistics."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from sparse_rows import needs_kernels, random
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_sparse.execution.chains import (
    Activate,
    AverageMaps,
    Chain,
    Convolve,
    EnterMaps,
    FlattenMaps,
    LeaveFeatures,
    LeaveMaps,
    MaskedWeight,
    Node,
    Normalize,
)
from lightning_sparse.execution.plans import Geometry

pytestmark = needs_kernels
HALO = 2


class Convolutions(nn.Module):
    """A residual block between two convolutions, the first with a stride and a bias, and pooling at the end."""

    def __init__(self, *, pool: bool = True, momentum: float | None = 0.1, affine: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 5, stride=2, padding=2)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.third = nn.Conv2d(8, 6, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8, momentum=momentum, affine=affine) for _ in range(2))
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        self.pools = pool
        self.masks: dict[str, Tensor] = {}
        for name, layer in self.convolutions().items():
            self.masks[name] = torch.rand(layer.weight.shape) < 0.4
            layer.weight.data.mul_(self.masks[name])
        for norm in self.norms if affine else ():
            nn.init.normal_(norm.weight)  # type: ignore[arg-type]  # a parameter
            nn.init.normal_(norm.bias)  # type: ignore[arg-type]  # a parameter

    def convolutions(self) -> dict[str, nn.Conv2d]:
        return {"first": self.first, "second": self.second, "third": self.third}

    def forward(self, images: Tensor) -> Tensor:
        first = self.norms[0](self.first(images)).relu()
        second = self.pool((self.norms[1](self.second(first)) + first).relu())
        third: Tensor = self.third(second).mean((2, 3))
        return third

    def chain(self) -> Chain:
        norms: Any = self.norms
        steps = [self.step("first", (2, 2), (2, 2)), Normalize(norms[0], HALO, relu=True)]
        steps += [self.step("second", (1, 1), (1, 1)), Normalize(norms[1], HALO, relu=True, pool=self.pools)]
        nodes = [Node(EnterMaps(HALO), (0,)), *(Node(step, (index + 1,)) for index, step in enumerate(steps))]
        nodes[-1] = Node(steps[-1], (4, 3))
        return Chain([*nodes, Node(self.step("third", (1, 1), (0, 0)), (5,)), Node(AverageMaps(HALO), (6,))])

    def step(self, name: str, stride: tuple[int, int], padding: tuple[int, int]) -> Any:
        layer = self.convolutions()[name]
        kernel: Any = layer.kernel_size
        geometry = Geometry((layer.in_channels, layer.out_channels), (0, 0), kernel, stride, padding)
        return Convolve(MaskedWeight(layer.weight, lambda: self.masks[name]), layer.bias, geometry, HALO)


def results(module: Convolutions, run: Any, images: Tensor, errors: Tensor) -> dict[str, Tensor]:
    """Return output and gradients, those of weights where they are active, and the running statistics."""
    module.zero_grad()
    given = images.clone().requires_grad_()
    output = run(given)
    output.backward(errors)
    found = {"output": output.detach(), "images": given.grad, **dict(module.named_buffers())}
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        found[name] = parameter.grad * module.masks.get(name.removesuffix(".weight"), torch.ones(()))
    return found


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize(("batch", "size"), [(16, 16), (20, 13), (3, 18), (1, 11)])
@pytest.mark.parametrize("training", [True, False])
def test_outputs_gradients_and_statistics_are_those_of_pytorch(
    batch: int, size: int, pool: bool, training: bool
) -> None:
    module = Convolutions(pool=pool).train(training)
    ours = copy.deepcopy(module)
    chain = ours.chain()
    for seed in range(3):
        images, errors = random(batch, 3, size, size, seed=seed), random(batch, 6, seed=9)
        expected, found = results(module, module, images, errors), results(ours, chain, images, errors)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(found[name], value, rtol=2e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize(("momentum", "affine"), [(None, True), (0.3, False)])
def test_running_statistics_follow_the_modules_options(momentum: float | None, affine: bool) -> None:
    module = Convolutions(momentum=momentum, affine=affine)
    ours = copy.deepcopy(module)
    chain = ours.chain()
    for seed in range(4):
        images = random(5, 3, 16, 16, seed=seed)
        module(images)
        chain(images)
    for name, value in module.named_buffers():
        assert_close(dict(ours.named_buffers())[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert not torch.equal(dict(module.named_buffers())["norms.0.running_mean"], torch.zeros(8))


def test_maps_of_another_size_and_batch_are_planned_for() -> None:
    module = Convolutions().eval()
    chain = module.chain()
    for batch, size in ((4, 16), (33, 20), (4, 16), (7, 12)):
        images = random(batch, 3, size, size)
        assert_close(chain(images), module(images), rtol=1e-3, atol=1e-4)


def test_only_wanted_gradients_are_made() -> None:
    module = Convolutions()
    chain, images = module.chain(), random(4, 3, 16, 16)
    module.first.requires_grad_(False)
    module.norms.requires_grad_(False)
    chain(images).sum().backward()
    named = dict(module.named_parameters())
    assert {name for name, each in named.items() if each.grad is not None} == {"second.weight", *_names("third")}
    assert _names("third") <= set(named)


def _names(layer: str) -> set[str]:
    return {f"{layer}.weight", f"{layer}.bias"}


@pytest.mark.parametrize("shape", [(1, 2, 3, 4), (17, 3, 5, 2)])
def test_maps_that_enter_and_leave_are_the_same(shape: tuple[int, ...]) -> None:
    images, errors = random(*shape).requires_grad_(), random(*shape, seed=2)
    output = Chain.of(EnterMaps(1), LeaveMaps(1))(images)
    output.backward(errors)
    assert torch.equal(output, images)
    assert images.grad is not None
    assert torch.equal(images.grad, errors)


@pytest.mark.parametrize(("relu", "pool"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("batch", "size"), [(1, 4), (18, 7)])
def test_maps_are_added_activated_pooled_and_flattened_as_by_pytorch(
    batch: int, size: int, relu: bool, pool: bool
) -> None:
    images, others = (random(batch, 3, size, size, seed=seed).requires_grad_() for seed in (1, 2))
    nodes = [Node(EnterMaps(HALO), (0,)), Node(EnterMaps(HALO), (1,)), Node(Activate(HALO, relu, pool), (2, 3))]
    nodes += [Node(FlattenMaps(HALO), (4,)), Node(LeaveFeatures(), (5,))]
    found = Chain(nodes, inputs=2)(images, others)
    expected = images + others
    expected = expected.relu() if relu else expected
    expected = (nn.functional.max_pool2d(expected, 2) if pool else expected).flatten(1)
    assert_close(found, expected)
    errors = random(*expected.shape, seed=3)
    ours, theirs = (torch.autograd.grad(each, (images, others), errors) for each in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


def test_one_input_without_residual_is_activated_alone() -> None:
    images = random(5, 3, 6, 6).requires_grad_()
    output = Chain.of(EnterMaps(0), Activate(0, relu=True), LeaveMaps(0))(images)
    output.sum().backward()
    assert torch.equal(output, images.relu())
    assert images.grad is not None
    assert torch.equal(images.grad, (images > 0).float())
