from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pretend_device import DeviceTensor, PretendDevice
from torch import Tensor

from lightning_sparse.topology import top_k_mask

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
DTYPES = [*FLOATS, *INTEGERS, torch.bool]


def on_device(scores: Tensor, k: int, eligible: Tensor | None = None) -> Tensor:
    with PretendDevice():
        marked = top_k_mask(DeviceTensor(scores), k, None if eligible is None else DeviceTensor(eligible))
    assert isinstance(marked, DeviceTensor)
    return marked.held


BOTH_PATHS = pytest.mark.parametrize("select", [top_k_mask, on_device], ids=["host", "device"])


def by_sorting(scores: Tensor, k: int, eligible: Tensor | None = None) -> Tensor:
    flat = scores.reshape(-1).tolist()
    allowed = [True] * len(flat) if eligible is None else eligible.reshape(-1).tolist()
    ranking = sorted((i for i in range(len(flat)) if allowed[i]), key=lambda i: (-flat[i], i))
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[ranking[:k]] = True
    return mask.view(scores.shape)


@st.composite
def selections(draw: st.DrawFn, dtype: torch.dtype) -> tuple[Tensor, int, Tensor | None]:
    """Draw scores with many ties, a number, and which scores are eligible."""
    shape = draw(st.sampled_from([(1,), (7,), (3, 4), (2, 3, 2), (30,), (5, 1, 2, 2)]))
    size = torch.Size(shape).numel()
    numbers: list[Any] = [0, 1, 2, 3] if not dtype.is_signed else [-2, -1, 0, 1, 2]
    if dtype.is_floating_point:
        numbers += [-0.0, 0.5, float("inf"), float("-inf"), torch.finfo(dtype).max, torch.finfo(dtype).tiny]
    if dtype in INTEGERS:
        numbers += [torch.iinfo(dtype).max, torch.iinfo(dtype).min]
    scores = torch.tensor(draw(st.lists(st.sampled_from(numbers), min_size=size, max_size=size))).to(dtype).view(shape)
    eligible = torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size))).view(shape)
    if draw(st.booleans()):
        return scores, draw(st.integers(0, size)), None
    return scores, draw(st.integers(0, int(eligible.sum()))), eligible


@BOTH_PATHS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_highest_eligible_scores_are_marked_and_of_equal_ones_the_first(
    select: Any, dtype: torch.dtype, data: st.DataObject
) -> None:
    scores, k, eligible = data.draw(selections(dtype))
    marked = select(scores, k, eligible)
    assert marked.dtype == torch.bool
    assert marked.sum() == k
    torch.testing.assert_close(marked, by_sorting(scores, k, eligible))


@BOTH_PATHS
def test_integers_too_close_for_a_float_are_told_apart(select: Any) -> None:
    scores = torch.tensor([2**60, 2**60 + 1, 2**60 - 1])
    assert select(scores, 1).tolist() == [False, True, False]


@BOTH_PATHS
def test_doubles_too_close_for_a_float_are_told_apart(select: Any) -> None:
    scores = torch.tensor([1.0, 1.0 + 2**-50, 1.0 - 2**-50], dtype=torch.float64)
    assert select(scores, 1).tolist() == [False, True, False]


@BOTH_PATHS
def test_only_eligible_scores_are_marked_where_all_are_as_low_as_possible(select: Any) -> None:
    scores, eligible = torch.full((6,), float("-inf")), torch.tensor([False, True, False, True, True, False])
    assert select(scores, 2, eligible).tolist() == [False, True, False, True, False, False]


@BOTH_PATHS
def test_index_means_logical_index_whatever_the_memory_format(select: Any) -> None:
    scores = torch.arange(24.0).remainder(5).view(2, 3, 2, 2).to(memory_format=torch.channels_last)
    eligible = (torch.arange(24).remainder(7) > 0).view(2, 3, 2, 2)
    torch.testing.assert_close(select(scores, 6, eligible), by_sorting(scores, 6, eligible))
    torch.testing.assert_close(select(scores[:, 1:], 6), by_sorting(scores[:, 1:], 6))


@BOTH_PATHS
def test_the_scores_stay_as_they_are(select: Any) -> None:
    scores, eligible = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([True, True, False])
    select(scores, 1, eligible)
    assert scores.tolist() == [3.0, 1.0, 2.0]
    assert eligible.tolist() == [True, True, False]


