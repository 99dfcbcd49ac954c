"""The highest scores of a weight that is split over processes: an exact search that exchanges counts, never scores."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_sparse.topology.sharding import Shard, total
from lightning_sparse.validation.errors import InvalidValueError

# Bits per round: 2048 counts are added up over the processes at once, in three rounds for 32 bits and six for 64.
DIGIT = 11
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Cut(NamedTuple):
    """Where the highest keys of all parts begin.

    Attributes:
        lowest: The wanted keys are >= this one.
        surplus: Number of such keys beyond the wanted number; if not 0, the surplus keys equal `lowest`.
        wanted: Number of keys equal to `lowest` that are wanted, if there is a surplus.
    """

    lowest: int
    surplus: int
    wanted: int


def mark_top_k(scores: Tensor, k: int, eligible: Tensor | None, shard: Shard) -> Tensor:
    """Mark this part's share of the `k` highest eligible scores of all parts, ties to the lowest index in the whole.

    Every process makes the same reductions, whatever its part holds: all decisions depend on sums over all parts.

    Args:
        scores: This part's, any shape, also empty; any real dtype that int64 or float64 can hold.
        k: Number of scores to mark in all parts together, at least 1.
        eligible: Bool, same shape as the scores; default: all.
        shard: Place of the part in the whole weight.

    Raises:
        ValueError: If fewer than `k` scores are eligible in all parts together; on all of them.
    """
    keys, bits = ordered_keys(scores.reshape(-1))
    allowed = torch.ones_like(keys, dtype=torch.bool) if eligible is None else eligible.reshape(-1)
    cut = _find_cut(keys[allowed], k, -(1 << (bits - 1)), bits, shard)
    marked = allowed & (keys >= cut.lowest)
    if cut.surplus:
        tied = allowed & (keys == cut.lowest)
        # Counted from the end, so that the first place is the highest key.
        places = shard.size - 1 - shard.flat_indices(scores.shape, scores.device).reshape(-1)[tied]
        marked[tied] = places >= _find_cut(places, cut.wanted, 0, shard.size.bit_length(), shard).lowest
    return marked.view(scores.shape)


def ordered_keys(scores: Tensor) -> tuple[Tensor, int]:
    """Return signed integers in the order of the scores, equal where those are equal, and their number of bits."""
    bits = 8 * scores.element_size()
    if not scores.is_floating_point():
        return scores.long(), bits if scores.dtype.is_signed else bits + 1
    # Adding zero makes the negative zero, which equals the positive one, the same in bits too.
    keys = (scores + 0.0).view(_INTEGERS[scores.element_size()])
    # Of negative numbers the larger magnitude, hence the larger bits, is the lower one.
    return keys ^ ((keys >> (bits - 1)) & torch.iinfo(keys.dtype).max), bits


def _find_cut(keys: Tensor, k: int, lowest: int, bits: int, shard: Shard) -> _Cut:
    """Find where the `k` highest keys of all parts begin, digit by digit.

    Args:
        keys: This part's keys, flat, integers in `[lowest, lowest + 2**bits)`.
        k: At least 1.
        lowest: A multiple of `2**bits`, or `-2**(bits - 1)`.
        bits: Number of bits that the keys differ in.
        shard: Shard of the weight; only its reduction is used.
    """
    missing = k
    while True:
        shift = max(bits - DIGIT, 0)
        digits = (keys >> shift) - (lowest >> shift)
        # Counting without weights is deterministic on every device.
        counts = total(torch.bincount(digits, minlength=1 << DIGIT), shard).tolist()
        if sum(counts) < missing:
            raise InvalidValueError(
                expected=f"k at most the {sum(counts)} eligible scores",
                got=k,
                cure="mark fewer",
            )
        digit = len(counts) - 1
        while counts[digit] < missing:
            missing -= counts[digit]
            digit -= 1
        lowest += digit << shift
        surplus = counts[digit] - missing
        if shift == 0 or surplus == 0:
            return _Cut(lowest, surplus, missing)
        keys, bits = keys[digits == digit], shift
