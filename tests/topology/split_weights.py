"""Weights split over processes that are threads of this one: what each of them holds, and what they make together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor

from lightning_sparse.topology import LayerView, Recipe, Rewiring, Shard, rewire

_Result = TypeVar("_Result")

# Offset and shape of each part of a weight; None for a weight that every process has as a whole.
Split = list[tuple[tuple[int, ...], tuple[int, ...]]] | None
PATIENCE = 30.0  # seconds


class StuckError(Exception):
    """A part waits for a reduction that another one will never make."""


class Group:
    """Threads that reduce tensors to their sum or their elementwise maximum.

    Attributes:
        reductions: Shape and dtype of every reduction of each part, in order.
    """

    def __init__(self, parts: int) -> None:
        self.reductions: list[list[tuple[torch.Size, torch.dtype]]] = [[] for _ in range(parts)]
        self._given: list[Tensor | None] = [None] * parts
        self._result = torch.empty(0)
        self._rounds = 0
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.local()

    def all_reduce(self, values: Tensor) -> Tensor:
        assert values.dtype in (torch.int64, torch.float64)
        return self._reduce(values, lambda stacked: stacked.sum(0))

    def all_reduce_max(self, values: Tensor) -> Tensor:
        assert values.dtype == torch.int64
        return self._reduce(values, lambda stacked: stacked.amax(0))

    def _reduce(self, values: Tensor, reduction: Callable[[Tensor], Tensor]) -> Tensor:
        index, given = self._thread.index, self._given
        self.reductions[index].append((values.shape, values.dtype))
        with self._changed:
            rounds = self._rounds
            given[index] = values
            tensors = [each for each in given if each is not None]
            assert len({(each.shape, each.dtype) for each in tensors}) == 1
            if len(tensors) == len(given):
                self._result, self._given, self._rounds = (
                    reduction(torch.stack(tensors)),
                    [None] * len(given),
                    rounds + 1,
                )
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._rounds > rounds or self._ended, PATIENCE)
            if self._rounds == rounds:
                raise StuckError
            return self._result.clone()

    def run(self, work: Callable[[int], _Result]) -> list[_Result | Exception]:
        """Return what `work` returns or raises for each part; all must have made the same reductions."""
        results: list[Any] = [None] * len(self.reductions)
        threads = [
            threading.Thread(target=self._one, args=(i, work, results), daemon=True) for i in range(len(results))
        ]
        self._ended = False
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
        assert not any(isinstance(result, (StuckError, AssertionError)) for result in results), results
        assert all(reductions == self.reductions[0] for reductions in self.reductions)
        return results

    def _one(self, index: int, work: Callable[[int], object], results: list[object]) -> None:
        self._thread.index = index
        try:
            results[index] = work(index)
        except Exception as error:
            results[index] = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def successes(results: Sequence[_Result | Exception]) -> list[_Result]:
    """Return the results of parts that all returned; raise what one of them raised."""
    for result in results:
        if isinstance(result, Exception):
            raise result
    return [result for result in results if not isinstance(result, Exception)]


def even_split(shape: Sequence[int], parts: int) -> Split:
    """Split into rows as FSDP does: the first parts have the same number, the last ones fewer or none."""
    rows = -(-shape[0] // parts)
    return [_block(shape, 0, min(i * rows, shape[0]), min((i + 1) * rows, shape[0])) for i in range(parts)]


@st.composite
def splits(draw: st.DrawFn, shape: Sequence[int], parts: int) -> Split:
    """Draw a split along one dimension, at any places, or (into four) along two at once; parts may be empty."""
    dimension = draw(st.integers(0, len(shape) - 1))
    if parts == 4 and len(shape) > 1 and draw(st.booleans()):
        other = (dimension + 1) % len(shape)
        halves = [draw(st.integers(0, shape[d])) for d in (dimension, other)]
        blocks = []
        for low, high in ((0, halves[0]), (halves[0], shape[dimension])):
            for start, end in ((0, halves[1]), (halves[1], shape[other])):
                offset, lengths = map(list, _block(shape, dimension, low, high))
                offset[other], lengths[other] = start, end - start
                blocks.append((tuple(offset), tuple(lengths)))
        return draw(st.permutations(blocks))
    cuts = sorted(draw(st.lists(st.integers(0, shape[dimension]), min_size=parts - 1, max_size=parts - 1)))
    return [_block(shape, dimension, low, high) for low, high in pairwise([0, *cuts, shape[dimension]])]


def _block(shape: Sequence[int], dimension: int, low: int, high: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    offset, lengths = [0] * len(shape), list(shape)
    offset[dimension], lengths[dimension] = low, high - low
    return tuple(offset), tuple(lengths)


def part_of(whole: Tensor, split: Split, part: int) -> Tensor:
    """Return a copy of one part."""
    if split is None:
        return whole.clone()
    return whole[tuple(slice(start, start + length) for start, length in zip(*split[part], strict=True))].clone()


def joined(values: Sequence[Tensor], split: Split, shape: Sequence[int]) -> Tensor:
    """Return the bool tensor of which each process has a part; where all have the whole it must be the same."""
    assert split is not None or all(torch.equal(each, values[0]) for each in values)
    if split is None:
        return values[0]
    times, whole = torch.zeros(tuple(shape), dtype=torch.int64), torch.zeros(tuple(shape), dtype=torch.bool)
    for each, (offset, lengths) in zip(values, split, strict=True):
        place = tuple(slice(start, start + length) for start, length in zip(offset, lengths, strict=True))
        assert each.shape == whole[place].shape
        whole[place] = each
        times[place] += 1
    assert (times == 1).all()
    return whole


def shard_of(shape: Sequence[int], split: Split, part: int, group: Group) -> Shard | None:
    """Return where a part lies."""
    return None if split is None else Shard(tuple(shape), split[part][0], group.all_reduce, group.all_reduce_max)


def views(layers: Sequence[LayerView], splits: Sequence[Split], part: int, group: Group) -> list[LayerView]:
    """Return what one process has of the layers, with a generator of its own in the same state."""
    generator = torch.Generator().set_state(layers[0].generator.get_state())
    return [
        _view(
            layer, partial(part_of, split=split, part=part), generator, shard_of(layer.mask.shape, split, part, group)
        )
        for layer, split in zip(layers, splits, strict=True)
    ]


def _view(
    layer: LayerView, cut: Callable[[Tensor], Tensor], generator: torch.Generator, shard: Shard | None
) -> LayerView:
    momentum = None if layer.momentum is None else cut(layer.momentum)
    gradient = None if layer.gradient is None else cut(layer.gradient)
    parts = {"weight": cut(layer.weight), "mask": cut(layer.mask), "momentum": momentum, "gradient": gradient}
    return replace(layer, generator=generator, shard=shard, **parts)  # type: ignore[arg-type]  # a dict of several types


def rewire_in_chunks(
    layers: Sequence[LayerView], recipe: Recipe, prune_rate: float, divided: Sequence[Split], group: Group
) -> list[Rewiring[Tensor] | Exception]:
    """Return what an update returns or raises for each part."""
    return group.run(lambda part: rewire(views(layers, divided, part, group), recipe, prune_rate))
