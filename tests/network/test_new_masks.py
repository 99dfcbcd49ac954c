"""New masks: random ones for weights as they are initialized, those of a rule for others."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_sparse import SparseNetwork
from lightning_sparse.network.first_masks import freshness
from lightning_sparse.testing.equality import differences
from lightning_sparse.topology import LayerView, MissingSignalError, NonFiniteError, uses


def model(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 4)).to(dtype)


def sparse(density: float = 0.3) -> nn.Sequential:
    """Return a module with weights that are sparse, as another run left them."""
    module = model()
    SparseNetwork(module, density=density)
    return module


@pytest.mark.parametrize("density", [0.05, 0.5, 0.8, 0.98])
@pytest.mark.parametrize("new", [0.04, 0.64, 0.99])
def test_random_masks_for_weights_that_are_sparse_are_refused_at_any_density(density: float, new: float) -> None:
    module = sparse(density)
    before = copy.deepcopy(module.state_dict())
    message = r"(?s)got [\d,]+ exact zeros among the [\d,]+ of '\d.weight', .*Cure: .*masks_from=.*from_checkpoint"
    with pytest.raises(ValueError, match=message):
        SparseNetwork(module, density=new)
    assert differences(dict(module.state_dict()), dict(before)) == []


def test_one_sparse_layer_is_enough_and_is_named() -> None:
    module = model()
    module[2].weight.data[:, ::50] = 0
    assert (module[2].weight == 0).float().mean() == 0.025
    with pytest.raises(ValueError, match=r"got 40 exact zeros among the 1,600 of '2\.weight', 2\.5 % zeros\. "):
        SparseNetwork(module, density=0.3)
    SparseNetwork(module, density=0.3, exclude="2")


@pytest.mark.parametrize(
    "options",
    [{"density": 1}, {"dense": ["2"]}, {"density": {"2": 1, "*": 0.3}}, {"initial_masks": "magnitude"}],
    ids=str,
)
def test_layers_that_stay_whole_or_keep_their_largest_weights_may_have_zeros(options: dict[str, Any]) -> None:
    module = model()
    module[2].weight.data[:, ::4] = 0
    weight = module[2].weight.detach().clone()
    network = SparseNetwork(module, **{"density": 0.8, **options})
    kept = weight.abs() * network.masks["2.weight"]
    assert kept.count_nonzero() == min(weight.count_nonzero(), network.layers["2.weight"].active)


def test_a_layer_of_nothing_but_zeros_starts_from_there() -> None:
    module = model()
    nn.init.zeros_(module[4].weight)
    assert SparseNetwork(module, density=0.3).layers["4.weight"].active == 48


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    "draw", [nn.init.kaiming_uniform_, nn.init.xavier_normal_, nn.init.trunc_normal_, nn.init.orthogonal_]
)
def test_initialization_in_any_precision_is_fresh(draw: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    for size in (4, 16, 64):
        layer = nn.Linear(size, size)
        draw(layer.weight.data)
        SparseNetwork(layer.to(dtype), density=0.5)


def test_numbers_of_eight_random_bits_have_zeros_and_are_fresh() -> None:
    torch.manual_seed(0)
    for size in (4, 16, 64, 256):
        layer = nn.Linear(size, size, dtype=torch.bfloat16)
        layer.weight.data = (torch.randint(256, (size, size)) - 128).to(torch.bfloat16)
        SparseNetwork(layer, density=0.5)


def test_all_layers_wait_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = freshness.whole_counts

    def counting(rows: Any, weights: Any) -> list[list[int]]:
        rows = list(rows)
        asked.append(len(rows))
        return real(rows, weights)

    monkeypatch.setattr(freshness, "whole_counts", counting)
    SparseNetwork(model(), density=0.3)
    assert asked == [3]


def test_magnitude_keeps_the_largest_weights_of_each_layer() -> None:
    module = model()
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    network = SparseNetwork(module, density=0.2, initial_masks="magnitude", distribution="erdos_renyi")
    for name, mask in network.masks.items():
        weights = before[name].abs()
        assert mask.sum() == network.layers[name].active
        assert weights[mask].min() >= weights[~mask].max()
    random = SparseNetwork(model(), density=0.2, distribution="erdos_renyi")
    assert [layer.active for layer in random.layers.values()] == [layer.active for layer in network.layers.values()]
    assert differences(random.masks, network.masks) != []


@uses()
def by_position(layer: LayerView) -> Tensor:
    """Score by place: the last weights are active."""
    assert layer.mask.all()
    return torch.arange(layer.weight.numel(), dtype=torch.float32).view(layer.weight.shape)


@pytest.mark.parametrize("rule", [by_position, f"{__name__}.by_position", f"{__name__}:by_position"])
def test_a_rule_of_ones_own_chooses_the_first_masks(rule: Any) -> None:
    network = SparseNetwork(model(), density=0.2, initial_masks=rule)
    for name, mask in network.masks.items():
        active = network.layers[name].active
        assert mask.flatten()[-active:].all()
        assert mask.sum() == active


def test_random_masks_are_those_of_earlier_versions() -> None:
    first = SparseNetwork(model(), density=0.2, seed=3)
    again = SparseNetwork(model(), density=0.2, seed=3, initial_masks="random")
    noise = SparseNetwork(model(), density=0.2, seed=3, initial_masks=lambda layer: layer.noise())
    assert differences(first.masks, again.masks) == differences(first.masks, noise.masks) == []


def test_equal_scores_go_to_the_first_weights() -> None:
    network = SparseNetwork(model(), density=0.2, initial_masks=lambda layer: torch.zeros_like(layer.weight))
    assert all(mask.flatten()[: network.layers[name].active].all() for name, mask in network.masks.items())


def spoil(layer: LayerView) -> Tensor:
    return layer.weight.abs_()


FAULTS: dict[str, tuple[Any, type[Exception], str]] = {
    "unknown": ("largest", ValueError, "rule for the first masks from random, magnitude"),
    "no function": (3, TypeError, "rule for the first masks"),
    "shape": (lambda layer: layer.weight[0], ValueError, "one score per weight of layer '0.weight'"),
    "not finite": (lambda layer: layer.weight * torch.nan, NonFiniteError, "scores without NaN"),
    "momentum": (lambda layer: layer.require("momentum"), MissingSignalError, "choose a rule that does without it"),
    "in place": (spoil, ValueError, "leaves layer '0.weight' as it is"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_rules_that_can_not_be_used_are_refused(fault: str) -> None:
    rule, kind, message = FAULTS[fault]
    with pytest.raises(kind, match=message):
        SparseNetwork(model(), density=0.2, initial_masks=rule)


def test_magnitude_of_weights_that_are_not_finite_is_refused() -> None:
    module = model()
    module[2].weight.data[3, 4] = torch.inf
    with pytest.raises(NonFiniteError, match=r"finite numbers in the weight of layer '2\.weight'"):
        SparseNetwork(module, density=0.2, initial_masks="magnitude")
