"""Batch normalization of maps in lanes, for every instruction set, against the definition and PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from sparse_rows import filled, needs_kernels, random, runnable
from torch import Tensor
from torch.nn.functional import batch_norm, max_pool2d
from torch.testing import assert_close

from lightning_sparse.execution.kernels import kernels, sizes_of

pytestmark = needs_kernels

SHAPES = [(16, 3, 4, 4), (5, 2, 6, 8), (33, 2, 5, 7), (1, 1, 2, 1), (20, 2, 1, 1)]
FLAGS = [(relu, pool, residual) for relu in (False, True) for pool in (False, True) for residual in (False, True)]


@dataclass
class Layer:
    """A normalization of random maps; lanes of images that there aren't hold NaN, and so do the halos."""

    shape: tuple[int, int, int, int]
    relu: bool = True
    pool: bool = False
    has_residual: bool = False
    halo: int = 1
    threads: int = 1
    maps: Tensor = field(init=False)
    residual: Tensor | None = field(init=False)
    errors: Tensor = field(init=False)
    scale: Tensor = field(init=False)
    shift: Tensor = field(init=False)

    def __post_init__(self) -> None:
        channels = self.shape[1]
        self.maps = 10 + 3 * random(*self.shape)
        self.residual = random(*self.shape, seed=2) if self.has_residual else None
        self.scale, self.shift = random(channels, seed=3), -10 * random(channels, seed=3)
        self.errors = random(*self.pooled, seed=4)

    @property
    def pooled(self) -> tuple[int, int, int, int]:
        batch, channels, height, width = self.shape
        return (batch, channels, height // 2, width // 2) if self.pool else self.shape

    def lanes(self, maps: Tensor | None, fill: float = float("nan")) -> Tensor | None:
        if maps is None:
            return None
        batch, channels, height, width = maps.shape
        images = torch.full((-(-batch // 16) * 16, channels, height, width), fill)
        images[:batch] = maps
        lanes = filled(len(images) // 16, channels, height + 2 * self.halo, width + 2 * self.halo, 16)
        self.inner(lanes)[:] = images.view(-1, 16, channels, height, width).permute(0, 2, 3, 4, 1)
        return lanes

    def inner(self, lanes: Tensor) -> Tensor:
        return lanes[:, :, self.halo : lanes.shape[2] - self.halo, self.halo : lanes.shape[3] - self.halo]

    def images(self, lanes: Tensor) -> Tensor:
        return self.inner(lanes).permute(0, 4, 1, 2, 3).flatten(0, 1)

    @property
    def sizes(self) -> object:
        return sizes_of(*self.shape, self.halo, self.relu, self.pool, self.threads)

    def moments(self, variant: str) -> Tensor:
        found = filled(self.shape[1], 2).double()
        kernels(variant)("moments", self.lanes(self.maps), found, sizes=self.sizes)
        return found

    def outputs(self, variant: str) -> Tensor:
        found = self.lanes(torch.zeros(self.pooled))
        assert found is not None
        each = (self.lanes(self.maps), self.lanes(self.residual), self.scale, self.shift, found)
        kernels(variant)("normalize", *each, sizes=self.sizes)
        return self.images(found)[: self.shape[0]]

    def backward(self, variant: str, center: Tensor, factors: Tensor) -> list[Tensor]:
        """Return the sums, and the errors of maps and residual."""
        sums, of_maps = filled(self.shape[1], 2).double(), self.lanes(torch.zeros(self.shape))
        assert of_maps is not None
        of_residual = of_maps.clone() if self.has_residual else None
        each = (self.lanes(self.maps), self.lanes(self.residual), self.lanes(self.errors, 0.0), self.scale, self.shift)
        kernels(variant)("error_sums", *each, center, sums, sizes=self.sizes)
        kernels(variant)("normalize_errors", *each, center, factors, of_maps, of_residual, sizes=self.sizes)
        halo = of_maps.numel() - self.inner(of_maps).numel()
        assert int(of_maps.isnan().sum()) == halo
        found = [sums, self.images(of_maps)]
        return found if of_residual is None else [*found, self.images(of_residual)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("variant", runnable())
def test_every_kernel_is_that_of_the_definition(variant: str, shape: tuple[int, int, int, int]) -> None:
    for relu, pool, residual in (each for each in FLAGS if min(shape[2:]) > 1 or not each[1]):
        layer = Layer(shape, relu, pool, residual, halo=2)
        assert_close(layer.moments(variant), layer.moments("reference"), rtol=1e-5, atol=1e-6)
        assert_close(layer.outputs(variant), layer.outputs("reference"), rtol=1e-5, atol=1e-5)
        center, factors = layer.maps.mean((0, 2, 3)), random(shape[1], 3, seed=5)
        found, expected = (layer.backward(each, center, factors) for each in (variant, "reference"))
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("relu", "pool", "residual"), FLAGS)
def test_the_reference_is_what_pytorch_computes(relu: bool, pool: bool, residual: bool) -> None:
    layer = Layer((18, 3, 6, 5), relu, pool, residual)
    batch, channels, height, width = layer.shape
    count, epsilon = batch * height * width, 1e-5
    maps = layer.maps.clone().requires_grad_()
    added = None if layer.residual is None else layer.residual.clone().requires_grad_()
    weight, bias = random(channels, seed=6).requires_grad_(), random(channels, seed=7).requires_grad_()
    z = batch_norm(maps, None, None, weight, bias, training=True, eps=epsilon)
    z = z if added is None else z + added
    z = z.relu() if relu else z
    expected = max_pool2d(z, 2) if pool else z
    expected.backward(layer.errors)

    mean, variance = layer.moments("reference").unbind(1)
    assert_close(mean, layer.maps.double().mean((0, 2, 3)))
    assert_close(variance, layer.maps.double().var((0, 2, 3), correction=0))
    inverse = (variance + epsilon).rsqrt()
    layer.scale = (weight.detach() * inverse).float()
    layer.shift = (bias.detach() - mean * layer.scale).float()
    assert_close(layer.outputs("reference"), expected.detach(), rtol=1e-4, atol=1e-4)

    center, factors = mean.float(), torch.zeros(channels, 3)
    (sums, *_) = layer.backward("reference", center, factors)
    factors[:, 0] = layer.scale
    factors[:, 1] = -(layer.scale * sums[:, 1] * inverse.square() / count)
    factors[:, 2] = -(layer.scale * sums[:, 0] / count)
    (_, of_maps, *rest) = layer.backward("reference", center, factors)
    assert weight.grad is not None
    assert_close(sums[:, 0].float(), bias.grad, rtol=1e-4, atol=1e-4)
    assert_close((sums[:, 1] * inverse).float(), weight.grad, rtol=1e-4, atol=1e-4)
    assert_close(of_maps[:batch], maps.grad, rtol=1e-4, atol=1e-4)
    assert not of_maps[batch:].any()
    found = [None if added is None else added.grad]
    for one, other in zip(rest, found, strict=False):
        assert other is not None
        assert_close(one[:batch], other)


@pytest.mark.parametrize("variant", runnable())
def test_any_number_of_threads_gives_the_same_bits(variant: str) -> None:
    alone, together = (Layer((33, 7, 6, 6), True, True, True, threads=threads) for threads in (1, 4))
    factors, center = random(7, 3, seed=5), random(7, seed=6)
    for _ in range(5):
        assert torch.equal(alone.moments(variant), together.moments(variant))
        assert torch.equal(alone.outputs(variant), together.outputs(variant))
        for one, other in zip(*(each.backward(variant, center, factors) for each in (alone, together)), strict=True):
            assert torch.equal(one.nan_to_num(7), other.nan_to_num(7))


@pytest.mark.parametrize("variant", [*runnable(), "reference"])
@pytest.mark.parametrize("relu", [False, True])
def test_of_equal_values_in_a_square_the_first_has_the_error(variant: str, relu: bool) -> None:
    layer = Layer((16, 1, 2, 4), relu, pool=True)
    layer.maps, layer.scale, layer.shift = torch.ones(16, 1, 2, 4), torch.ones(1), torch.zeros(1)
    layer.maps[..., 0, 2] = -5.0
    factors = torch.tensor([[1.0, 0.0, 0.0]])
    (_, of_maps) = layer.backward(variant, torch.zeros(1), factors)
    expected = torch.zeros(16, 1, 2, 4)
    expected[:, :, 0, 0], expected[:, :, 0, 3] = layer.errors[:, :, 0, 0], layer.errors[:, :, 0, 1]
    assert torch.equal(of_maps, expected)


@pytest.mark.parametrize("variant", runnable())
def test_means_that_are_large_beside_the_spread_leave_the_variance_right(variant: str) -> None:
    layer = Layer((64, 2, 16, 16))
    layer.maps = 1000 + random(*layer.shape)
    mean, variance = layer.moments(variant).unbind(1)
    assert_close(mean, layer.maps.double().mean((0, 2, 3)), rtol=1e-7, atol=0)
    assert_close(variance, layer.maps.double().var((0, 2, 3), correction=0), rtol=1e-5, atol=0)
