"""Which mask belongs to which weight of a model, whatever wraps the model and whoever shares the weight."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_sparse.selection.patterns import name_list, plain_name
from lightning_sparse.validation.errors import InvalidValueError


def masks_by_weight(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[Tensor, Tensor]:
    """Return the masks by the parameter that each is of.

    Args:
        model: Any module; compiled parts of it change no name.
        masks: By parameter name, of the parameters' shapes. A tied parameter may go by any of its names.

    Raises:
        ValueError: If there is no such parameter, a shape differs, or a parameter has two masks that differ.
    """
    parameters = {plain_name(name): weight for name, weight in model.named_parameters(remove_duplicate=False)}
    given = {plain_name(name): mask for name, mask in masks.items()}
    if unknown := [name for name in given if name not in parameters]:
        raise InvalidValueError(
            expected="masks of the model's parameters",
            got=f"one of {', '.join(map(repr, unknown[:3]))}, which {type(model).__name__} has not",
            cure=f"pass the masks' own model; its parameters are {name_list(list(parameters)) or 'none'}",
        )
    found: dict[Tensor, Tensor] = {}
    for name, mask in given.items():
        weight = parameters[name]
        if mask.shape != weight.shape:
            raise InvalidValueError(
                expected=f"a mask of shape {tuple(weight.shape)} for {name}",
                got=tuple(mask.shape),
                cure="pass the masks of this model",
            )
        if weight in found and not torch.equal(found[weight] != 0, mask != 0):
            raise InvalidValueError(
                expected="one mask of a tied parameter",
                got=f"another one for {name}",
                cure="pass that of one name",
            )
        found[weight] = mask
    return found


def active_part(weight: Tensor, masks: Mapping[Tensor, Tensor] | None) -> Tensor:
    """Return which values of a layer's weight are active, bool, of its shape.

    Args:
        weight: A parameter, or what a layer computes from one.
        masks: As `masks_by_weight` returns them; a weight without one is dense. None: active is what is not zero.
    """
    if masks is None:
        return weight.detach() != 0
    mask = masks.get(weight)
    return torch.ones_like(weight, dtype=torch.bool) if mask is None else mask != 0
