"""Fingerprints tell networks apart that differ anywhere; checksums tell a whole state from a damaged one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from lightning_sparse.topology.digest import checksum, fingerprint


def random_layer(seed: int, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(size, generator=generator) < 0.5, torch.randn(size, generator=generator)


@given(seed=st.integers(0, 9), size=st.integers(2, 70), data=st.data())
def test_moving_or_flipping_bits_of_a_mask_changes_its_number(seed: int, size: int, data: st.DataObject) -> None:
    mask, weight = random_layer(seed, size)
    one, two = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    flipped, swapped = mask.clone(), mask.clone()
    flipped[one] = ~flipped[one]
    swapped[one], swapped[two] = mask[two], mask[one]
    numbers = [int(fingerprint(each, weight)[0]) for each in (mask, flipped, swapped)]
    assert numbers[0] != numbers[1]
    assert (numbers[0] == numbers[2]) == torch.equal(mask, swapped)


@given(seed=st.integers(0, 9), size=st.integers(1, 70), data=st.data())
def test_another_value_changes_the_number_of_a_weight_and_not_that_of_its_mask(
    seed: int, size: int, data: st.DataObject
) -> None:
    mask, weight = random_layer(seed, size)
    other = weight.clone()
    other[data.draw(st.integers(0, size - 1))] += 0.5
    first, second = fingerprint(mask, weight), fingerprint(mask, other)
    assert (first == second).tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_same_values_have_the_same_numbers_wherever_they_lie(dtype: torch.dtype) -> None:
    mask, weight = random_layer(0, 60)
    weight = weight.to(dtype)
    buffer = torch.empty(67, dtype=dtype)
    shifted = buffer[7:].copy_(weight)  # can't be read eight bytes at a time where it is
    columns = weight.view(6, 10).t().contiguous().t()
    expected = fingerprint(mask, weight)
    assert torch.equal(fingerprint(mask, shifted), expected)
    assert torch.equal(fingerprint(mask.view(6, 10), columns), expected)


STATE: dict[str, Any] = {"masks": {"a": torch.arange(6)}, "steps": 3, "first": [1, 23], "rate": 0.5, "none": None}
CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a value": lambda state: state["masks"]["a"].__setitem__(0, 1),
    "a shape": lambda state: state["masks"].update(a=torch.arange(6).view(2, 3)),
    "a dtype": lambda state: state["masks"].update(a=torch.arange(6, dtype=torch.int32)),
    "a name": lambda state: state["masks"].update(b=state["masks"].pop("a")),
    "a number's type": lambda state: state.update(steps="3"),
    "a boundary between numbers": lambda state: state.update(first=[12, 3]),
    "an order": lambda state: state.update(first=[23, 1]),
    "a nesting": lambda state: state.update(first=[[1], 23]),
    "a last digit": lambda state: state.update(rate=0.5000000000000001),
    "nothing for none": lambda state: state.pop("none"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checksum_changes_with(change: str) -> None:
    state = copy.deepcopy(STATE)
    CHANGES[change](state)
    assert checksum(state) != checksum(STATE)


@given(keys=st.permutations(sorted(STATE)))
def test_a_checksum_does_not_depend_on_the_order_of_names(keys: list[str]) -> None:
    assert checksum({key: STATE[key] for key in keys}) == checksum(STATE)


@given(values=st.lists(st.floats(width=32), min_size=1), other=st.lists(st.floats(width=32), min_size=1))
def test_different_tensors_have_different_checksums(values: list[float], other: list[float]) -> None:
    one, two = torch.tensor(values), torch.tensor(other)
    assume(not torch.equal(one.view(torch.int32), two.view(torch.int32)))
    assert checksum(one) != checksum(two)


def test_the_checksum_tells_where_a_mapping_ends() -> None:
    assert checksum({"a": {"b": 1, "c": 2}}) != checksum({"a": {"b": 1}, "c": 2})


def test_masks_whose_bytes_change_places_have_other_fingerprints() -> None:
    first = torch.tensor([True, False, False, False, True, False, True, False])
    second = torch.tensor([False, True, False, False, False, False, False, False])
    weight = torch.zeros(16)
    one, other = (fingerprint(torch.cat(halves), weight)[0] for halves in ((first, second), (second, first)))
    assert one != other
