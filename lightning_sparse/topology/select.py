"""The two primitives that every method is made of: an exact top-k mask and an exact apportionment."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from math import floor, isfinite
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_sparse.topology.radix import mark_top_k
from lightning_sparse.topology.sharding import Shard
from lightning_sparse.validation.errors import InvalidValueError

_Values = NDArray[Any]

# Below this size a plain partition is faster than sampling first.
_SAMPLE_SIZE = 16384

# Wider dtypes, which hold every value exactly, for those that NumPy or some selection kernels lack.
_COMPARABLE = {torch.bool: torch.uint8, torch.float16: torch.float32, torch.bfloat16: torch.float32}


def top_k_mask(scores: Tensor, k: int, eligible: Tensor | None = None, shard: Shard | None = None) -> Tensor:
    """Mark the `k` highest of the eligible scores; of equal scores, those with the lowest index.

    The result has exactly `k` True entries and is the same on every device. On CUDA nothing is copied to the host.
    With a shard, the scores are those of one part of a weight, and marked is the part's share of what would be marked
    in the whole; counts are fetched from the device then.

    Args:
        scores: Any shape, any real dtype, no NaN.
        k: Number of scores to mark, between 0 and the number of eligible entries (of all parts).
        eligible: Bool, same shape as the scores; default: all.
        shard: Place of the part in the whole weight; default: the scores are those of the whole weight.

    Returns:
        A bool tensor with the shape and device of the scores.

    Raises:
        ValueError: If `k` is out of range (on CUDA only the total size is checked: counting would synchronize); with
            a shard in every process and on every device.

    >>> top_k_mask(torch.tensor([3.0, 1.0, 3.0, 3.0]), 2)
    tensor([ True, False,  True, False])
    """
    size = scores.numel() if shard is None else shard.size
    if not 0 <= k <= size:
        raise InvalidValueError(
            expected=f"k between 0 and the {size} scores",
            got=k,
            cure="mark fewer",
        )
    if k == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if shard is not None:
        return mark_top_k(scores.detach(), k, eligible, shard)
    flat = scores.detach().to(_COMPARABLE.get(scores.dtype, scores.dtype)).reshape(-1)
    candidates = None if eligible is None else eligible.reshape(-1)
    select = _top_k_on_host if flat.device.type == "cpu" else _top_k_on_device
    return select(flat, k, candidates).view(scores.shape)


def _top_k_on_device(flat: Tensor, k: int, eligible: Tensor | None) -> Tensor:
    if eligible is not None:
        lowest = float("-inf") if flat.is_floating_point() else torch.iinfo(flat.dtype).min
        flat = torch.where(eligible, flat, lowest)
    threshold = torch.topk(flat, k, sorted=False).values.amin()
    above, tied = flat > threshold, flat == threshold
    if eligible is not None:
        tied &= eligible
    return above | (tied & (tied.cumsum(0) <= k - above.sum()))


def _top_k_on_host(flat: Tensor, k: int, eligible: Tensor | None) -> Tensor:
    values = flat.numpy()
    allowed = np.ones(1, dtype=np.bool_) if eligible is None else eligible.numpy()
    number = values.size if eligible is None else int(np.count_nonzero(allowed))
    if k > number:
        raise InvalidValueError(
            expected=f"k at most the {number} eligible scores",
            got=k,
            cure="mark fewer",
        )
    threshold = _kth_largest(values, k, allowed, number)
    chosen = (values >= threshold) & allowed
    surplus = np.count_nonzero(chosen) - k
    if surplus > 0:
        tied = np.flatnonzero(chosen & (values == threshold))
        chosen[tied[len(tied) - surplus :]] = False
    return torch.from_numpy(chosen)


def _kth_largest(values: _Values, k: int, allowed: NDArray[np.bool_], number: int) -> np.generic:
    """Return the k-th largest of the `number` allowed values.

    Where k is a small part, a sample bounds the answer from below and only what lies strictly above the bound is
    gathered and partitioned. Masses of equal values (zero momentum of unused inputs), which slow a partition down
    twentyfold, then end up as the bound.
    """
    chosen = allowed
    if number > _SAMPLE_SIZE and 4 * k < number:
        bound = _lower_bound(values, k / number, allowed)
        if bound is not None:
            above = (values > bound) & allowed
            missing = k - np.count_nonzero(above)
            if missing <= 0:
                chosen = above
            elif missing <= np.count_nonzero((values == bound) & allowed):
                return bound
    pool = values if chosen.size < values.size else np.compress(chosen, values)
    kth: np.generic = np.partition(pool, pool.size - k)[pool.size - k]
    return kth


def _lower_bound(values: _Values, fraction: float, allowed: NDArray[np.bool_]) -> np.generic | None:
    """Return a value that most likely more than the given fraction of the allowed values exceeds, from a sample."""
    # Only the time depends on the sample, never the result: a fixed seed serves.
    where = np.random.default_rng(0).integers(values.size, size=_SAMPLE_SIZE)
    sample = values[where] if allowed.size < values.size else values[where[allowed[where]]]
    expected = fraction * sample.size
    rank = int(expected + 4 * expected**0.5 + 8)
    return np.partition(sample, sample.size - rank)[sample.size - rank] if rank <= sample.size else None


def apportion(
    total: int,
    claims: Sequence[float],
    capacities: Sequence[int],
    minimums: Sequence[int] | None = None,
    excess: Literal["equal", "proportional"] = "equal",
) -> list[int]:
    """Split `total` units by claims, between minimums and capacities, exactly.

    A party's quota is its share of the claims. What exceeds a capacity goes to the parties with room: in equal
    parts, as the sparse momentum paper has it (Dettmers & Zettlemoyer 2019, section 3.2, first edge case), or in
    proportion to their claims. Units that remain after rounding down go to the largest fractions, ties to the lowest
    index. All arithmetic is rational, so there is no residual.

    Args:
        total: Units to hand out.
        claims: Finite, >= 0, any scale; if all are zero they count as equal.
        capacities: The most that each party can take.
        minimums: The least that each party must get; default 0.
        excess: Rule that passes on the overflow. "proportional" needs positive claims.

    Returns:
        One integer per party; they sum to `total`.

    Raises:
        ValueError: If the total is out of reach (with the feasible range) or a claim is unusable.

    >>> apportion(10, [8, 1, 1], capacities=[4, 100, 100])
    [4, 3, 3]
    """
    lows = [0] * len(claims) if minimums is None else list(minimums)
    if not claims and total == 0:
        return []
    least, most = sum(lows), sum(capacities)
    if not least <= total <= most:
        raise InvalidValueError(
            expected=f"a total between {least} and {most}, what the parties can take",
            got=total,
            cure="change it",
        )
    if not all(isfinite(claim) and claim >= 0 for claim in claims):
        raise InvalidValueError(
            expected="finite claims >= 0",
            got=list(claims),
            cure="mend the rule",
        )
    if excess == "proportional" and not all(claims):
        raise InvalidValueError(
            expected="positive claims where the excess is shared in proportion",
            got=list(claims),
            cure="share it in equal parts",
        )
    weights = [Fraction(claim) for claim in claims] if any(claims) else [Fraction(1)] * len(claims)
    whole = sum(weights)
    if excess == "equal":
        starts, slopes = [total * weight / whole for weight in weights], [Fraction(1)] * len(weights)
    else:
        starts, slopes = [Fraction(0)] * len(weights), weights
    amounts = _fill(total, starts, slopes, lows, capacities)
    counts = [floor(amount) for amount in amounts]
    by_fraction = sorted(range(len(amounts)), key=lambda i: (counts[i] - amounts[i], i))
    for i in by_fraction[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _fill(
    total: int,
    starts: Sequence[Fraction],
    slopes: Sequence[Fraction],
    lows: Sequence[int],
    highs: Sequence[int],
) -> list[Fraction]:
    """Raise one common level until the clamped lines `start + slope * level` sum to the total."""
    lines = list(zip(starts, slopes, lows, highs, strict=True))

    def at(level: Fraction) -> list[Fraction]:
        return [min(max(start + slope * level, Fraction(low)), Fraction(high)) for start, slope, low, high in lines]

    # The sum is piecewise linear and grows; it bends only where a line meets its minimum or its capacity.
    bends = sorted({(end - start) / slope for start, slope, low, high in lines for end in (low, high)})
    left = bends[bisect_right(bends, Fraction(total), key=lambda level: sum(at(level), Fraction(0))) - 1]
    missing = total - sum(at(left), Fraction(0))
    if missing:
        rising = sum((slope for start, slope, low, high in lines if low <= start + slope * left < high), Fraction(0))
        return at(left + missing / rising)
    return at(left)
