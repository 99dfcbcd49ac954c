"""Numbers that tell whether processes agree, and a checksum that tells whether a saved state is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_sparse.topology.packing import pack_mask

# 2**64 over the golden ratio, as a signed number: its multiples spread over all 64 bits.
_STEP = -0x61C8864680B583EB


def fingerprint(mask: Tensor, weight: Tensor) -> Tensor:
    """Return two integers, int64, shape `(2,)`: one that any change of the mask changes, one for the weight's values.

    Two different masks or weights share a number with a probability near 2**-64. Nothing is copied to the host. The
    first number depends on where the mask's bits are; the second is the sum of the values' bit patterns, which costs
    one pass over the weight.
    """
    packed = pack_mask(mask).to(torch.int64)
    multipliers = torch.arange(1, packed.numel() + 1, dtype=torch.int64, device=packed.device) * _STEP
    multipliers ^= multipliers >> 29  # else moving bits from one byte to its neighbours could go unseen
    return torch.stack([(packed * multipliers).sum(), _sum_of_bits(weight)])


def _sum_of_bits(values: Tensor) -> Tensor:
    # Eight bytes at a time: summing narrower integers into wide ones is several times slower.
    data = values.detach().contiguous().reshape(-1).view(torch.uint8)
    if data.storage_offset() % 8:  # a slice of a larger buffer, which can't be read eight bytes at a time where it is
        data = data.clone()
    whole = data.numel() // 8 * 8
    return data[:whole].view(torch.int64).sum() + data[whole:].sum(dtype=torch.int64)


def checksum(state: object) -> str:
    """Return a hash of nested mappings, sequences, tensors and plain values, as a hexadecimal string.

    >>> checksum({"a": torch.zeros(2)}) == checksum({"a": torch.zeros(3)})
    False
    >>> checksum([1, 23]) == checksum([12, 3])
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    _add(digest, state)
    return digest.hexdigest()


def _add(digest: hashlib.blake2b, value: object) -> None:
    if isinstance(value, Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)}".encode())
        for key in sorted(value, key=str):
            _add_plain(digest, key)
            _add(digest, value[key])
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        digest.update(f"sequence {len(value)}".encode())
        for item in value:
            _add(digest, item)
    else:
        _add_plain(digest, value)


def _add_plain(digest: hashlib.blake2b, value: object) -> None:
    # With its length: 1 and 23 in a row are not 12 and 3.
    text = repr(value).encode()
    digest.update(f"{len(text)} ".encode() + text)
