"""Differences between two networks: sums of squares and effect sizes as calculated by hand and by comparing models."""

from __future__ import annotations

import subprocess
import sys
from math import isnan, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lightning_sparse.analysis import compare
from lightning_sparse.analysis.anova import Anova, two_way_anova
from lightning_sparse.analysis.specialization_comparison import LayerDifference, layer_difference

Array = NDArray[np.float64]
Groups = dict[str, tuple[Array, Array]]
FACTORS = ("layer", "is_sparse", "layer:is_sparse")

# Two layers of two channels. Means: 2 and 6, 3 and 11; of the layers 4 and 7, of the networks 2.5 and 8.5, of all 5.5.
DENSE = {"a": [1.0, 3.0], "b": [2.0, 4.0]}
SPARSE = {"a": [5.0, 7.0], "b": [10.0, 12.0]}


def by_factor(anova: Anova, attribute: str) -> list[float]:
    assert tuple(effect.factor for effect in anova.effects) == FACTORS
    return [getattr(effect, attribute) for effect in anova.effects]


# By hand


def test_the_analysis_of_variance_is_that_of_a_calculation_by_hand() -> None:
    anova = compare(DENSE, SPARSE).anova
    # 4 * 2 * 1.5 ** 2, 4 * 2 * 3 ** 2, and 2 * 4 * 1 ** 2; within each pair 2 * 1 ** 2.
    assert by_factor(anova, "sum_sq") == pytest.approx([18, 72, 8])
    assert (anova.residual_sum_sq, anova.residual_df) == (pytest.approx(8), 4)
    assert by_factor(anova, "df") == [1, 1, 1]
    assert by_factor(anova, "f") == pytest.approx([9, 36, 4])
    # Two-sided t tests with 4 degrees of freedom, of 3, 6 and 2.
    assert by_factor(anova, "p") == pytest.approx([0.039942, 0.003883, 0.116117], abs=1e-6)
    assert by_factor(anova, "eta_sq") == pytest.approx([18 / 106, 72 / 106, 8 / 106])
    assert by_factor(anova, "partial_eta_sq") == pytest.approx([18 / 26, 72 / 80, 8 / 16])
    assert by_factor(anova, "omega_sq") == pytest.approx([16 / 108, 70 / 108, 6 / 108])


def test_differences_of_layers_are_those_of_a_calculation_by_hand() -> None:
    first, second = compare(DENSE, SPARSE).layers
    assert (first.layer, first.dense_mean, first.sparse_mean, first.difference) == ("a", 2, 6, 4)
    assert (first.dense_channels, first.sparse_channels) == (2, 2)
    assert first.standard_error == pytest.approx(sqrt(2 / 2 + 2 / 2))
    assert first.cohens_d == pytest.approx(4 / sqrt(2))
    assert second.difference == 8
    unequal = layer_difference("c", np.array([0.0, 0.0, 3.0, 3.0]), np.array([1.0, 2.0]))
    assert unequal.standard_error == pytest.approx(sqrt(3 / 4 + 0.5 / 2))
    assert unequal.cohens_d == pytest.approx(0, abs=1e-12)
    assert layer_difference("c", np.array([0.0, 2.0]), np.array([-1.0, 0.0, 1.0])).cohens_d == pytest.approx(
        -1 / sqrt((2 + 2) / 3)
    )


def test_a_layer_of_one_channel_has_a_difference_without_an_error() -> None:
    one = layer_difference("a", np.array([0.5]), np.array([0.25]))
    assert one.difference == -0.25
    assert isnan(one.standard_error)
    assert isnan(one.cohens_d)
    assert isnan(layer_difference("a", np.array([0.5, 0.5]), np.array([0.25, 0.25])).cohens_d)


# A published one


