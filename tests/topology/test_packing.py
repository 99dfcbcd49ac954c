from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pretend_device import DeviceTensor, PretendDevice
from torch import Tensor

from lightning_sparse.topology.packing import pack_mask, unpack_mask


@st.composite
def masks(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    size = torch.Size(shape).numel()
    return torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size))).view(shape)


@settings(max_examples=200, deadline=None)
@given(mask=masks())
def test_an_unpacked_mask_is_the_one_that_was_packed_with_a_bit_per_weight(mask: Tensor) -> None:
    packed = pack_mask(mask)
    assert packed.dtype == torch.uint8
    assert packed.shape == ((mask.numel() + 7) // 8,)
    unpacked = unpack_mask(packed, mask.shape)
    assert unpacked.dtype == torch.bool
    assert torch.equal(unpacked, mask)


@settings(max_examples=200, deadline=None)
@given(mask=masks())
def test_packing_on_a_device_gives_the_same_bytes_and_never_waits(mask: Tensor) -> None:
    with PretendDevice() as device:
        packed = pack_mask(DeviceTensor(mask))
        unpacked = unpack_mask(packed, mask.shape)
    assert isinstance(packed, DeviceTensor)
    assert isinstance(unpacked, DeviceTensor)
    assert torch.equal(packed.held, pack_mask(mask))
    assert torch.equal(unpacked.held, mask)
    assert not device.waits


def test_the_first_entry_is_in_the_lowest_bit() -> None:
    assert pack_mask(torch.tensor([True, False, False, True, False, False, False, False, True])).tolist() == [9, 1]


def test_masks_are_packed_in_logical_order_whatever_the_memory_format() -> None:
    mask = (torch.arange(24).view(2, 3, 2, 2) % 3 == 0).to(memory_format=torch.channels_last)
    assert torch.equal(unpack_mask(pack_mask(mask), mask.shape), mask)
    assert torch.equal(unpack_mask(pack_mask(mask.transpose(0, 1)), (3, 2, 2, 2)), mask.transpose(0, 1))


def test_an_unpacked_mask_can_be_written_to() -> None:
    mask = unpack_mask(torch.tensor([9], dtype=torch.uint8), (2, 3))
    mask[0, 0] = False
    assert mask.tolist() == [[False, False, False], [True, False, False]]


@pytest.mark.parametrize(
    "packed",
    [torch.zeros(1, dtype=torch.uint8), torch.zeros(3, dtype=torch.uint8), torch.zeros(2), torch.zeros(1, 2).byte()],
    ids=["too few", "too many", "floats", "two dimensions"],
)
def test_bytes_that_do_not_fit_the_shape_are_refused(packed: Tensor) -> None:
    with pytest.raises(ValueError, match=r"packed mask of 2 bytes \(uint8\) for shape \(3, 4\); got"):
        unpack_mask(packed, (3, 4))
