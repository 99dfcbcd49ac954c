"""The two primitives that every method is made of: an exact top-k mask and an exact apportionment."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from math import floor, isfinite
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Below this size a plain partition is faster than sampling first.
_SAMPLE_SIZE = 16384


def top_k_mask(scores: Tensor, k: int, eligible: Tensor | None = None) -> Tensor:
    """Mark the `k` highest of the eligible scores; of equal scores, those with the lowest index.

    The result has exactly `k` True entries and is the same on every device. On CUDA nothing is copied to the host.

    Args:
        scores: Any shape, any real dtype, no NaN.
        k: How many to mark, between 0 and the number of eligible entries.
        eligible: Bool, same shape as the scores; default: all.

    Returns:
        A bool tensor with the shape and device of the scores.

    Raises:
        ValueError: If `k` is out of range (on CUDA only the total size is checked: counting would synchronize).

    >>> top_k_mask(torch.tensor([3.0, 1.0, 3.0, 3.0]), 2)
    tensor([ True, False,  True, False])
    """
    size = scores.numel()
    if not 0 <= k <= size:
        raise ValueError(f"Expected k between 0 and the {size} scores; got {k}.")
    if k == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    flat = _comparable(scores.detach()).reshape(-1)
    candidates = None if eligible is None else eligible.reshape(-1)
    select = _top_k_on_host if flat.device.type == "cpu" else _top_k_on_device
    return select(flat, k, candidates).view(scores.shape)


def widest_float(device: torch.device) -> torch.dtype:
    """Return the dtype for sums whose rounding must not decide: double, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _comparable(scores: Tensor) -> Tensor:
    """Widen half precision, which NumPy and some selection kernels lack; every value stays exact."""
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


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
    allowed = None if eligible is None else eligible.numpy()
    candidates = values if allowed is None else values[allowed]
    if k > candidates.size:
        raise ValueError(f"Expected k at most the {candidates.size} eligible scores; got {k}.")
    threshold = _kth_largest(candidates, k)
    chosen = values >= threshold
    if allowed is not None:
        chosen &= allowed
    surplus = np.count_nonzero(chosen) - k
    if surplus > 0:
        tied = np.flatnonzero(chosen & (values == threshold))
        chosen[tied[len(tied) - surplus :]] = False
    return torch.from_numpy(chosen)


def _kth_largest(values: NDArray[np.generic], k: int) -> np.generic:
    """Return the k-th largest value; fast also where thousands of values tie or k is a small part of them.

    A sample bounds the answer from below, and only what lies strictly above the bound is partitioned. Masses of
    equal values (zero momentum of unused inputs), which slow a partition down twentyfold, end up as the bound.
    """
    size = values.size
    if size > _SAMPLE_SIZE and 4 * k < size:
        sample = values[np.random.default_rng(0).integers(size, size=_SAMPLE_SIZE)]
        expected = k / size * _SAMPLE_SIZE
        rank = int(expected + 4 * expected**0.5 + 8)
        bound = np.partition(sample, _SAMPLE_SIZE - rank)[_SAMPLE_SIZE - rank]
        above = values[values > bound]
        if above.size >= k:
            values, size = above, above.size
        elif np.count_nonzero(values == bound) >= k - above.size:
            return bound  # type: ignore[no-any-return]  # NumPy types an element of a partition as Any
    return np.partition(values, size - k)[size - k]  # type: ignore[no-any-return]  # as above


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
        excess: How overflow is passed on. "proportional" needs positive claims.

    Returns:
        One integer per party; they sum to `total`.

    Raises:
        ValueError: If the total is out of reach (with the feasible range) or a claim is unusable.

    >>> apportion(10, [8, 1, 1], capacities=[4, 100, 100])
    [4, 3, 3]
    """
    lows = [0] * len(claims) if minimums is None else list(minimums)
    least, most = sum(lows), sum(capacities)
    if not least <= total <= most:
        raise ValueError(f"Expected a total between {least} and {most}, what the parties can take; got {total}.")
    if not all(isfinite(claim) and claim >= 0 for claim in claims):
        raise ValueError(f"Expected finite claims >= 0; got {list(claims)}.")
    if excess == "proportional" and not all(claims):
        raise ValueError(f"Expected positive claims where the excess is shared in proportion; got {list(claims)}.")
    weights = [Fraction(claim) for claim in claims] if any(claims) else [Fraction(1)] * len(claims)
    whole = sum(weights)
    if excess == "equal":
        starts, slopes = [total * weight / whole for weight in weights], [Fraction(1)] * len(weights)
    else:
        starts, slopes = [Fraction(0)] * len(weights), weights
    return _round_to_total(total, _fill(total, starts, slopes, lows, capacities))


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


def _round_to_total(total: int, amounts: Sequence[Fraction]) -> list[int]:
    counts = [floor(amount) for amount in amounts]
    by_fraction = sorted(range(len(amounts)), key=lambda i: (counts[i] - amounts[i], i))
    for i in by_fraction[: total - sum(counts)]:
        counts[i] += 1
    return counts
