"""Multiplications of a weight in one call, against PyTorch's counter of operations and against sums by hand."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.flop_counter import FlopCounterMode

from lightning_sparse.network.multiplications.products import examples, products

BATCH = 4
COUNTED = {
    "linear": (nn.Linear(6, 5), (BATCH, 6)),
    "linear on a sequence": (nn.Linear(6, 5), (BATCH, 7, 6)),
    "one dimension": (nn.Conv1d(6, 4, 3, stride=2), (BATCH, 6, 11)),
    "two dimensions": (nn.Conv2d(6, 4, 3, padding=1), (BATCH, 6, 8, 9)),
    "strides and dilation": (nn.Conv2d(6, 4, (3, 2), stride=(2, 1), dilation=2), (BATCH, 6, 12, 9)),
    "groups": (nn.Conv2d(6, 4, 3, groups=2), (BATCH, 6, 8, 9)),
    "three dimensions": (nn.Conv3d(2, 4, 3), (BATCH, 2, 5, 6, 4)),
    "one example alone": (nn.Conv2d(6, 4, 3), (6, 8, 9)),
}


def in_one_call(module: nn.Module, local: str, *inputs: Any, **options: Any) -> Fraction:
    axes = module.get_parameter(local).dim() - 2
    return products(module, local, axes, inputs, options, module(*inputs, **options))


@pytest.mark.parametrize("name", COUNTED)
def test_all_weights_together_multiply_what_pytorch_counts(name: str) -> None:
    module, shape = COUNTED[name]
    inputs = torch.zeros(shape)
    with FlopCounterMode(display=False) as counter:
        module(inputs)
    assert 2 * in_one_call(module, "weight", inputs) * module.weight.numel() == counter.get_total_flops()


def test_a_transposed_convolution_multiplies_each_weight_once_for_each_position_of_its_input() -> None:
    assert in_one_call(nn.ConvTranspose2d(6, 4, 3, stride=2), "weight", torch.zeros(BATCH, 6, 5, 7)) == BATCH * 35


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("local", ["weight_ih_l0", "weight_hh_l1_reverse"])
def test_a_recurrent_layer_multiplies_each_weight_once_a_time_step(local: str, batch_first: bool) -> None:
    layer = nn.LSTM(3, 5, 2, bidirectional=True, batch_first=batch_first)
    inputs = torch.zeros((BATCH, 7, 3) if batch_first else (7, BATCH, 3))
    assert in_one_call(layer, local, inputs) == BATCH * 7
    assert examples(layer, 0, [inputs], {}) == BATCH


def test_padding_of_packed_sequences_multiplies_nothing() -> None:
    packed = pack_sequence([torch.zeros(steps, 3) for steps in (5, 2, 2)])
    assert in_one_call(nn.GRU(3, 5), "weight_hh_l0", packed) == 9
    assert examples(nn.GRU(3, 5), 0, [packed], {}) == 3


@pytest.mark.parametrize(
    ("local", "expected"), [("q_proj_weight", 5), ("k_proj_weight", 7), ("v_proj_weight", 7), ("out_proj.weight", 5)]
)
def test_weights_of_attention_multiply_queries_or_keys(local: str, expected: int) -> None:
    layer = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)
    query, key, value = (torch.zeros(BATCH, *shape) for shape in ((5, 8), (7, 6), (7, 4)))
    assert in_one_call(layer, local, query, key, value) == BATCH * expected
    assert in_one_call(layer, local, query, value=value, key=key) == BATCH * expected


def test_stacked_weights_of_attention_multiply_the_mean_of_queries_keys_and_values() -> None:
    layer = nn.MultiheadAttention(8, 2)
    query, key = torch.zeros(5, BATCH, 8), torch.zeros(7, BATCH, 8)
    assert in_one_call(layer, "in_proj_weight", query, key, key) == Fraction(BATCH * (5 + 7 + 7), 3)
    assert examples(layer, 0, [query, key, key], {}) == BATCH


def test_an_embedding_counts_its_indices() -> None:
    indices = torch.zeros(BATCH, 7, dtype=torch.long)
    assert in_one_call(nn.Embedding(9, 3), "weight", indices) == BATCH * 7
    assert examples(nn.Embedding(9, 3), 0, [indices], {}) == BATCH


def test_a_bilinear_layer_is_linear_in_its_batch() -> None:
    left, right = torch.zeros(BATCH, 3), torch.zeros(BATCH, 5)
    assert in_one_call(nn.Bilinear(3, 5, 2), "weight", left, right) == BATCH
    assert examples(nn.Bilinear(3, 5, 2), 1, [left, right], {}) == BATCH


class Odd(nn.Module):
    """Has a kernel, but returns what is no map, in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 3, 2, 2))

    def forward(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        return [inputs["values"] @ self.weight.sum((1, 2, 3))]


def test_layers_of_other_kinds_count_the_vectors_that_they_return() -> None:
    assert in_one_call(Odd(), "weight", {"values": torch.zeros(BATCH, 4)}) == 1
    assert examples(Odd(), 2, [{"values": torch.zeros(BATCH, 4)}], {}) == 1


def test_empty_batches_and_missing_tensors_multiply_nothing() -> None:
    assert in_one_call(nn.Linear(3, 2), "weight", torch.zeros(0, 3)) == 0
    assert products(nn.Linear(3, 2), "weight", 0, [], {}, None) == 0


@pytest.mark.parametrize("shape", [(6,), (6, 8, 9)])
def test_one_example_needs_no_batch_dimension(shape: tuple[int, ...]) -> None:
    layer, axes = (nn.Linear(6, 5), 0) if len(shape) == 1 else (nn.Conv2d(6, 4, 3), 2)
    assert examples(layer, axes, [torch.zeros(shape)], {}) == 1
    assert examples(layer, axes, [torch.zeros(BATCH, *shape)], {}) == BATCH
