"""Weights that are split over processes: where a part lies in the whole weight, and reductions over all parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.representation import ShowsFields


class ShardingError(InvalidValueError):
    """A weight is split over processes in a way, or for a recipe, that can't be worked with."""


@dataclass(frozen=True, repr=False)
class Shard(ShowsFields):
    """Where a part lies in a weight that is split over processes, and how to reduce numbers over all parts.

    Every process updates its own part, and all of them make the same reductions in the same order.

    Attributes:
        shape: Shape of the whole weight, `(out, in, *kernel)`.
        offset: First index of the part, per dimension. The offset of an empty part doesn't matter.
        all_reduce: Function that returns the sum of a tensor (int64 or float64, the same shape everywhere) over all
            parts as a new tensor, equal on all of them.
        all_reduce_max: Function that returns the elementwise maximum instead (of int64). A topology update needs it.
    """

    shape: tuple[int, ...]
    offset: tuple[int, ...]
    all_reduce: Callable[[Tensor], Tensor]
    all_reduce_max: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.offset) or min((*self.shape, *self.offset, 0)) < 0:
            raise ShardingError(
                expected="as many offsets >= 0 as the weight has dimensions",
                got=f"offset {self.offset} for shape {self.shape}",
                cure="give where the part begins in each dimension",
            )

    @property
    def size(self) -> int:
        """Number of weights of all parts."""
        return prod(self.shape)

    def check(self, part: Sequence[int]) -> None:
        """Raise if a part of that shape doesn't lie in the whole.

        Raises:
            ShardingError: If it doesn't.
        """
        fits = len(part) == len(self.shape) and (
            prod(part) == 0
            or all(start + length <= end for start, length, end in zip(self.offset, part, self.shape, strict=True))
        )
        if not fits:
            raise ShardingError(
                expected=f"a part inside the whole weight, shape {self.shape}",
                got=f"shape {tuple(part)} at offset {self.offset}",
                cure="give shape and offset of the whole weight, and tensors of the part",
            )

    def part_of(self, whole: Tensor, part: Sequence[int]) -> Tensor:
        """Return a view of the places of a part, of the given shape, in a tensor of the whole weight's shape."""
        return whole[tuple(slice(start, start + length) for start, length in zip(self.offset, part, strict=True))]

    def flat_indices(self, part: Sequence[int], device: torch.device | None = None) -> Tensor:
        """Return the flat index in the whole weight of each weight of a part; int64, the part's shape.

        >>> Shard((4, 3), (2, 1), torch.clone).flat_indices((2, 2))
        tensor([[ 7,  8],
                [10, 11]])
        """
        indices = torch.zeros((), dtype=torch.int64, device=device)
        for whole, start, length in zip(self.shape, self.offset, part, strict=True):
            indices = indices.unsqueeze(-1) * whole + torch.arange(start, start + length, device=device)
        return indices


def total(values: Tensor, shard: Shard | None) -> Tensor:
    """Return the sum over all parts, elementwise; without a shard the values are those of the whole weight."""
    return values if shard is None else shard.all_reduce(values)


def largest(values: Tensor, shard: Shard | None) -> Tensor:
    """Return the maximum over all parts, elementwise, of int64; without a shard the values are those of the whole.

    Raises:
        ShardingError: If the shard has no maximum.
    """
    if shard is None:
        return values
    if shard.all_reduce_max is None:
        raise ShardingError(
            expected="a shard that can take a maximum over all parts",
            got="one with a sum only",
            cure="give Shard an all_reduce_max, such as torch.distributed.all_reduce with ReduceOp.MAX",
        )
    return shard.all_reduce_max(values)


def reduce_each(
    reduction: Callable[[Tensor, Shard | None], Tensor], rows: Sequence[Tensor], shards: Sequence[Shard | None]
) -> list[Tensor]:
    """Return each row's `total` or `largest`; equally long rows that the same functions reduce travel together."""
    reduced = list(rows)
    together: dict[object, list[int]] = {}
    for index, (row, shard) in enumerate(zip(rows, shards, strict=True)):
        if shard is not None:
            together.setdefault((shard.all_reduce, shard.all_reduce_max, row.device), []).append(index)
    for members in together.values():
        results = reduction(torch.stack([rows[index] for index in members]), shards[members[0]])
        for index, row in zip(members, results, strict=True):
            reduced[index] = row
    return reduced
