"""Estimated speed-ups follow from times, densities and empty channels, as the paper and its code define them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from lightning_sparse import SparseNetwork
from lightning_sparse.analysis import estimate_speedup
from lightning_sparse.analysis.speedup import ConvolutionCost, speedup_of
from lightning_sparse.models import create_model


def test_a_worked_example() -> None:
    first = ConvolutionCost(3.0, 0.1, 0.5, 0.25, 0.5, 0.2)
    second = ConvolutionCost(1.0, 1.0, 0.0, 0.0, 1.0, 0.0)
    estimate = speedup_of({"a": first, "b": second})
    assert estimate.sparse == pytest.approx(4 / (0.3 + 1))
    assert estimate.sparse_with_activations == pytest.approx(4 / (0.15 + 1))
    assert estimate.channels == pytest.approx(4 / (1.5 + 1))
    assert estimate.channels_with_activations == pytest.approx(4 / (1.2 + 1))
    assert estimate.both_channels == pytest.approx(4 / (1.125 + 1))


def test_nothing_left_is_infinitely_fast() -> None:
    assert speedup_of({"a": ConvolutionCost(1.0, 0.0, 1.0, 1.0, 0.0, 1.0)}).sparse == float("inf")


def conv(out: int, channels: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1, groups=groups, bias=False)


def cost(layer: nn.Conv2d, mask: Tensor, images: Tensor) -> ConvolutionCost:
    return estimate_speedup(nn.Sequential(layer), {"0.weight": mask}, images, repeats=1).layers["0"]


def test_densities_and_empty_channels_are_those_of_weights_and_inputs() -> None:
    mask = torch.zeros(4, 3, 3, 3)
    mask[1, 0, 0, 0] = mask[1, 2, 1, 1] = mask[3, 2, 2, 2] = 1
    images = torch.ones(2, 3, 4, 4)
    images[0, 1] = 0
    images[1, 2, :2] = 0
    costs = cost(conv(4, 3), mask, images)
    assert costs.weight_density == pytest.approx(3 / 108)
    assert costs.empty_in == pytest.approx(1 / 3)
    assert costs.empty_out == pytest.approx(2 / 4)
    assert costs.input_density == pytest.approx(1 - (16 + 8) / 96)
    assert costs.empty_maps == pytest.approx(1 / 6)
    assert costs.seconds > 0


def test_channels_of_groups_are_those_of_their_group() -> None:
    mask = torch.zeros(4, 1, 3, 3)
    mask[0] = 1
    costs = cost(conv(4, 2, groups=2), mask, torch.ones(1, 2, 4, 4))
    assert (costs.empty_in, costs.empty_out) == (0.5, 0.75)


def test_a_dense_network_is_not_faster_and_a_sparse_one_is_by_its_density() -> None:
    model = create_model("lenet-5-caffe")
    images = torch.rand(2, 1, 28, 28) + 0.1
    dense = estimate_speedup(model, {}, images, repeats=1)
    assert dense.sparse == dense.channels == dense.both_channels == 1
    network = SparseNetwork(model, 0.05)
    sparse = estimate_speedup(model, network.masks, images, repeats=1)
    assert sparse.sparse == pytest.approx(20, rel=0.02)
    assert sparse.sparse_with_activations > sparse.sparse
    assert set(sparse.layers) == {"conv1", "conv2"}
    zeros = estimate_speedup(model, None, images, repeats=1)
    assert zeros.layers["conv1"].weight_density == sparse.layers["conv1"].weight_density


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(conv(2, 1), nn.BatchNorm2d(2), nn.Sequential(conv(2, 2)))
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    estimate_speedup(model, None, torch.ones(2, 1, 4, 4), repeats=1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model] == [True, True, False]
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks


class Twice(nn.Module):
    """A convolution that is called with two inputs, the second half as wide."""

    def __init__(self) -> None:
        super().__init__()
        self.c = conv(2, 2)

    def forward(self, images: Tensor, narrow: Tensor) -> Tensor:
        return torch.cat([self.c(images), self.c(input=narrow)], dim=-1)


def test_a_layer_that_is_called_twice_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("lightning_sparse.analysis.speedup._now", lambda tensor: float(next(ticks)))
    layer = conv(2, 2)
    once = estimate_speedup(nn.Sequential(layer), None, torch.ones(1, 2, 4, 4), repeats=3)
    twice = estimate_speedup(nn.Sequential(layer, layer), None, torch.ones(1, 2, 4, 4), repeats=3)
    assert {name: cost.seconds for name, cost in once.layers.items()} == {"0": 1.0}
    assert {name: cost.seconds for name, cost in twice.layers.items()} == {"0": 2.0}


def test_inputs_of_several_calls_are_weighted_by_the_work_of_the_calls() -> None:
    images, narrow = torch.ones(1, 2, 4, 4), torch.zeros(1, 2, 4, 2)
    narrow[0, 0, 0, 0] = 1
    costs = estimate_speedup(Twice(), None, (images, narrow), repeats=2).layers["c"]
    assert costs.input_density == pytest.approx((2 * 1 + 1 * 1 / 16) / 3)
    assert costs.empty_maps == pytest.approx((2 * 0 + 1 * 1 / 2) / 3)


def test_an_image_without_a_batch_has_maps_of_its_own() -> None:
    image = torch.ones(4, 5, 6)
    image[1] = 0
    image[2, 3] = 0
    costs = estimate_speedup(nn.Sequential(conv(2, 4)), None, image, repeats=1).layers["0"]
    assert costs.empty_maps == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("model", "masks", "repeats", "message"),
    [
        (nn.Linear(4, 4), None, 1, r"calls convolutions; got Linear, which calls none. Cure"),
        (nn.Sequential(conv(2, 4)), {"0.weight": torch.ones(1)}, 1, r"shape \(2, 4, 3, 3\) for 0.weight; got \(1,\)"),
        (
            nn.Sequential(conv(2, 4)),
            {"model.0.weight": torch.ones(2, 4, 3, 3)},
            1,
            r"one of 'model.0.weight', which .*Cure",
        ),
        (nn.Sequential(conv(2, 4)), None, 0, r"repeats >= 1, a number of timed passes; got 0. Cure"),
    ],
)
def test_what_can_not_be_estimated_is_refused(
    model: nn.Module, masks: dict[str, Tensor] | None, repeats: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_speedup(
            model, masks, torch.ones(1, 4, 4, 4) if repeats and masks is None else torch.ones(1, 4), repeats
        )
