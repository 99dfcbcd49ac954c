"""Reductions of a whole weight to a few numbers that stay on its device."""

from __future__ import annotations

from collections.abc import Sequence
from math import frexp, inf, isfinite, nan
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_sparse.topology.sharding import Shard, largest, reduce_each, total

_Exponent = TypeVar("_Exponent", int, Tensor)

# Exponents of doubles as they are stored, with an offset of 1023; the last one marks NaN and infinity.
_EXPONENTS = 2048
# Size limit of temporaries, in numbers: on the CPU they stay in its cache, on others they stay small.
_CHUNK_ON_HOST, _CHUNK = 1 << 15, 1 << 22


def widest_float(device: torch.device) -> torch.dtype:
    """Return the dtype for sums whose rounding must not decide: double, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def mean_magnitude(values: Tensor, mask: Tensor, shard: Shard | None = None) -> Tensor:
    """Return the mean of `|values|` where the mask is True, 0 where it never is; zero-dimensional.

    The mean is the same to the last bit on every device and however a weight is split, because integers are summed:
    multiples of a power of two that is so small that their sum, whatever the mask, just fits into 62 bits. Of a weight
    of 2**25 numbers they resolve 2**-37 of the largest magnitude, of one of 2**10 2**-52. (A device without doubles
    sums in single precision.)

    Args:
        values: Any shape and floating dtype.
        mask: Bool, same shape.
        shard: With one, values and mask are those of a part, and the mean is that of all parts.

    >>> mean_magnitude(torch.tensor([1.0, -3.0, 5.0]), torch.tensor([True, True, False]))
    tensor(2., dtype=torch.float64)
    """
    size = values.numel() if shard is None else shard.size
    magnitudes = _magnitudes(values.detach(), mask)
    if values.device.type == "cpu" and shard is None:
        return torch.tensor(_mean_on_host(magnitudes.numpy(), size), dtype=torch.float64)
    wide = widest_float(values.device)
    if wide != torch.float64:
        return magnitudes.sum(dtype=wide) / torch.count_nonzero(mask).clamp_min(1)
    exponent = _highest_exponent(magnitudes, shard)
    up = _lift(size, exponent.clamp_min(62))
    scale, unscale = ((biased << 52).view(torch.float64) for biased in (up, 2046 - up))
    parts = [chunk.double().mul_(scale).round_().long().sum() for chunk in torch.split(magnitudes, _CHUNK)]
    sums = total(torch.stack([torch.stack(parts).sum(), torch.count_nonzero(mask)]), shard)
    mean = sums[0] * unscale / sums[1].clamp_min(1)
    return torch.where(exponent == _EXPONENTS - 1, torch.nan, mean)


def _lift(size: int, exponent: _Exponent) -> _Exponent:
    """Return the stored exponent of the power of two that lifts magnitudes to just below `2**(62 - size.bit_length())`.

    From an exponent of 62 on, this power and its inverse are normal doubles: multiplying by them rounds nothing.
    """
    return 2107 - size.bit_length() - exponent


def _mean_on_host(magnitudes: NDArray[Any], size: int) -> float:
    """Return what `mean_magnitude` does, without the overhead of a dozen PyTorch calls on little data."""
    peak = float(magnitudes.max(initial=0))
    if not isfinite(peak):
        return nan
    up = _lift(size, max(frexp(peak)[1] + 1022, 62)) - 1023
    chunks = (magnitudes[i : i + _CHUNK_ON_HOST] for i in range(0, magnitudes.size, _CHUNK_ON_HOST))
    lifted = (np.multiply(chunk, 2.0**up, dtype=np.float64) for chunk in chunks)
    whole = sum(int(np.rint(chunk).astype(np.int64).sum()) for chunk in lifted)
    return whole * 2.0**-up / max(magnitudes.size, 1)


def _magnitudes(values: Tensor, mask: Tensor) -> Tensor:
    """Return `|values|` where the mask is True, flat; with zeros elsewhere unless they can be left out."""
    if values.device.type != "cpu":
        return torch.where(mask, values, 0).abs_().reshape(-1)
    # Gathering the few active values first is several times faster than summing all.
    plain = values if values.dtype in (torch.float32, torch.float64) else values.float()
    return torch.from_numpy(np.compress(mask.numpy().reshape(-1), plain.numpy().reshape(-1))).abs_()


def _highest_exponent(magnitudes: Tensor, shard: Shard | None) -> Tensor:
    """Return the stored exponent of the largest magnitude of all parts, zero-dimensional, int64."""
    if magnitudes.numel():
        exponent = magnitudes.amax().double().view(torch.int64) >> 52 & (_EXPONENTS - 1)
    else:
        exponent = torch.zeros((), dtype=torch.int64, device=magnitudes.device)
    return largest(exponent, shard)


def extremes(values: Tensor) -> Tensor:
    """Return minimum and maximum, shape `(2,)`: NaN if any value is; one reading pass, no temporary.

    Those of no values, which a part of a weight may have, are infinity and minus infinity.
    """
    if not values.numel():
        return torch.stack([torch.full((), limit, device=values.device) for limit in (inf, -inf)])
    return torch.stack(torch.aminmax(values))


def join_ranges(rows: Sequence[Tensor], shards: Sequence[Shard | None]) -> list[Tensor]:
    """Return the ranges over all parts: pairs of the lowest minimum and the highest maximum, NaN above all numbers.

    Args:
        rows: Ranges of one part of each weight: minimum, maximum, minimum, maximum and so on.
        shards: Shard of each weight; where it is None, the row stays as it is.
    """
    keys = [row if shard is None else _keys_of_ranges(row) for row, shard in zip(rows, shards, strict=True)]
    joined = reduce_each(largest, keys, shards)
    return [row if shard is None else _ranges_of_keys(row) for row, shard in zip(joined, shards, strict=True)]


def _keys_of_ranges(row: Tensor) -> Tensor:
    """Return integers, shape `(2, pairs)`, whose maxima tell the ranges over all parts to the last bit.

    They are in the order of the numbers, those of the minima negated. A maximum of floats would treat NaN differently
    from one backend to another.
    """
    # One kind of zero and of NaN.
    bits = torch.where(row.isnan(), nan, row.double() + 0.0).view(torch.int64)
    keys = _flip_negative(bits)
    return torch.stack([-keys[::2], keys[1::2]])


def _ranges_of_keys(keys: Tensor) -> Tensor:
    return _flip_negative(torch.stack([-keys[0], keys[1]], dim=1).reshape(-1)).view(torch.float64)


def _flip_negative(bits: Tensor) -> Tensor:
    """Turn the bits of doubles into integers in the same order, and back: of negative ones, more bits are less."""
    return bits ^ ((bits >> 63) & torch.iinfo(torch.int64).max)
