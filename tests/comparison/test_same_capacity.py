"""Networks of the same capacity: equal counts in every layer, the same distribution, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torch import nn

from lightning_sparse import SparseNetwork
from lightning_sparse.comparison import same_capacity
from lightning_sparse.models import MLP, VGG16, LeNet5Caffe, WideResNet

WIDEST = 3076  # of the paper's networks for CIFAR: 3072 inputs + 4


class Transposed(nn.Module):
    def __init__(self, units: int) -> None:
        super().__init__()
        self.encode = nn.Conv2d(3, units, 3, bias=False)
        self.decode = nn.ConvTranspose2d(units, 5, 3)


FAMILIES: dict[str, tuple[Callable[[Any], nn.Module], float, float]] = {
    "mlp": (lambda width: MLP(20, [width] * 3, 4), 7, 19),
    "skip, batch norm": (lambda width: MLP(20, [width] * 3, 4, batch_norm=True, skip=True), 7, 19),
    "lenet-5": (lambda width: LeNet5Caffe(width=width), 0.2, 0.45),
    "vgg": (lambda width: VGG16("D", width=width), 0.1, 0.2),
    "wide resnet": (lambda width: WideResNet(10, 1, width=width), 0.5, 1.25),
    "transposed": (Transposed, 3, 8),
}


@pytest.mark.parametrize("reference", ["dense", "sparse_nominal", "per_neuron_active"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_has_exactly_as_many_active_weights_as_the_dense_one(family: str, reference: Any) -> None:
    make_model, width, widest = FAMILIES[family]
    pair = same_capacity(make_model, width, widest, init_reference=reference, seed=3)
    dense, sparse = dict(pair.dense.named_parameters()), dict(pair.sparse.named_parameters())
    assert pair.masks
    for name, mask in pair.masks.items():
        assert int(mask.sum()) == pair.active[name] == dense[name].numel()
        assert mask.shape == sparse[name].shape
        assert torch.equal(sparse[name] != 0, mask)


@given(
    inputs=st.integers(1, 9),
    units=st.integers(1, 12),
    more=st.integers(0, 12),
    layers=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_counts_are_equal_for_any_widths(inputs: int, units: int, more: int, layers: int, seed: int) -> None:
    pair = same_capacity(lambda width: MLP(inputs, [width] * layers, 2), units, units + more, seed=seed)
    assert list(pair.active.values()) == [
        parameter.numel() for parameter in pair.dense.parameters() if parameter.dim() == 2
    ]


def test_the_densities_are_those_of_the_papers_networks() -> None:
    shares = (0.1, 0.3, 0.5, 0.7, 0.9)
    assert [round(share * WIDEST) for share in shares] == [308, 923, 1538, 2153, 2768]
    for share, hidden in zip(shares, (0.01, 0.09, 0.25, 0.49, 0.81), strict=True):
        pair = same_capacity(lambda width: MLP(48, [width] * 4), round(share * 40), 40)
        densities = [float(mask.float().mean()) for mask in pair.masks.values()]
        assert densities == pytest.approx([share, hidden, hidden, hidden, share])


def test_one_hidden_layer_has_the_active_weights_of_the_published_forerunner() -> None:
    for units, active in ((5, 3970), (15, 11910), (25, 19850)):
        pair = same_capacity(lambda width: MLP(784, [width]), units, 30)
        assert sum(pair.active.values()) == active


def wide(width: int) -> nn.Module:
    return MLP(64, [width] * 2, 16)


def values(pair: Any, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    dense, sparse = pair.dense.get_parameter(name).detach(), pair.sparse.get_parameter(name).detach()
    return dense.flatten(), sparse[pair.masks[name]]


@pytest.mark.parametrize("reference", ["dense", "sparse_nominal"])
def test_active_weights_of_both_have_the_same_distribution(reference: Any) -> None:
    pair = same_capacity(wide, 60, 240, init_reference=reference)
    for name in pair.masks:
        first, second = values(pair, name)
        assert len(first) == len(second)
        assert ks_2samp(first, second).pvalue > 0.001
        assert not torch.equal(first.sort().values, second.sort().values)  # drawn independently


@pytest.mark.parametrize(("reference", "fan_in"), [("dense", 60), ("sparse_nominal", 240)])
def test_the_distribution_is_that_of_the_network_that_is_named(reference: Any, fan_in: int) -> None:
    pair = same_capacity(wide, 60, 240, init_reference=reference)
    bound = fan_in**-0.5  # PyTorch's linear layers are uniform within 1 / sqrt(fan-in)
    for drawn in values(pair, "hidden.1.linear.weight"):
        assert 0.9 * bound < drawn.abs().max() <= bound


def test_scaling_by_active_inputs_gives_units_with_few_of_them_larger_weights() -> None:
    plain = same_capacity(wide, 20, 240)
    scaled = same_capacity(wide, 20, 240, init_reference="per_neuron_active")
    name = "hidden.1.linear.weight"
    mask = plain.masks[name]
    assert torch.equal(mask, scaled.masks[name])
    inputs = mask.sum(dim=1, keepdim=True)
    assert len(inputs.unique()) > 2
    expected = plain.sparse.get_parameter(name) * (20 / inputs.clamp(min=1)).sqrt()
    torch.testing.assert_close(scaled.sparse.get_parameter(name), expected)
    assert torch.equal(plain.dense.get_parameter(name), scaled.dense.get_parameter(name))


def test_units_of_a_transposed_convolution_are_its_output_channels() -> None:
    plain = same_capacity(Transposed, 3, 8)
    scaled = same_capacity(Transposed, 3, 8, init_reference="per_neuron_active")
    mask = plain.masks["decode.weight"]  # (in, out, 3, 3)
    inputs = mask.sum(dim=(0, 2, 3), keepdim=True)
    expected = plain.sparse.get_parameter("decode.weight") * (27 / inputs.clamp(min=1)).sqrt()
    torch.testing.assert_close(scaled.sparse.get_parameter("decode.weight"), expected)


def test_the_seed_decides_and_the_global_random_state_does_not() -> None:
    torch.manual_seed(5)
    first = same_capacity(wide, 9, 30, seed=1)
    state = torch.get_rng_state()
    torch.manual_seed(6)
    again, other = same_capacity(wide, 9, 30, seed=1), same_capacity(wide, 9, 30, seed=2)
    for name, mask in first.masks.items():
        assert torch.equal(mask, again.masks[name])
        assert not torch.equal(mask, other.masks[name])
        assert torch.equal(first.sparse.get_parameter(name), again.sparse.get_parameter(name))
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())  # as if nothing had been drawn


def test_masks_may_be_those_of_the_largest_weights() -> None:
    pair = same_capacity(wide, 9, 30, init_reference="sparse_nominal", initial_masks="magnitude", seed=4)
    drawn = same_capacity(wide, 9, 30, init_reference="sparse_nominal", seed=4)
    name = "output.weight"
    kept = pair.sparse.get_parameter(name).detach()[pair.masks[name]].abs()
    random = drawn.sparse.get_parameter(name).detach()[drawn.masks[name]].abs()
    assert len(kept) == len(random)
    assert kept.min() > 30**-0.5 / 2  # the largest 30 % of a uniform distribution
    assert random.min() < 30**-0.5 / 2


def test_a_network_keeps_the_masks() -> None:
    pair = same_capacity(wide, 9, 30)
    network = SparseNetwork(pair.sparse, masks=pair.masks)
    assert {name: layer.active for name, layer in network.layers.items()} == pair.active


def test_at_the_full_width_both_are_dense() -> None:
    pair = same_capacity(wide, 30, 30)
    assert all(mask.all() for mask in pair.masks.values())


@pytest.mark.parametrize(
    ("make_model", "message"),
    [
        (
            lambda width: MLP(8, [12 - width]),
            r"no wider than the sparse one in layer 'hidden.0.*Cure",
        ),
        (
            lambda width: MLP(8, [4] * width),
            r"two widths of a network with the same layers; got .*Cure",
        ),
    ],
)
def test_networks_that_can_not_be_compared_are_refused(make_model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        same_capacity(make_model, 2, 5)


def test_an_unknown_reference_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected init_reference as one of 'dense', .*; got 'both'. Cure"):
        same_capacity(wide, 2, 5, init_reference="both")  # type: ignore[arg-type]  # the test's point
