"""Masks that were found elsewhere, as a topology update."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lightning_sparse.selection.patterns import name_list
from lightning_sparse.topology.plan import LayerChange
from lightning_sparse.topology.rewire import Rewiring
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError


def check_names(names: Iterable[str], known: Sequence[str]) -> None:
    """Raise a ValueError unless all names are those of masked weights."""
    if unknown := [name for name in names if name not in known]:
        raise InvalidValueError(
            expected=f"names of masked weights, among {name_list(known)}",
            got=name_list(unknown),
            cure="name weights as SparseNetwork.masks does",
        )


def check_masks(masks: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise unless each mask belongs to a masked weight.

    Args:
        masks: Masks by name.
        shapes: Shapes of the masked weights by name.

    Raises:
        ValueError: If there is no such weight, or it has another shape.
        TypeError: If a mask is no bool tensor.
    """
    check_names(masks, [*shapes])
    for name, mask in masks.items():
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise InvalidTypeError(
                expected=f"a bool tensor as the mask of {name!r}",
                got=str(mask.dtype) if isinstance(mask, Tensor) else repr(mask)[:80],
                cure="mask.bool() makes one of numbers",
            )
        if mask.shape != torch.Size(shapes[name]):
            raise InvalidValueError(
                expected=f"a mask of shape {tuple(shapes[name])} for {name!r}",
                got=tuple(mask.shape),
                cure="pass that of the whole weight",
            )


def replacement(
    masks: Mapping[str, Tensor], before: Mapping[str, Tensor], store: Callable[[str, Tensor], Tensor]
) -> Rewiring[Tensor]:
    """Return the update that replaces masks.

    Args:
        masks: Masks of whole weights by name, bool.
        before: The masks of the same weights so far, on the CPU.
        store: Function of a name and a whole mask, through which both masks of each weight pass.
    """
    survivors, new, changes = {}, {}, []
    for name, mask in masks.items():
        mask, old = mask.detach().cpu(), before[name]
        kept = mask & old
        was, stays, active = (int(torch.count_nonzero(each)) for each in (old, kept, mask))
        survivors[name], new[name] = store(name, kept), store(name, mask)
        changes.append(LayerChange(name, mask.numel(), was, was - stays, active - stays, 0.0))
    return Rewiring(survivors, new, tuple(changes))
