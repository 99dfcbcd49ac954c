"""Bit for bit comparison of nested states."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import Tensor

_State = TypeVar("_State")


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Return whether two tensors agree in dtype, shape and every bit: NaN equals itself, and -0.0 is not 0.0."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.dtype == torch.bool or not left.numel():
        return torch.equal(left, right)
    return torch.equal(_bytes(left), _bytes(right))


def _bytes(values: Tensor) -> Tensor:
    return values.detach().reshape(-1).contiguous().view(torch.uint8)


def differences(left: object, right: object, where: str = "") -> list[str]:
    """Return the places where two nested structures are not bit for bit the same.

    >>> differences({"a": [1, torch.zeros(2)]}, {"a": [1, torch.ones(2)]})
    ['/a/1']
    """
    if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
        return [place for key in left for place in differences(left[key], right[key], f"{where}/{key}")]
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return [place for index, (a, b) in pairs for place in differences(a, b, f"{where}/{index}")]
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return [] if same_bits(left, right) else [where]
    if isinstance(left, torch.Generator) and isinstance(right, torch.Generator):
        return [] if left.device == right.device and same_bits(left.get_state(), right.get_state()) else [where]
    return [] if type(left) is type(right) and left == right else [where]


def deep_copy(state: _State) -> _State:
    """Return a copy of a nested state that shares no tensor with it."""
    return cast(_State, _deep_copy(state))


def _deep_copy(state: object) -> object:
    if isinstance(state, dict):
        return {key: _deep_copy(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_deep_copy(value) for value in state)
    return state.detach().clone() if isinstance(state, Tensor) else state


def first_few(places: list[str]) -> str:
    """Return the first few places as text.

    >>> first_few(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    return ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