def test_the_analysis_of_variance_is_the_published_one_of_the_tooth_growth_of_guinea_pigs() -> None:
    # R's data set ToothGrowth (Crampton 1947): growth by dose of vitamin C, from ascorbic acid and from orange juice.
    acid = {
        "0.5 mg": [4.2, 11.5, 7.3, 5.8, 6.4, 10.0, 11.2, 11.2, 5.2, 7.0],
        "1 mg": [16.5, 16.5, 15.2, 17.3, 22.5, 17.3, 13.6, 14.5, 18.8, 15.5],
        "2 mg": [23.6, 18.5, 33.9, 25.5, 26.4, 32.5, 26.7, 21.5, 23.3, 29.5],
    }
    juice = {
        "0.5 mg": [15.2, 21.5, 17.6, 9.7, 14.5, 10.0, 8.2, 9.4, 16.5, 9.7],
        "1 mg": [19.7, 23.3, 23.6, 26.4, 20.0, 25.2, 25.8, 21.2, 14.5, 27.3],
        "2 mg": [25.5, 26.4, 22.4, 24.5, 24.8, 30.9, 26.4, 27.3, 29.4, 23.0],
    }
    anova = compare(acid, juice).anova
    assert by_factor(anova, "df") == [2, 1, 2]
    assert by_factor(anova, "sum_sq") == pytest.approx([2426.4, 205.4, 108.3], abs=0.051)
    assert (anova.residual_sum_sq, anova.residual_df) == (pytest.approx(712.1, abs=0.051), 54)
    assert by_factor(anova, "f") == pytest.approx([92.000, 15.572, 4.107], abs=0.0005)
    assert by_factor(anova, "p")[1:] == pytest.approx([0.000231, 0.021860], abs=1e-6)


# Directly


def groups(sizes: list[int], seed: int) -> Groups:
    generator = np.random.default_rng(seed)
    values = [generator.normal(generator.normal(), 1, size) for size in sizes]
    return {f"layer{number // 2}": (values[number], values[number + 1]) for number in range(0, len(values), 2)}


@pytest.mark.parametrize("seed", range(3))
def test_a_balanced_design_has_the_sums_of_squares_of_its_means(seed: int) -> None:
    values = groups([5] * 8, seed)
    table = np.array(list(values.values()))  # layers, networks, channels
    mean, layers, networks, cells = table.mean(), table.mean((1, 2)), table.mean((0, 2)), table.mean(2)
    interaction = cells - layers[:, None] - networks[None] + mean
    anova = two_way_anova(values)
    expected = [10 * ((layers - mean) ** 2).sum(), 20 * ((networks - mean) ** 2).sum(), 5 * (interaction**2).sum()]
    assert by_factor(anova, "sum_sq") == pytest.approx(expected)
    assert anova.residual_sum_sq == pytest.approx(((table - cells[..., None]) ** 2).sum())
    assert by_factor(anova, "df") == [3, 1, 3]
    # Nothing is counted twice: all of the variance is there.
    assert sum(by_factor(anova, "sum_sq")) + anova.residual_sum_sq == pytest.approx(((table - mean) ** 2).sum())


def residual(values: Groups, *, layer: bool, network: bool, both: bool = False) -> float:
    """Return the sum of squares that a model with these factors leaves, fitted by least squares."""
    rows, numbers = [], []
    for index, pair in enumerate(values.values()):
        for is_sparse, group in enumerate(pair):
            one_hot = np.eye(len(values))[index]
            row = [1.0, *(one_hot if layer else ()), *([is_sparse] if network else ())]
            rows += [[*row, *(one_hot * is_sparse if both else ())]] * len(group)
            numbers += group.tolist()
    design, observed = np.array(rows), np.array(numbers)
    fitted = design @ np.linalg.lstsq(design, observed, rcond=None)[0]
    return float(((observed - fitted) ** 2).sum())


@settings(max_examples=30)
@given(
    st.lists(st.integers(1, 7), min_size=4, max_size=10).filter(lambda sizes: len(sizes) % 2 == 0 and max(sizes) > 1)
)
def test_sums_of_squares_of_type_2_are_what_a_factor_explains_beyond_the_other(sizes: list[int]) -> None:
    values = groups(sizes, seed=sum(sizes))
    anova = two_way_anova(values)
    additive = residual(values, layer=True, network=True)
    full = residual(values, layer=True, network=True, both=True)
    layer = residual(values, layer=False, network=True) - additive
    network = residual(values, layer=True, network=False) - additive
    assert by_factor(anova, "sum_sq") == pytest.approx([layer, network, additive - full], abs=1e-9)
    assert anova.residual_sum_sq == pytest.approx(full, abs=1e-9)
    assert anova.residual_df == sum(sizes) - len(sizes)
    total = layer + network + additive
    assert by_factor(anova, "eta_sq") == pytest.approx(
        [layer / total, network / total, (additive - full) / total], abs=1e-9
    )
    for effect in anova.effects:
        mean_square = anova.residual_sum_sq / anova.residual_df
        assert effect.partial_eta_sq == pytest.approx(effect.sum_sq / (effect.sum_sq + anova.residual_sum_sq))
        assert effect.omega_sq == pytest.approx((effect.sum_sq - effect.df * mean_square) / (total + mean_square))
        assert effect.f == pytest.approx(effect.sum_sq / effect.df / mean_square)


