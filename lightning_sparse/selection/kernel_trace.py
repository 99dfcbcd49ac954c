"""Which kernels a forward pass multiplies or convolves its input with, and how much of them is not zero."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# By the names of PyTorch's functions and of the operators of tensors.
_LAYERS = {"linear", "bilinear", "convolution", "_convolution", "conv_tbc"} | {
    f"conv{transposed}{n}d" for transposed in ("", "_transpose") for n in (1, 2, 3)
}
_PRODUCTS = {"einsum", "tensordot", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "addbmm"}
# What sums of rounded numbers leave of zero, beside the largest value.
_ROUNDING = 1e-6


class KernelTrace(TorchFunctionMode):
    """Records the kernels that are made of a weight, but not of the input that they are multiplied or convolved with.

    A kernel is the weight itself, or computed from it: standardized, normalized, transposed, cast, quantized.

    Args:
        weight: A parameter that requires a gradient.
        own: All parameters of its module, of which kernels may be made.
        has_gradient: Whether the input surely requires a gradient. Else what has none counts as an input, and what is
            smaller than the weight is no kernel of a plain product.

    Attributes:
        densities: Nonzero fraction of each kernel, in [0, 1], in order.
    """

    def __init__(self, weight: Tensor, own: Iterable[Tensor], *, has_gradient: bool) -> None:
        super().__init__()
        self.densities: list[float] = []
        self._weight, self._has_gradient = weight, has_gradient
        self._own = frozenset(map(id, own))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _LAYERS or name in _PRODUCTS:
            operands = list(_tensors([*args, *(kwargs or {}).values()]))
            self._record_kernels(operands, 0 if name in _LAYERS or self._has_gradient else self._weight.numel())
        return func(*args, **(kwargs or {}))

    def _record_kernels(self, operands: Sequence[Tensor], least: int) -> None:
        origins = [_origin(operand, self._own) for operand in operands]
        for index, (operand, origin) in enumerate(zip(operands, origins, strict=True)):
            is_made_of_weight = origin is not None and id(self._weight) in origin and operand.numel() >= least
            if is_made_of_weight and any(map(self._is_input, origins[:index] + origins[index + 1 :])):
                self.densities.append(density(operand))

    def _is_input(self, origin: Collection[int] | None) -> bool:
        return origin is None or not (origin or self._has_gradient)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _origin(tensor: Tensor, own: Collection[int]) -> set[int] | None:
    """Return the parameters, by id, that a tensor was computed from; None if it was from others than these."""
    if tensor.grad_fn is None:
        found = {id(tensor)} if tensor.requires_grad else set()
        return found if found <= set(own) else None
    leaves: set[int] = set()
    seen, pending = {tensor.grad_fn}, [tensor.grad_fn]
    while pending:
        node = pending.pop()
        if (leaf := getattr(node, "variable", None)) is not None:
            if id(leaf) not in own:
                return None
            leaves.add(id(leaf))
        following = {step for step, _ in node.next_functions if step is not None} - seen
        seen |= following
        pending += following
    return leaves


@torch.no_grad()
def density(kernel: Tensor) -> float:
    """Return the fraction of a kernel that is not zero, in [0, 1]; zeros but for rounding count as zeros."""
    sizes = kernel.detach().abs()
    if not sizes.numel():
        return 0.0
    return 1 - torch.count_nonzero(sizes <= _ROUNDING * sizes.max()).item() / sizes.numel()


def fills_zeros(densities: Sequence[float], stored: float) -> bool:
    """Tell whether in every kernel most of the zeros that its weight has are none.

    Args:
        densities: Nonzero fractions of the kernels.
        stored: Nonzero fraction of the weight.
    """
    # Half: a kernel that is a part of the weight, or sums of a few entries, has a little less of the zeros.
    return bool(densities) and all(of_kernel > (1 + stored) / 2 for of_kernel in densities)
