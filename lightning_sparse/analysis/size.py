"""How much a sparse network computes and how much it stores: counts, not measurements of speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

_INDEX_BYTES = 4


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a forward pass; a multiplication and an addition are two.

    Attributes:
        dense: Of the network as it is stored.
        sparse: If inactive weights of its linear and convolutional layers cost nothing.
    """

    dense: int
    sparse: int


def count_flops(model: nn.Module, masks: Mapping[str, Tensor] | None, inputs: Tensor | tuple[Any, ...]) -> Flops:
    """Count the operations of a forward pass with PyTorch's own counter (matrix products, convolutions, attention).

    The model is run in evaluation mode, without gradients, and left as it was.

    Args:
        model: Any module.
        masks: By parameter name, inactive where zero, such as ``SparseNetwork.masks``; weights without one are dense.
            None takes exact zeros for inactive.
        inputs: What the model is called with: a tensor, or all its arguments.

    Raises:
        ValueError: If a mask doesn't fit.
    """
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    layers = {name: module for name, module in model.named_modules() if _has_matrix(module)}
    densities = {name: _density(f"{name}.weight".lstrip("."), module.weight, masks) for name, module in layers.items()}
    training = {module: module.training for module in model.modules()}
    counter = FlopCounterMode(display=False)
    try:
        model.eval()
        with torch.no_grad(), counter:
            model(*arguments)
    finally:
        for module, mode in training.items():
            module.training = mode
    counts = {name: sum(found.values()) for name, found in counter.get_flop_counts().items()}
    dense, root = counter.get_total_flops(), type(model).__name__
    own = {name: counts.get(f"{root}.{name}" if name else root, 0) for name in layers}
    return Flops(dense, round(dense - sum(flops * (1 - densities[name]) for name, flops in own.items())))


def _has_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return not list(module.children()) and isinstance(weight, nn.Parameter) and weight.dim() > 1


def _density(name: str, weight: Tensor, masks: Mapping[str, Tensor] | None) -> float:
    mask = weight.detach() if masks is None else masks.get(name)
    if mask is None:
        return 1.0
    if mask.shape != weight.shape:
        raise ValueError(
            f"Expected a mask of shape {tuple(weight.shape)} for {name}; got {tuple(mask.shape)}. Cure: pass the masks "
            "of this model."
        )
    return int(torch.count_nonzero(mask)) / mask.numel()


@dataclass(frozen=True)
class Bytes:
    """Bytes of a network's parameters and buffers, stored in three ways.

    Attributes:
        dense: Every value, as PyTorch saves it.
        bitmask: Active values of masked weights and one bit per weight; all else dense.
        csr: Active values of masked weights with 32-bit columns, and 32-bit starts of rows (compressed sparse rows, one
            per output); all else dense.
    """

    dense: int
    bitmask: int
    csr: int


def count_bytes(model: nn.Module, masks: Mapping[str, Tensor]) -> Bytes:
    """Count the bytes of a checkpoint of a network's weights, without its optimizer.

    Args:
        model: Any module.
        masks: By parameter name, inactive where zero; weights without one are dense.

    Raises:
        ValueError: If a mask doesn't fit, or there is no such parameter.
    """
    state = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    if unknown := [name for name in masks if name not in state]:
        raise ValueError(f"Expected masks of the model's parameters; got one of {unknown[0]!r}. Cure: pass its masks.")
    dense = sum(value.numel() * value.element_size() for value in state.values())
    bitmask = csr = dense
    for name in masks:
        weight = state[name]
        active = round(_density(name, weight, masks) * weight.numel())
        rest = weight.numel() * weight.element_size() - active * weight.element_size()
        bitmask += -(-weight.numel() // 8) - rest
        csr += (active + weight.shape[0] + 1) * _INDEX_BYTES - rest
    return Bytes(dense, bitmask, csr)
