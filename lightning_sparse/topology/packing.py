"""Masks at one bit per weight, for checkpoints and for what an update holds at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lightning_sparse.validation.errors import InvalidValueError


def pack_mask(mask: Tensor) -> Tensor:
    """Return the mask as uint8, shape `(ceil(numel / 8),)`, first entry in the lowest bit, on the same device."""
    flat = mask.reshape(-1)
    if flat.device.type == "cpu":
        return torch.from_numpy(np.packbits(flat.numpy(), bitorder="little"))
    return _pack_on_device(flat)


def unpack_mask(packed: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Return the bool mask of the given shape that `pack_mask` packed.

    Raises:
        ValueError: If the packed bits don't fit the shape.
    """
    numel = torch.Size(shape).numel()
    expected = (numel + 7) // 8
    if packed.dtype != torch.uint8 or packed.shape != (expected,):
        raise InvalidValueError(
            expected=f"a packed mask of {expected} bytes (uint8) for shape {tuple(shape)}",
            got=f"shape {tuple(packed.shape)}, {packed.dtype}",
            cure="the state is damaged, load another",
        )
    if packed.device.type == "cpu":
        bits = np.unpackbits(packed.numpy(), count=numel, bitorder="little")
        return torch.from_numpy(bits.view(np.bool_)).view(shape)
    return _unpack_on_device(packed)[:numel].view(shape)


def _pack_on_device(flat: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(flat.to(torch.uint8), (0, -flat.numel() % 8))
    values = torch.arange(8, dtype=torch.uint8, device=flat.device)
    return (padded.view(-1, 8) << values).sum(1, dtype=torch.uint8)


def _unpack_on_device(packed: Tensor) -> Tensor:
    values = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed.view(-1, 1) >> values) & 1).bool().view(-1)