# Arguments


def test_channels_without_a_value_are_left_out_and_layers_without_any_are_named() -> None:
    dense = {"a": [1.0, float("nan"), 3.0], "dead": [float("nan")] * 2, "b": [2.0, 4.0]}
    sparse = {"a": [5.0, 7.0], "dead": [0.5, 0.6], "b": [float("nan"), 10.0, 12.0]}
    comparison = compare(dense, sparse)
    assert comparison.left_out == ("dead",)
    assert (comparison.anova, comparison.layers) == (compare(DENSE, SPARSE).anova, compare(DENSE, SPARSE).layers)
    assert compare(DENSE, SPARSE).left_out == ()


@pytest.mark.parametrize(
    "form",
    [
        np.array,
        torch.tensor,
        lambda values: torch.tensor(values, dtype=torch.bfloat16, requires_grad=True),
        lambda values: {"specialization": torch.tensor(values), "dead": torch.tensor(3)},
        lambda values: {"specialization": values},
    ],
)
def test_values_are_taken_in_any_form(form: Any) -> None:
    dense, sparse = ({layer: form(values) for layer, values in each.items()} for each in (DENSE, SPARSE))
    assert compare(dense, sparse) == compare(DENSE, SPARSE)


def test_as_a_string_it_is_two_aligned_tables() -> None:
    comparison = compare({**DENSE, "dead": [float("nan")]}, {**SPARSE, "dead": [1.0]})
    layers, effects, left_out = (part.splitlines() for part in str(comparison).split("\n\n"))
    assert layers[0].split()[:3] == ["layer", "dense", "sparse"]
    assert layers[1].split() == ["a", "2.0000", "6.0000", "+4.0000", "1.4142", "+2.83", "2,", "2"]
    assert effects[2].split() == ["is_sparse", "72", "1", "36", "0.00388", "0.679", "0.900", "0.648"]
    assert effects[4].split() == ["residual", "8", "4"]
    assert left_out == ["without values in one of the networks: dead"]
    assert [len({len(line) for line in table}) for table in (layers, effects)] == [1, 1]
    assert str(compare(DENSE, SPARSE)).count("\n\n") == 1


def test_a_result_can_not_be_changed() -> None:
    comparison = compare(DENSE, SPARSE)
    with pytest.raises(AttributeError):
        comparison.layers = ()  # type: ignore[misc]  # must fail
    assert isinstance(comparison.layers[0], LayerDifference)


@pytest.mark.parametrize(
    ("dense", "sparse", "message"),
    [
        (DENSE, {"a": [1.0]}, r"same layers in both networks; got \['b'\] in one of them only"),
        ({"a": [1.0, 2.0]}, {"a": [3.0, 4.0]}, r"at least two layers with values in both networks; got \['a'\]"),
        ({"a": [1.0], "b": [2.0]}, {"a": [3.0], "b": [4.0]}, "values that vary within a layer"),
        ({"a": [1.0, 1.0], "b": [2.0]}, {"a": [3.0], "b": [4.0]}, "values that vary within a layer"),
        (DENSE, {"a": [1.0, 2.0], "b": [float("inf"), 1.0]}, "finite or NaN; got infinity for layer 'b'"),
        (DENSE, {"a": [1.0, 2.0], "b": torch.ones(2, 2)}, r"one number per channel.*got shape \(2, 2\) for layer 'b'"),
    ],
)
def test_what_can_not_be_compared_is_refused(dense: Any, sparse: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"Expected .*{message}.* Cure: "):
        compare(dense, sparse)


def test_without_statsmodels_the_error_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "statsmodels.formula.api", None)
    with pytest.raises(ModuleNotFoundError, match=r"Expected statsmodels .* Cure: pip install statsmodels.*'analysis'"):
        compare(DENSE, SPARSE)
    assert layer_difference("a", np.array([1.0, 3.0]), np.array([5.0, 7.0])).difference == 4


def test_statsmodels_is_not_imported_with_the_package() -> None:
    source = "import sys, lightning_sparse.analysis; print({'statsmodels', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
