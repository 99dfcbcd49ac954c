"""Floating-point operations and bytes of a sparse network: counts, not measurements of speed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_sparse.analysis.eager_forward import eager_evaluation
from lightning_sparse.analysis.layer_masks import active_part, masks_by_weight

_INDEX_BYTES = 4


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a forward pass; a multiplication and an addition are two.

    Attributes:
        dense: Operations of the network as it is stored.
        sparse: Operations if inactive weights of its linear and convolutional layers cost nothing.
    """

    dense: int
    sparse: int


def count_flops(model: nn.Module, masks: Mapping[str, Tensor] | None, inputs: Tensor | tuple[Any, ...]) -> Flops:
    """Count the operations of a forward pass with PyTorch's own counter: matrix products, convolutions, attention.

    The model is run in evaluation mode, without gradients, not compiled and without PyTorch's fused path for
    transformers, which counts nothing; its state is restored. A weight of a layer that is not called as a module of its
    own, as inside attention or a recurrent layer, counts as dense, whatever its mask. PyTorch 2.4 doesn't count the two
    products of attention on CPUs.

    Args:
        model: Any module.
        masks: By parameter name, inactive where zero, such as ``SparseNetwork.masks``; weights without one are dense.
            None: exact zeros are inactive.
        inputs: Input of the model: a tensor, or all its arguments as a tuple.

    Raises:
        ValueError: If a mask belongs to no parameter of the model, or doesn't fit.
    """
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    weights = None if masks is None else masks_by_weight(model, masks)
    with eager_evaluation(model) as eager, _without_fast_path(), FlopCounterMode(display=False) as counter:
        layers = [_LayerFlops(module, counter) for module in eager.modules() if _has_matrix(module)]
        try:
            eager(*arguments)
        finally:
            for layer in layers:
                layer.remove()
    dense = counter.get_total_flops()
    saved = sum(layer.flops * (1 - _density(active_part(layer.weight, weights))) for layer in layers if layer.flops)
    return Flops(dense, round(dense - saved))


class _LayerFlops:
    """Operations of a layer's calls."""

    def __init__(self, module: nn.Module, counter: FlopCounterMode) -> None:
        self.weight: Tensor = module.weight  # type: ignore[assignment]  # of a layer that has one
        self.flops = 0
        self._counter = counter
        self._handles = [module.register_forward_pre_hook(self._before), module.register_forward_hook(self._after)]

    def _before(self, module: nn.Module, arguments: Any) -> None:
        self.flops -= self._counter.get_total_flops()

    def _after(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self.flops += self._counter.get_total_flops()

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


@contextmanager
def _without_fast_path() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _has_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return not list(module.children()) and isinstance(weight, Tensor) and weight.dim() > 1


def _density(active: Tensor) -> float:
    return int(torch.count_nonzero(active)) / active.numel()


@dataclass(frozen=True)
class Bytes:
    """Bytes of a network's parameters and buffers, stored in three ways; names, shapes and headers not counted.

    Attributes:
        dense: Every value, as PyTorch saves it; shared memory, such as a tied weight, once.
        bitmask: Active values of masked weights and one bit per weight; the rest dense.
        csr: Active values of masked weights with a 32-bit column each, and 32-bit starts of rows (compressed sparse
            rows, one per output); the rest dense. A file that PyTorch writes of `weight.to_sparse_csr()` is about 1.5
            times as large for 32-bit values, as its indices have 64 bits, and 2.5 times in newer releases, where the
            columns are a view of memory that holds as many rows, all of which is saved.
    """

    dense: int
    bitmask: int
    csr: int


def count_bytes(model: nn.Module, masks: Mapping[str, Tensor] | None) -> Bytes:
    """Count the bytes of a checkpoint of a network's weights, without its optimizer.

    Each array is assumed to be stored in memory of its own, and indices in 32 bits, which is enough for layers of less
    than 2**31 active weights.

    Args:
        model: Any module.
        masks: By parameter name, inactive where zero; weights without one are dense. None: exact zeros of weights with
            two or more dimensions are inactive, and a weight without any is dense.

    Raises:
        ValueError: If a mask doesn't fit, or there is no such parameter.
    """
    saved = [value.untyped_storage() for value in model.state_dict().values() if isinstance(value, Tensor)]
    dense = sum({storage._cdata: storage.nbytes() for storage in saved}.values())
    bitmask = csr = dense
    by_weight = masks_by_weight(model, _nonzero_masks(model) if masks is None else masks)
    for weight, mask in by_weight.items():
        active = int(torch.count_nonzero(mask))
        rest = (weight.numel() - active) * weight.element_size()
        bitmask += -(-weight.numel() // 8) - rest
        csr += (active + weight.shape[0] + 1) * _INDEX_BYTES - rest
    return Bytes(dense, bitmask, csr)


def _nonzero_masks(model: nn.Module) -> dict[str, Tensor]:
    masks = {name: weight.detach() != 0 for name, weight in model.named_parameters() if weight.dim() > 1}
    return {name: mask for name, mask in masks.items() if not mask.all()}
