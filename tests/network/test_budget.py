"""From densities to counts: exact, complete, and with limits that are named."""

from __future__ import annotations

import copy
from math import prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.budget import as_density, check_density_options, initial_counts
from lightning_sparse.selection.weight import Weight
from lightning_sparse.selection.weights import find_weights
from lightning_sparse.topology.density import DISTRIBUTIONS

shapes = st.lists(st.lists(st.integers(1, 7), min_size=2, max_size=2), min_size=1, max_size=5)


def weights_of(widths: list[list[int]]) -> dict[str, Weight]:
    return find_weights(nn.Sequential(*(nn.Linear(inputs, outputs) for outputs, inputs in widths)))


def mixed() -> dict[str, Weight]:
    """Return layers `conv` of 90, `hidden` of 200 and `head` of 40 weights."""
    return find_weights(
        nn.ModuleDict({"conv": nn.Conv2d(2, 5, 3), "hidden": nn.Linear(10, 20), "head": nn.Linear(20, 2)})
    )


@given(widths=shapes, distribution=st.sampled_from(sorted(DISTRIBUTIONS)), min_active=st.integers(0, 3), data=st.data())
def test_counts_sum_to_the_rounded_density(
    widths: list[list[int]], distribution: str, min_active: int, data: st.DataObject
) -> None:
    weights, sizes = weights_of(widths), [prod(shape) for shape in widths]
    least = [min(min_active, size) for size in sizes]
    density = data.draw(st.floats(max(sum(least) / sum(sizes), 1e-9), 1))
    counts = list(initial_counts(weights, density, distribution, min_active=min_active).values())
    assert sum(counts) == round(density * sum(sizes))
    assert all(low <= count <= size for low, count, size in zip(least, counts, sizes, strict=True))


@given(widths=shapes, total=st.floats(1e-9, 1), min_active=st.integers(1, 3))
def test_a_density_is_met_or_refused_but_never_bent(widths: list[list[int]], total: float, min_active: int) -> None:
    sizes = [prod(shape) for shape in widths]
    feasible = round(total * sum(sizes)) >= sum(min(min_active, size) for size in sizes)
    try:
        counts = initial_counts(weights_of(widths), total, min_active=min_active)
    except ValueError:
        counts = None
    assert (counts is not None) == feasible
    assert counts is None or sum(counts.values()) == round(total * sum(sizes))


def test_uniform_gives_every_layer_the_same_density() -> None:
    assert initial_counts(mixed(), 0.1) == {"conv.weight": 9, "hidden.weight": 20, "head.weight": 4}


def test_distributions_differ() -> None:
    counts = {name: tuple(initial_counts(mixed(), 0.1, name).values()) for name in DISTRIBUTIONS}
    assert len(set(counts.values())) == len(DISTRIBUTIONS)
    assert {sum(each) for each in counts.values()} == {33}


def test_dense_layers_are_full_and_the_others_share_the_rest() -> None:
    counts = initial_counts(mixed(), 0.5, dense=["head", nn.Conv2d])
    assert counts == {"conv.weight": 90, "hidden.weight": 165 - 90 - 40, "head.weight": 40}


def test_all_layers_dense_is_density_1() -> None:
    assert sum(initial_counts(mixed(), 1, dense=["*"]).values()) == 330
    with pytest.raises(ValueError, match=r"Expected a density from 1.* to 1"):
        initial_counts(mixed(), 0.9, dense=["*"])


def test_too_much_that_stays_dense_is_an_error_with_limit_and_cure() -> None:
    with pytest.raises(ValueError, match=r"from 0\.39\d* to 1: of 330 weights 130 stay.*got 0\.3\..*Cure: a higher"):
        initial_counts(mixed(), 0.3, dense=["head", "conv"])


def test_the_minimum_is_kept_in_every_layer() -> None:
    assert initial_counts(mixed(), 0.05, "erdos_renyi_kernel", min_active=5)["head.weight"] >= 5
    assert min(initial_counts(mixed(), 16 / 330, min_active=5).values()) == 5
    with pytest.raises(ValueError, match="the other 3 layers keep at least 5 each"):
        initial_counts(mixed(), 14 / 330, min_active=5)


def test_a_mapping_gives_each_layer_its_own_density() -> None:
    counts = initial_counts(mixed(), {"head": 1, "Linear": 0.1, "*": 0.5})
    assert counts == {"conv.weight": 45, "hidden.weight": 20, "head.weight": 40}


