"""Masks by weight, in models with wrapped parts and tied weights, and active weights by layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_sparse.selection.names import named_parameters, written_names
from lightning_sparse.selection.patterns import name_list
from lightning_sparse.validation.errors import InvalidValueError


def masks_by_weight(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[Tensor, Tensor]:
    """Return masks by parameter instead of by name.

    Args:
        model: Any module; it and its parts may be wrapped.
        masks: By parameter name, of the parameters' shapes. Any name of a tied parameter will do.

    Raises:
        ValueError: If there is no such parameter, a shape differs, or a parameter has two masks that differ.
    """
    parameters = dict(named_parameters(model, remove_duplicate=False))
    written = written_names(list(masks), list(parameters))
    masks = {written[name]: mask for name, mask in masks.items()}
    if unknown := [name for name in masks if name not in parameters]:
        raise InvalidValueError(
            expected="masks of the model's parameters",
            got=f"one of {', '.join(map(repr, unknown[:3]))}, which {type(model).__name__} has not",
            cure=f"pass the masks' own model; its parameters are {name_list(list(parameters)) or 'none'}",
        )
    by_weight: dict[Tensor, Tensor] = {}
    for name, mask in masks.items():
        weight = parameters[name]
        if mask.shape != weight.shape:
            raise InvalidValueError(
                expected=f"a mask of shape {tuple(weight.shape)} for {name}",
                got=tuple(mask.shape),
                cure="pass the masks of this model",
            )
        if weight in by_weight and not torch.equal(by_weight[weight] != 0, mask != 0):
            raise InvalidValueError(
                expected="one mask of a tied parameter",
                got=f"another one for {name}",
                cure="pass the mask of one name only",
            )
        by_weight[weight] = mask
    return by_weight


def active_part(weight: Tensor, masks: Mapping[Tensor, Tensor] | None) -> Tensor:
    """Return True for active values of a layer's weight: bool, of its shape.

    Args:
        weight: A parameter, or a tensor that a layer computes from one.
        masks: Masks by weight, from `masks_by_weight`; a weight without one is dense. None: nonzero values are active.
    """
    if masks is None:
        return weight.detach() != 0
    mask = masks.get(weight)
    return torch.ones_like(weight, dtype=torch.bool) if mask is None else mask != 0
