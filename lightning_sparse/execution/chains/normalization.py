"""Batch normalization as a step of a chain, with what follows it; and what follows alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.execution.chains.chain import Pass, Wanted
from lightning_sparse.execution.chains.maps import Found, lanes, size_of
from lightning_sparse.execution.kernels import sizes_of


class Normalize:
    """Batch normalization, then a residual that is added, ReLU, and 2 x 2 pooling, each if it is asked for.

    In training the module's running statistics follow, as PyTorch has them.

    Args:
        module: The module, with the parameters and statistics.
        halo: Halo of the chain's maps.
        relu: Whether a ReLU follows.
        pool: Whether the largest of each 2 x 2 square follows, after the ReLU.
    """

    def __init__(self, module: nn.BatchNorm2d, halo: int, relu: bool = False, pool: bool = False) -> None:
        self._module, self._halo, self._relu, self._pool = module, halo, relu, pool
        self.parameters = [module.weight, module.bias] if module.affine else []

    def _sizes(self, maps: Tensor, batch: Pass) -> Any:
        channels, (rows, columns) = maps.shape[1], size_of(maps, self._halo)
        return sizes_of(batch.images, channels, rows, columns, self._halo, self._relu, self._pool, batch.threads)

    def forward(self, inputs: Sequence[Tensor], batch: Pass) -> tuple[Tensor, Any]:
        """Return the normalized maps; a second input is the residual."""
        maps, residual = inputs[0], inputs[1] if len(inputs) > 1 else None
        sizes, module = self._sizes(maps, batch), self._module
        learns = module.training or module.running_mean is None or module.running_var is None
        mean, variance = self._moments(maps, sizes, batch) if learns else self._running()
        inverse = (variance + module.eps).rsqrt()
        scale = inverse * module.weight.detach() if module.affine else inverse
        shift = module.bias.detach() - mean * scale if module.affine else -mean * scale
        rows, columns = size_of(maps, self._halo)
        size = (rows // 2, columns // 2) if self._pool else (rows, columns)
        output = lanes(batch, maps.shape[1], size, self._halo)
        scale, shift = scale.float(), shift.float()
        batch.run("normalize", maps, residual, scale, shift, output, sizes=sizes)
        return output, (sizes, scale, shift, mean.float(), inverse, learns)

    def _running(self) -> tuple[Tensor, Tensor]:
        module = self._module
        assert module.running_mean is not None
        assert module.running_var is not None
        return module.running_mean.double(), module.running_var.double()

    def _moments(self, maps: Tensor, sizes: Any, batch: Pass) -> tuple[Tensor, Tensor]:
        """Return mean and variance of each channel, and let the running ones follow."""
        found = torch.empty(maps.shape[1], 2, dtype=torch.float64)
        batch.run("moments", maps, found, sizes=sizes)
        mean, variance = found.unbind(1)
        module = self._module
        if module.training and module.running_mean is not None and module.running_var is not None:
            assert module.num_batches_tracked is not None
            module.num_batches_tracked.add_(1)
            rate = 1 / int(module.num_batches_tracked) if module.momentum is None else module.momentum
            count = self._count(maps, batch)
            # Uncounted, as PyTorch does it: an earlier forward pass may keep them for its backward pass.
            module.running_mean.data.lerp_(mean.float(), rate)
            module.running_var.data.lerp_((variance * (count / max(count - 1, 1))).float(), rate)
        return mean, variance

    def _count(self, maps: Tensor, batch: Pass) -> int:
        rows, columns = size_of(maps, self._halo)
        return batch.images * rows * columns

    def backward(
        self, errors: Tensor, inputs: Sequence[Tensor], output: Tensor, kept: Any, batch: Pass, wanted: Wanted
    ) -> Found:
        """Return the errors of maps and residual, and the gradients of weight and bias."""
        maps, residual = inputs[0], inputs[1] if len(inputs) > 1 else None
        sizes, scale, shift, center, inverse, learns = kept
        sums = torch.zeros(maps.shape[1], 2, dtype=torch.float64)
        if learns or any(wanted.parameters):
            batch.run("error_sums", maps, residual, errors, scale, shift, center, sums, sizes=sizes)
        plain, products = sums.unbind(1)
        gradients = [(products * inverse).float(), plain.float()] if self.parameters else []
        if not any(wanted.inputs):
            return [None] * len(inputs), gradients
        factors = torch.zeros(maps.shape[1], 3)
        factors[:, 0] = scale
        if learns:
            each = scale.double() / self._count(maps, batch)
            factors[:, 1] = -each * inverse.square() * products
            factors[:, 2] = -each * plain
        of_maps = batch.lease.take(*maps.shape)
        of_residual = None if residual is None else batch.lease.take(*maps.shape)
        given = (maps, residual, errors, scale, shift, center, factors, of_maps, of_residual)
        batch.run("normalize_errors", *given, sizes=sizes)
        return [of_maps] if residual is None else [of_maps, of_residual], gradients


class Activate:
    """A residual that is added, ReLU, and 2 x 2 pooling, each if it is asked for, without a normalization.

    Args:
        halo: Halo of the chain's maps.
        relu: Whether a ReLU follows.
        pool: Whether the largest of each 2 x 2 square follows, after the ReLU.
    """

    parameters: Sequence[nn.Parameter] = ()

    def __init__(self, halo: int, relu: bool = False, pool: bool = False) -> None:
        self._halo, self._relu, self._pool = halo, relu, pool
        self._factors = torch.zeros(0, 3)

    def _factors_of(self, channels: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return scales of 1 and shifts of 0, and the factors of the errors."""
        if len(self._factors) != channels:
            self._factors = torch.zeros(channels, 3)
            self._factors[:, 0] = 1
        return torch.ones(channels), torch.zeros(channels), self._factors

    def forward(self, inputs: Sequence[Tensor], batch: Pass) -> tuple[Tensor, Any]:
        """Return the maps; a second input is the residual."""
        maps, residual = inputs[0], inputs[1] if len(inputs) > 1 else None
        channels, (rows, columns) = maps.shape[1], size_of(maps, self._halo)
        sizes = sizes_of(batch.images, channels, rows, columns, self._halo, self._relu, self._pool, batch.threads)
        size = (rows // 2, columns // 2) if self._pool else (rows, columns)
        output, (scale, shift, _) = lanes(batch, channels, size, self._halo), self._factors_of(channels)
        batch.run("normalize", maps, residual, scale, shift, output, sizes=sizes)
        return output, sizes

    def backward(
        self, errors: Tensor, inputs: Sequence[Tensor], output: Tensor, kept: Any, batch: Pass, wanted: Wanted
    ) -> Found:
        """Return the errors of maps and residual."""
        maps, residual = inputs[0], inputs[1] if len(inputs) > 1 else None
        scale, shift, factors = self._factors_of(maps.shape[1])
        of_maps = batch.lease.take(*maps.shape)
        of_residual = None if residual is None else batch.lease.take(*maps.shape)
        given = (maps, residual, errors, scale, shift, shift, factors, of_maps, of_residual)
        batch.run("normalize_errors", *given, sizes=kept)
        return [of_maps] if residual is None else [of_maps, of_residual], []
