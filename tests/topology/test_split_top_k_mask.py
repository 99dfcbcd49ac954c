"""The k highest scores of a weight that is split over processes are those of the whole weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from split_weights import Group, Split, even_split, joined, part_of, shard_of, splits, successes
from torch import Tensor

from lightning_sparse.topology import top_k_mask

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
DTYPES = [*FLOATS, *INTEGERS, torch.bool]


def select_in_chunks(scores: Tensor, k: int, eligible: Tensor | None, split: Split, group: Group) -> list[Any]:
    def one(part: int) -> Tensor:
        allowed = None if eligible is None else part_of(eligible, split, part)
        return top_k_mask(part_of(scores, split, part), k, allowed, shard_of(scores.shape, split, part, group))

    return group.run(one)


def marked_in_chunks(scores: Tensor, k: int, eligible: Tensor | None, split: Split, parts: int) -> Tensor:
    return joined(successes(select_in_chunks(scores, k, eligible, split, Group(parts))), split, scores.shape)


def scores_of(dtype: torch.dtype, shape: tuple[int, ...]) -> st.SearchStrategy[Tensor]:
    """Draw scores of few values, the extremes of the dtype among them, or of random bits."""
    numbers: list[Any] = [0, 1, 2, 3] if not dtype.is_signed else [-2, -1, 0, 1, 2]
    if dtype.is_floating_point:
        limits = torch.finfo(dtype)
        numbers += [-0.0, 0.5, float("inf"), float("-inf"), limits.max, limits.min, limits.tiny, 1 + limits.eps]
    elif dtype != torch.bool:
        numbers += [torch.iinfo(dtype).max, torch.iinfo(dtype).min]
    size = torch.Size(shape).numel()
    few = st.lists(st.sampled_from(numbers), min_size=size, max_size=size)
    many = st.integers(0, 2**31).map(lambda seed: torch.Generator().manual_seed(seed))
    spread = many.map(lambda rng: (torch.randn(shape, generator=rng) * 40).to(dtype))
    return few.map(lambda drawn: torch.tensor(drawn).to(dtype).view(shape)) | spread


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_masks_of_the_parts_make_up_the_mask_of_the_whole(dtype: torch.dtype, data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(1,), (7,), (3, 4), (2, 3, 2), (9, 5), (5, 1, 2, 2)]))
    scores = data.draw(scores_of(dtype, shape))
    eligible = torch.rand(shape, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99)))) < 0.7
    allowed = data.draw(st.sampled_from([None, eligible]))
    k = data.draw(st.integers(0, scores.numel() if allowed is None else int(allowed.sum())))
    parts = data.draw(st.integers(1, 4))
    marked = marked_in_chunks(scores, k, allowed, data.draw(splits(shape, parts)), parts)
    assert torch.equal(marked, top_k_mask(scores, k, allowed))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int64], ids=str)
@pytest.mark.parametrize("levels", [1, 5, 100_000])
def test_large_scores_in_parts_are_marked_exactly(dtype: torch.dtype, levels: int) -> None:
    rng = torch.Generator().manual_seed(0)
    scores = (torch.randint(levels, (131, 97), generator=rng) - levels // 3).to(dtype)
    eligible = torch.rand(scores.shape, generator=rng) < 0.8
    for k in (1, 40, 500, 5000, int(eligible.sum())):
        marked = marked_in_chunks(scores, k, eligible, even_split(scores.shape, 4), 4)
        assert torch.equal(marked, top_k_mask(scores, k, eligible))


def test_equal_scores_are_marked_in_the_order_of_the_whole_weight() -> None:
    # Split by columns: the first four of twelve equal scores are the first row, of which each part has two.
    split: Split = [((0, 0), (3, 2)), ((0, 2), (3, 2))]
    group = Group(2)
    for mask in successes(select_in_chunks(torch.ones(3, 4), 4, None, split, group)):
        assert mask.tolist() == [[True, True], [False, False], [False, False]]


@pytest.mark.parametrize(("dtype", "rounds"), [(torch.float16, 2), (torch.float32, 3), (torch.float64, 6)])
def test_only_counts_pass_between_parts_and_as_often_as_the_dtype_has_digits(dtype: torch.dtype, rounds: int) -> None:
    # The highest differ in their last bit only.
    last = torch.arange(1000).view(10, 100) < 2
    distinct = torch.where(last, 1.0 + torch.finfo(dtype).eps, 1.0).to(dtype)
    distinct[0, 1] = 1.0 + 2 * torch.finfo(dtype).eps
    group = Group(3)
    successes(select_in_chunks(distinct, 1, None, even_split(distinct.shape, 3), group))
    assert group.reductions[0] == [(torch.Size([2048]), torch.int64)] * rounds


@pytest.mark.parametrize("eligible", [None, torch.tensor([[True, False], [True, False], [False, False]])])
def test_more_than_there_are_is_refused_on_every_part(eligible: Tensor | None) -> None:
    scores, split = torch.ones(3, 2), even_split((3, 2), 4)
    expected = "between 0 and the 6 scores; got 7" if eligible is None else "at most the 2 eligible scores; got 7"
    k = 7 if eligible is None else 3
    expected = expected.replace("got 7", f"got {k}")
    for error in select_in_chunks(scores, k, eligible, split, Group(4)):
        assert isinstance(error, ValueError)
        assert expected in str(error)


def test_index_means_logical_index_whatever_the_memory_format() -> None:
    scores = torch.arange(24.0).remainder(5).view(4, 3, 2, 1).to(memory_format=torch.channels_last)
    assert torch.equal(marked_in_chunks(scores, 11, None, even_split(scores.shape, 2), 2), top_k_mask(scores, 11))


def test_the_scores_of_a_part_stay_as_they_are() -> None:
    scores = torch.tensor([[-0.0, 1.0], [2.0, -0.0]])
    group, kept = Group(1), scores.clone()
    shard = shard_of(scores.shape, even_split(scores.shape, 1), 0, group)
    successes(group.run(lambda _: top_k_mask(scores, 3, torch.ones(2, 2, dtype=torch.bool), shard)))
    assert torch.equal(scores.view(torch.int32), kept.view(torch.int32))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_negative_zero_equals_zero_in_parts_too(dtype: torch.dtype) -> None:
    scores = torch.tensor([-0.0, 0.0, -0.0, 0.0], dtype=dtype)
    assert marked_in_chunks(scores, 2, None, even_split(scores.shape, 2), 2).tolist() == [True, True, False, False]


def test_unsigned_scores_in_parts_are_in_order_beyond_the_signed_range() -> None:
    scores = torch.tensor([127, 128, 255, 1], dtype=torch.uint8)
    marked = marked_in_chunks(scores, 2, None, even_split(scores.shape, 2), 2)
    assert marked.tolist() == [False, True, True, False]
