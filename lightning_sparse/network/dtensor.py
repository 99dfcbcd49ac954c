"""Parameters of which a process holds a part: `DTensor`, as FSDP2 and tensor parallelism make them.

Everything else of this package sees local tensors, and the `Shard` that says where in the weight they belong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.topology.sharding import Shard, ShardingError


def is_dtensor(tensor: Tensor) -> bool:
    """Tell whether a process may hold a part of a tensor only."""
    # By name: the class has moved between modules, and importing it costs those who don't use it.
    return type(tensor).__name__ == "DTensor"


def to_local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds, sharing its memory; an ordinary tensor as it is."""
    if type(tensor).__name__ != "DTensor":  # not through a function: every step comes here
        return tensor
    with torch.no_grad():
        part: Tensor = tensor.to_local()  # type: ignore[attr-defined]  # a DTensor
    return part


def shard_of(parameter: Tensor) -> Shard | None:
    """Return where in the whole weight the local part of a parameter lies; None for an ordinary tensor.

    Raises:
        ShardingError: If the parameter is spread in another way than in blocks along its dimensions.
    """
    if not is_dtensor(parameter):
        return None
    mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]  # a DTensor
    sizes, offset = list(parameter.shape), [0] * parameter.dim()
    groups = []
    for axis, placement in enumerate(placements):
        if type(placement).__name__ == "Replicate":
            continue
        if type(placement).__name__ != "Shard":
            raise ShardingError(
                expected="parameters that are sharded in blocks or replicated along each dimension of the device mesh",
                got=f"the placements {placements}",
                cure=(
                    "fully_shard over a one-dimensional mesh, without tensor parallelism along the same "
                    "dimension, or DDP"
                ),
            )
        # As torch.chunk splits: blocks of equal size, the last ones smaller or empty.
        block = -(-sizes[placement.dim] // mesh.size(axis))
        begin = min(block * mesh.get_local_rank(axis), sizes[placement.dim])
        sizes[placement.dim] = min(block, sizes[placement.dim] - begin)
        offset[placement.dim] += begin
        groups.append(mesh.get_group(axis))
    reduce_over = partial(_AllReduce, tuple(groups))
    return Shard(tuple(parameter.shape), tuple(offset), reduce_over("SUM"), reduce_over("MAX"))


@dataclass(frozen=True)
class _AllReduce:
    """Reduction over process groups; equal for equal groups, so that the numbers of several weights travel together."""

    groups: tuple[Any, ...]
    operation: str

    def __call__(self, values: Tensor) -> Tensor:
        reduced = values.clone()
        for group in self.groups:
            torch.distributed.all_reduce(reduced, getattr(torch.distributed.ReduceOp, self.operation), group)
        return reduced


def whole_norms(norms: Tensor, orders: Sequence[float], parameters: Sequence[Tensor]) -> Tensor:
    """Return norms of whole tensors from those of the parts that this process holds; every process must call it.

    Args:
        norms: Norms of the local parts, `(orders, tensors)`.
        orders: Orders of the norms, in [1, inf].
        parameters: Parameters that are sharded as the tensors are. Norms of ordinary tensors stay as they are.
    """
    columns: dict[Any, list[int]] = defaultdict(list)
    for index, parameter in enumerate(parameters):
        if (shard := shard_of(parameter)) is not None:
            columns[shard.all_reduce, shard.all_reduce_max].append(index)
    norms = norms.clone()
    for (total, largest), chosen in columns.items():
        for row, p in enumerate(orders):
            # The largest of several is the limit of their norms, and has a reduction of its own.
            norms[row, chosen] = largest(norms[row, chosen]) if p == inf else total(norms[row, chosen] ** p) ** (1 / p)
    return norms


def full_tensor(part: Tensor, parameter: Tensor) -> Tensor:
    """Return the whole of which each process holds a part laid out like the parameter's; every process must call it."""
    if not is_dtensor(parameter):
        return part
    whole: Tensor = (
        type(parameter)
        .from_local(  # type: ignore[attr-defined]  # a DTensor
            part,
            parameter.device_mesh,  # type: ignore[attr-defined]  # of a DTensor
            parameter.placements,  # type: ignore[attr-defined]  # of a DTensor
            run_check=False,
            shape=parameter.shape,
            stride=parameter.stride(),
        )
        .full_tensor()
    )
    return whole


def local_part(whole: Tensor, parameter: Tensor) -> Tensor:
    """Return the local part of a tensor that has the shape of the whole parameter."""
    shard = shard_of(parameter)
    return whole if shard is None else shard.part_of(whole, to_local(parameter).shape)
