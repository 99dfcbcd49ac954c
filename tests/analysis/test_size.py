"""Operations and bytes are counted exactly."""

from __future__ import annotations

import io
import warnings

import pytest
import torch
from torch import nn

from lightning_sparse import SparseNetwork
from lightning_sparse.analysis import count_bytes, count_flops
from lightning_sparse.models import create_model


def test_operations_of_a_worked_example() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 4 * 4, 5))
    masks = {"0.weight": torch.zeros(2, 1, 3, 3), "2.weight": torch.ones(5, 32)}
    masks["0.weight"][0, 0, 0, :] = 1
    counts = count_flops(model, masks, torch.ones(3, 1, 6, 6))
    convolution, linear = 3 * 2 * (4 * 4) * 2 * 9, 3 * 2 * 32 * 5
    assert counts.dense == convolution + linear
    assert counts.sparse == convolution // 6 + linear


def test_a_model_that_is_one_layer_is_counted_too() -> None:
    layer = nn.Linear(4, 4, bias=False)
    assert count_flops(layer, {"weight": torch.eye(4)}, torch.ones(1, 4)).sparse == 8


def test_zeros_are_inactive_where_there_are_no_masks() -> None:
    model = create_model("lenet-300-100")
    network = SparseNetwork(model, 0.05)
    images = torch.ones(1, 1, 28, 28)
    assert count_flops(model, None, images) == count_flops(model, network.masks, images)
    assert count_flops(model, {}, images).sparse == count_flops(model, {}, images).dense == 2 * 266_200


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_flops(model, None, torch.ones(2, 4))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model] == [True, True, False]


def test_bytes_of_a_worked_example() -> None:
    model = nn.Sequential(nn.Linear(10, 3), nn.BatchNorm1d(3))
    mask = torch.zeros(3, 10)
    mask[0, :4] = 1
    counts = count_bytes(model, {"0.weight": mask})
    rest = 3 * 4 + 4 * 3 * 4 + 8  # biases, batch norm with its counter
    assert counts.dense == 30 * 4 + rest
    assert counts.bitmask == 4 * 4 + 4 + rest
    assert counts.csr == 4 * 4 + 4 * 4 + (3 + 1) * 4 + rest


def test_dense_bytes_are_those_that_pytorch_saves_but_for_its_headers() -> None:
    model, buffer = create_model("lenet-300-100"), io.BytesIO()
    torch.save(model.state_dict(), buffer)
    assert 0 < buffer.tell() - count_bytes(model, {}).dense < 4096


def test_a_sparse_checkpoint_is_smaller() -> None:
    network = SparseNetwork(create_model("lenet-300-100"), 0.05)
    counts = count_bytes(network.model, network.masks)
    assert counts.csr < 0.12 * counts.dense
    assert counts.bitmask < counts.csr


def test_without_masks_zeros_of_weights_are_inactive_and_bytes_are_those_with_their_masks() -> None:
    network = SparseNetwork(nn.Sequential(nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 10)), density=0.1)
    assert count_bytes(network.model, None) == count_bytes(network.model, network.masks)


def test_without_masks_weights_without_zeros_are_dense_and_so_are_biases_of_zeros() -> None:
    model = nn.Linear(8, 4)
    nn.init.zeros_(model.bias)
    counts = count_bytes(model, None)
    assert counts.dense == counts.bitmask == counts.csr


def test_a_file_of_csr_tensors_takes_indices_of_twice_as_many_bits_and_those_of_rows_too_in_newer_releases() -> None:
    network = SparseNetwork(nn.Linear(400, 300, bias=False), density=0.1)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of CSR being in beta
        torch.save(network.model.weight.to_sparse_csr(), buffer)  # type: ignore[operator]  # of a linear layer
    # 4 bytes of a value and 8 of its column, or, since the columns are half of a longer array, 16; against 4 and 4.
    ratio = buffer.tell() / count_bytes(network.model, network.masks).csr
    assert min(abs(ratio - 1.5), abs(ratio - 2.5)) < 0.1


def test_a_tied_weight_is_stored_once_and_computed_by_each_layer() -> None:
    model = nn.Sequential(nn.Linear(60, 60), nn.Linear(60, 60))
    model[1].weight = model[0].weight
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    counts = count_bytes(model, {"0.weight": torch.eye(60)})
    assert counts.dense == 60 * 60 * 4 + 2 * 60 * 4
    assert 0 < buffer.tell() - counts.dense < 4096
    assert counts.bitmask == 60 * 4 + 60 * 60 // 8 + 2 * 60 * 4
    assert count_bytes(model, {"0.weight": torch.eye(60), "1.weight": torch.eye(60)}) == counts


def test_values_that_share_memory_are_stored_once() -> None:
    model, both = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)), torch.zeros(8, 4)
    model[0].weight, model[1].weight = nn.Parameter(both[:4]), nn.Parameter(both[4:])
    assert count_bytes(model, {}).dense == 8 * 4 * 4


def test_a_transformer_has_the_operations_of_its_products() -> None:
    batch, length, width, hidden = 2, 5, 8, 16
    layer = nn.TransformerEncoderLayer(width, 2, hidden, batch_first=True)
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    masks = {"layers.0.linear1.weight": torch.zeros(hidden, width)}
    counts = count_flops(model, masks, torch.randn(batch, length, width))
    projections, attention = 4 * width * width * length, 2 * length * length * width
    linear = hidden * width * length
    counted = [2 * batch * (projections + part + 2 * linear) for part in (attention, 0)]  # 0: PyTorch 2.4 on CPUs
    assert counts.dense in counted
    assert counts.dense - counts.sparse == 2 * batch * linear


@pytest.mark.parametrize("enabled", [True, False])
def test_the_fused_path_of_transformers_is_as_it_was(enabled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", enabled)
    seen = []
    model = nn.Linear(2, 2)
    model.register_forward_hook(lambda *_: seen.append(torch.backends.mha.get_fastpath_enabled()))
    count_flops(model, None, torch.ones(1, 2))
    with pytest.raises(RuntimeError):
        count_flops(model, None, torch.ones(1, 3))
    assert (seen, torch.backends.mha.get_fastpath_enabled()) == ([False], enabled)


def test_masks_that_do_not_fit_are_refused() -> None:
    message = r"masks of the model's parameters; got one of 'weights', which Linear has not. Cure: .* are weight, bias"
    with pytest.raises(ValueError, match=message):
        count_bytes(nn.Linear(2, 2), {"weights": torch.ones(2, 2)})
    with pytest.raises(ValueError, match=message):
        count_flops(nn.Linear(2, 2), {"weights": torch.ones(2, 2)}, torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"shape \(2, 2\) for weight; got \(1,\). Cure"):
        count_bytes(nn.Linear(2, 2), {"weight": torch.ones(1)})
    with pytest.raises(ValueError, match=r"shape \(2, 2\) for weight; got \(1,\). Cure"):
        count_flops(nn.Linear(2, 2), {"weight": torch.ones(1)}, torch.ones(1, 2))