def test_of_several_matches_in_a_mapping_the_first_counts() -> None:
    assert initial_counts(mixed(), {"*": 0.5, "head": 1.0})["head.weight"] == 20
    assert initial_counts(mixed(), {"head": 1.0, "*": 0.5})["head.weight"] == 40


def test_a_mapping_leaves_dense_layers_dense() -> None:
    assert initial_counts(mixed(), {"*": 0.1}, dense=["conv"]) == {
        "conv.weight": 90,
        "hidden.weight": 20,
        "head.weight": 4,
    }


def test_a_mapping_never_empties_a_layer() -> None:
    assert initial_counts(mixed(), {"*": 0.001}, min_active=2) == dict.fromkeys(mixed(), 2)


def test_a_layer_without_a_density_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"a density for every layer; got none for 'conv.weight'.*Cure: add '\*'"):
        initial_counts(mixed(), {"Linear": 0.1})


def test_a_pattern_without_a_match_is_an_error_that_names_candidates() -> None:
    for wish in ({"density": {"haed": 0.1, "*": 0.5}}, {"density": 0.9, "dense": ["haed"]}):
        with pytest.raises(ValueError, match=r"got 'haed'. Cure: choose from conv.weight, hidden.weight, head.weight"):
            initial_counts(mixed(), **wish)  # type: ignore[arg-type]  # one table for two arguments


@pytest.mark.parametrize("density", [0, -0.1, 1.1, float("nan"), float("inf"), True, "0.1", None, [0.1]])
def test_what_is_no_density_is_refused_wherever_it_stands(density: Any) -> None:
    with pytest.raises(ValueError, match=r"Expected a density in \(0, 1\].*got.*Cure: for a sparsity of 95 %"):
        check_density_options(density, "uniform", 1)
    with pytest.raises(ValueError, match=r"Expected a density in \(0, 1\]"):
        initial_counts(mixed(), density)
    with pytest.raises(ValueError, match=r"stay active in the layers 'head'; got"):
        initial_counts(mixed(), {"head": density, "*": 0.5})


def test_a_mapping_and_a_distribution_contradict_each_other() -> None:
    with pytest.raises(ValueError, match=r"got \{'\*': 0.1\} and 'erdos_renyi'. Cure: drop one"):
        initial_counts(mixed(), {"*": 0.1}, "erdos_renyi")


def test_an_unknown_distribution_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected a distribution from uniform, .*; got 'erk'"):
        initial_counts(mixed(), 0.1, "erk")


@given(percent=st.integers(1, 100))
def test_a_sparsity_is_the_density_that_it_leaves(percent: int) -> None:
    assert as_density(None, (100 - percent) / 100) == percent / 100
    assert as_density(percent / 100, None) == percent / 100


def test_a_sparsity_may_differ_from_layer_to_layer_like_a_density() -> None:
    assert as_density(None, {"hidden": 0.9, "*": 0}) == {"hidden": 0.1, "*": 1.0}


def test_without_either_the_density_is_the_papers() -> None:
    assert as_density(None, None) == 0.05


def test_a_density_and_a_sparsity_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"Expected a density or a sparsity; got density=0.1 and sparsity=0.9. Cure"):
        as_density(0.1, 0.9)


@pytest.mark.parametrize("sparsity", [1, 1.5, -0.1, True, "0.9", float("nan"), {"hidden": 1.0}], ids=repr)
def test_a_sparsity_that_leaves_nothing_or_is_none_is_refused(sparsity: Any) -> None:
    with pytest.raises(ValueError, match=r"Expected a sparsity in \[0, 1\).*got .*Cure"):
        as_density(None, sparsity)


def test_minimum_is_still_taken_for_min_active_and_warns() -> None:
    model = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 1))
    with pytest.warns(DeprecationWarning, match="use min_active"):
        old = SparseNetwork(copy.deepcopy(model), 0.1, minimum=7, seed=0)
    new = SparseNetwork(copy.deepcopy(model), 0.1, min_active=7, seed=0)
    assert [layer.active for layer in new.layers.values()] == [layer.active for layer in old.layers.values()]
    assert new.layers["1.weight"].active == 7
    with pytest.raises(ValueError, match=r"got min_active=2 and minimum=7"):
        SparseNetwork(model, 0.1, min_active=2, minimum=7)
