from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from topology_helpers import random_layer

from lightning_sparse.topology import RECIPES, LayerView, rewire
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.layer import MissingSignalError, signals_of
from lightning_sparse.topology.pruning import PRUNING, signed_magnitude
from lightning_sparse.topology.redistribution import REDISTRIBUTION, mean_momentum

SCORES = {**PRUNING, **GROWTH}


def view(weight: list[float], mask: list[int], momentum: list[float] | None = None) -> LayerView:
    return LayerView(
        "layer",
        weight=torch.tensor([weight]),
        mask=torch.tensor([mask], dtype=torch.bool),
        generator=torch.Generator().manual_seed(0),
        momentum=None if momentum is None else torch.tensor([momentum]),
    )


@pytest.mark.parametrize("name", sorted(SCORES))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_rule_scores_every_weight_with_a_number(name: str, dtype: torch.dtype) -> None:
    for shape in ((1, 1), (4, 5), (2, 3, 3, 3)):
        scores = SCORES[name](random_layer(shape=shape, active=1, dtype=dtype))
        assert scores.shape == torch.Size(shape)
        assert torch.isfinite(scores).all()


@pytest.mark.parametrize("name", sorted(SCORES))
def test_every_rule_does_without_the_signals_that_it_does_not_declare(name: str) -> None:
    rule = SCORES[name]
    layer = random_layer()
    for signal in {"momentum", "gradient"} - signals_of(rule):
        layer = replace(layer, **{signal: None})  # type: ignore[arg-type]  # signals may be None
    assert rule(layer).shape == layer.weight.shape


@pytest.mark.parametrize("name", sorted(SCORES))
def test_a_rule_leaves_what_it_looks_at_alone(name: str) -> None:
    layer = random_layer()
    values = [layer.weight, layer.mask, layer.momentum, layer.gradient]
    copies = [value.clone() for value in values if value is not None]
    scores = SCORES[name](layer)
    scores.zero_()  # nor may its result share memory with it
    assert all(torch.equal(value, copy) for value, copy in zip(values, copies, strict=True) if value is not None)


def test_magnitudes_don_t_depend_on_signs() -> None:
    layer = view([3.0, -4.0, 0.0], [1, 1, 0], [-1.0, 2.0, -5.0])
    assert PRUNING["magnitude"](layer).tolist() == [[3.0, 4.0, 0.0]]
    assert GROWTH["momentum"](layer).tolist() == [[1.0, 2.0, 5.0]]
    assert GROWTH["gradient"](replace(layer, gradient=torch.tensor([[-7.0, 0.0, 1.0]]))).tolist() == [[7.0, 0.0, 1.0]]


def test_signed_magnitude_ranks_each_sign_by_itself_and_zeros_last() -> None:
    layer = view([0.1, 5.0, 2.0, -9.0, -3.0, 0.0, 0.0, 7.0], [1, 1, 1, 1, 1, 1, 0, 1])
    assert signed_magnitude(layer).tolist() == [[0.25, 0.75, 0.5, 1.0, 0.5, 0.0, 0.0, 1.0]]


def test_signed_magnitude_does_with_one_sign_or_none() -> None:
    assert signed_magnitude(view([3.0, 1.0, 0.0], [1, 1, 0])).tolist() == [[1.0, 0.5, 0.0]]
    assert signed_magnitude(view([-3.0, -1.0, 0.0], [1, 1, 0])).tolist() == [[1.0, 0.5, 0.0]]
    assert signed_magnitude(view([0.0, 0.0], [1, 0])).tolist() == [[0.0, 0.0]]


@settings(max_examples=100, deadline=None)
@given(positive=st.integers(0, 60), negative=st.integers(0, 60), seed=st.integers(0, 99), prune_rate=st.floats(0, 1))
def test_set_prunes_the_fraction_of_the_positive_and_of_the_negative_weights(
    positive: int, negative: int, seed: int, prune_rate: float
) -> None:
    values = torch.cat([torch.arange(1.0, positive + 1), -torch.arange(1.0, negative + 1), torch.zeros(20)])
    values = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))].view(1, -1)
    layer = LayerView("layer", values, values != 0, torch.Generator())
    left = values[rewire([layer], RECIPES["set_original"], prune_rate).survivors["layer"]]
    for members, count in ((left[left > 0], positive), (-left[left < 0], negative)):
        assert abs(count - len(members) - prune_rate * count) <= 1
        assert sorted(members.tolist()) == [float(n) for n in range(count - len(members) + 1, count + 1)]


def test_random_growth_is_noise_of_the_layer_s_generator() -> None:
    layer = random_layer(seed=3)
    expected = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(3))
    assert torch.equal(GROWTH["random"](layer), expected)
    assert not torch.equal(GROWTH["random"](layer), expected)


def number(value: Any) -> float:
    return float(value)


def test_mean_momentum_is_that_of_active_weights_whatever_their_sign() -> None:
    assert number(mean_momentum(view([1.0, 1.0, 0.0], [1, 1, 0], [-1.0, 4.0, 1000.0]))) == 2.5


def test_a_layer_without_active_weights_claims_nothing() -> None:
    assert number(mean_momentum(view([0.0, 0.0], [0, 0], [3.0, 4.0]))) == 0.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [("momentum", 2.5), ("momentum_per_multiplication", 0.1), ("momentum_per_root_multiplication", 0.5)],
)
def test_claims_are_divided_by_the_multiplications_of_a_weight_or_their_root_or_not(name: str, expected: float) -> None:
    layer = view([1.0, 1.0, 0.0], [1, 1, 0], [-1.0, 4.0, 1000.0])
    rule = REDISTRIBUTION[name]
    assert rule is not None
    assert number(rule(replace(layer, others={"multiplications": torch.tensor(25.0)}))) == expected


@pytest.mark.parametrize("name", ["momentum_per_multiplication", "momentum_per_root_multiplication"])
def test_a_claim_per_multiplication_needs_their_number(name: str) -> None:
    rule = REDISTRIBUTION[name]
    assert rule is not None
    with pytest.raises(MissingSignalError, match=r"the multiplications of layer 'layer'.*track_multiplications=True"):
        rule(view([1.0, 0.0], [1, 0], [1.0, 1.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_mean_momentum_is_summed_in_double_precision(dtype: torch.dtype) -> None:
    # 2**14 + 9999 halves of ones: no half, bfloat16 or single precision sum of them in sequence would be right.
    momentum = torch.ones(200, 100, dtype=dtype)
    momentum[0, 0] = 2**14
    momentum[0, 1] = 2**-14
    layer = LayerView("layer", momentum, torch.ones(200, 100, dtype=torch.bool), torch.Generator(), momentum)
    assert number(mean_momentum(layer)) == (2**14 + 2**-14 + 19_998) / 20_000


def test_registries_hold_the_rules_by_the_names_of_the_papers() -> None:
    assert set(PRUNING) == {"magnitude", "signed_magnitude"}
    assert set(GROWTH) == {"momentum", "gradient", "random"}
    assert set(REDISTRIBUTION) == {
        "momentum",
        "momentum_per_multiplication",
        "momentum_per_root_multiplication",
        "none",
    }
    assert REDISTRIBUTION["none"] is None