def test_scores_that_require_gradients_are_fine() -> None:
    scores = torch.tensor([3.0, 1.0], requires_grad=True)
    assert top_k_mask(scores, 1).tolist() == [True, False]


def test_a_single_number_counts_as_one_score() -> None:
    assert top_k_mask(torch.tensor(2.0), 1).item() is True
    assert top_k_mask(torch.tensor(2.0), 0).item() is False


@pytest.mark.parametrize("k", [-1, 4])
@BOTH_PATHS
def test_more_than_all_or_less_than_none_is_refused(select: Any, k: int) -> None:
    with pytest.raises(ValueError, match=f"between 0 and the 3 scores; got {k}"):
        select(torch.ones(3), k)


def test_more_than_the_eligible_is_refused() -> None:
    with pytest.raises(ValueError, match="at most the 2 eligible scores; got 3"):
        top_k_mask(torch.ones(3), 3, torch.tensor([True, False, True]))


def large_scores(kind: str, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    used = rng.random(size) < 0.1
    return {
        "distinct": rng.permutation(size),
        "mostly zero": np.abs(rng.normal(size=size)) * used,
        "three values": rng.integers(3, size=size),
        "equal": np.ones(size),
        "mostly minus infinity": np.where(used, rng.integers(9, size=size), -np.inf),
        "ascending": np.arange(size),
    }[kind].astype(np.float32)


@pytest.mark.parametrize("part_eligible", [None, 0.9, 0.2])
@pytest.mark.parametrize(
    "kind", ["distinct", "mostly zero", "three values", "equal", "mostly minus infinity", "ascending"]
)
def test_large_scores_with_masses_of_ties_are_marked_exactly(kind: str, part_eligible: float | None) -> None:
    rng = np.random.default_rng(0)
    for size in (16_384, 16_385, 60_000):
        scores = large_scores(kind, size, rng)
        eligible = None if part_eligible is None else rng.random(size) < part_eligible
        indices = np.arange(size) if eligible is None else np.flatnonzero(eligible)
        ranking = indices[np.argsort(-scores[indices], kind="stable")]
        for k in (1, 40, len(ranking) // 20, len(ranking) // 4, len(ranking) // 2, len(ranking)):
            expected = np.zeros(size, dtype=np.bool_)
            expected[ranking[:k]] = True
            allowed = None if eligible is None else torch.from_numpy(eligible)
            marked = top_k_mask(torch.from_numpy(scores), k, allowed)
            np.testing.assert_array_equal(marked.numpy(), expected)


def partitioned_sizes(scores: NDArray[np.float64], k: int) -> list[int]:
    """Return the sizes of all partitions that one selection needs, and check what it selects."""
    sizes: list[int] = []
    partition = np.partition

    def recording(values: NDArray[Any], *args: Any) -> NDArray[Any]:
        sizes.append(values.size)
        return partition(values, *args)

    with mock.patch.object(np, "partition", recording):
        marked = top_k_mask(torch.from_numpy(scores), k)
    assert marked.sum() == k
    assert scores[marked.numpy()].min() >= scores[~marked.numpy()].max()
    return sizes


def test_a_small_part_of_large_scores_is_found_without_partitioning_all() -> None:
    assert max(partitioned_sizes(np.random.default_rng(0).random(100_000), 1000)) < 20_000


def test_a_mass_of_ties_is_never_partitioned() -> None:
    scores = np.zeros(100_000)
    scores[::100] = np.arange(1, 1001)
    assert max(partitioned_sizes(scores, 5000)) < 20_000


def test_an_unlucky_sample_costs_time_only() -> None:
    # The highest scores lie exactly where the sample is taken: what it says about the rest is far too high.
    size, k = 100_000, 20_000
    drawn: list[NDArray[np.int64]] = []
    generator = np.random.default_rng

    class Recording:
        def __init__(self, seed: int) -> None:
            self.rng = generator(seed)

        def integers(self, *args: Any, **kwargs: Any) -> NDArray[np.int64]:
            drawn.append(self.rng.integers(*args, **kwargs))
            return drawn[-1]

    scores = generator(1).random(size)
    with mock.patch.object(np.random, "default_rng", Recording):
        top_k_mask(torch.from_numpy(scores), k)
    (sampled,) = drawn
    scores[sampled] += 1
    assert max(partitioned_sizes(scores, k)) == size
