"""Searches as data: what is chosen by default, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from searches import OPTIONS, TEMPLATE, search, template_of

from lightning_sparse.search.controls import final_architectures, final_trainings, spread, width_of
from lightning_sparse.search.density_search import CONTROLS, DensitySearch, shipped
from lightning_sparse.search.spaces import GroupDensities, LayerDensities, PowerLaw
from lightning_sparse.search.template import Template, read_template
from lightning_sparse.search.trainings import Architecture, SearchTraining
from lightning_sparse.search.trials import Trial
from lightning_sparse.search.tried import Candidate


def layers(number: int) -> Template:
    return Template({f"layer{index}": (10, 10) for index in range(number)})


@pytest.mark.parametrize(
    ("number", "changes", "space", "sampler"),
    [
        (3, {}, LayerDensities, "tpe"),
        (10, {}, LayerDensities, "mutation"),
        (50, {}, PowerLaw, "tpe"),
        (50, {"space": "layers"}, LayerDensities, "mutation"),
        (50, {"groups": ("layer1*", "*")}, GroupDensities, "tpe"),
        (3, {"space": "power_law", "sampler": "cma_es"}, PowerLaw, "cma_es"),
    ],
)
def test_the_number_of_layers_chooses_space_and_sampler(number: int, changes: Any, space: type, sampler: str) -> None:
    chosen = search(**{"sampler": None, **changes})
    found = chosen.choose_space(layers(number))
    assert type(found) is space
    assert chosen.sampler_name(found) == sampler


def test_a_search_is_read_from_a_file_and_named_after_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in OPTIONS.items() if key != "name"}))
    assert DensitySearch.read(str(file)) == search(name="mine")


@pytest.mark.parametrize("name", shipped())
def test_shipped_searches_can_be_made(name: str) -> None:
    chosen = DensitySearch.read(name)
    template = template_of(chosen)
    space = chosen.choose_space(template)
    assert len(template.sizes) >= 3
    assert chosen.sampler_name(space) in ("tpe", "mutation", "cma_es", "random")
    half = chosen.model_options.get("width", 1.0) / 2
    assert 0.2 < read_template(chosen.protocol, half).total / template.total < 0.6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "an integer >= 1 as epochs"),
        ({"trials": 0}, "an integer >= 1 as trials"),
        ({"trials": "64"}, "an integer >= 1 as trials"),
        ({"seed": "a"}, "an integer >= 0 as seed"),
        ({"final_seeds": 0}, "an integer >= 1 as final_seeds"),
        ({"penalty": -0.1}, "a number >= 0 as penalty"),
        ({"penalty": "1e-2"}, "a number >= 0 as penalty"),
        ({"max_active": 0}, "an integer >= 1 as max_active"),
        ({"max_active": "1e4"}, "an integer >= 1 as max_active"),
        ({"include": "*fc1"}, "a list as include"),
        ({"controls": "dense"}, "a list as controls"),
        ({"groups": "fc*"}, "a list as groups"),
        ({"groups": ("*",), "space": "layers"}, "the space 'groups', where there are groups"),
        ({"grid": 0.5}, "a list as grid"),
        ({"grid": ("a",)}, "numbers as grid"),
        ({"data": {"name": "mnist"}}, "class_path and, if there are any, init_args as data"),
        ({"optimizer": "torch.optim.SGD"}, "init_args as optimizer"),
        ({"lr_scheduler": {"class_path": "x", "init_args": 3}}, "init_args as lr_scheduler"),
        ({"model_options": 3}, "options by name as model_options"),
        ({"sparse_training": {"recipe": "sparse_momentum"}}, "a recipe that leaves each layer its number"),
        ({"sparse_training": {"method": "snip"}}, "a recipe in sparse_training"),
        ({"penalty": float("inf")}, "a number >= 0 as penalty"),
        ({"lr_interval": "steps"}, "lr_interval among step, epoch"),
        ({"epochs": 3}, "at least 4 epochs for 3 rungs"),
        ({"sampler": "gp"}, "sampler among random, mutation, tpe, cma_es"),
        ({"space": "units"}, "space among layers, groups, power_law"),
        ({"controls": ("dens",)}, "controls among dense"),
        ({"width": None}, "a factor on its width, for the control same_capacity"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"Expected .*{re.escape(message)}.*Cure"):
        search(**changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trails": 3}, "got trails"),
        ({"model": ...}, "none of model"),
    ],
)
def test_a_file_with_unknown_or_missing_options_is_refused(options: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    given = {key: value for key, value in {**OPTIONS, **options}.items() if value is not ... and key != "name"}
    file.write_text(yaml.safe_dump(given))
    with pytest.raises(ValueError, match=message):
        DensitySearch.read(str(file))


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("lightning_sparse.models.nothing", ValueError, "can't be imported"),
        ("math.pi", ValueError, "a class or function that makes a network"),
        ("builtins.dict", TypeError, "makes a torch.nn.Module; got a dict"),
        ("torch.nn.ReLU", ValueError, "at least one weight to mask; got none from ReLU"),
    ],
)
def test_a_template_that_is_no_network_is_refused(model: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        template_of(search(model=model, model_options={}))


def test_options_that_the_template_does_not_take_are_named() -> None:
    with pytest.raises(ValueError, match=r"options that .*LeNet300100 takes; got depth .*Cure"):
        template_of(search(model_options={"depth": 3}))
    with pytest.raises(ValueError, match=r"got height .*Cure: .*width, the name of the option"):
        read_template(search(width="height", model_options={}).protocol, 0.5)


@pytest.mark.parametrize("exponents", [(), (-1.0, 2.0), (0.5, 0.1)])
def test_exponents_out_of_range_are_refused(exponents: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"exponents >= 0, in ascending order.*Cure"):
        search(space="power_law", exponents=exponents).choose_space(TEMPLATE)


def test_the_template_has_the_shapes_of_its_layers() -> None:
    assert template_of(search()) == TEMPLATE
    assert list(template_of(search(exclude=("fc3",))).sizes) == ["fc1.weight", "fc2.weight"]


def test_the_objective_is_the_metric_minus_the_share_of_active_weights() -> None:
    assert search(penalty=0.1).objective(0.9, 50, 200) == pytest.approx(0.875)
    assert search().objective(0.9, 50, 200) == 0.9


@given(st.floats(1e-6, 1), st.integers(1, 10**6))
def test_no_layer_is_empty_and_counts_are_densities_rounded_up(density: float, size: int) -> None:
    (count,) = Template({"a": (size, 1)}).counts({"a": density}).values()
    assert 1 <= count <= size
    assert count - 1 < density * size + 1e-6
    assert count >= density * size - 1e-6


@pytest.mark.parametrize(("density", "count"), [(0.15, 15), (0.151, 16), (1.0, 100), (0.001, 1), (1e-9, 1)])
def test_counts_are_not_raised_by_rounding_errors(density: float, count: int) -> None:
    assert Template({"a": (10, 10)}).counts({"a": density}) == {"a": count}


BEST = Candidate(Trial(3, (1, 1, 1)), {}, {"fc1.weight": 2352, "fc2.weight": 30, "fc3.weight": 77}, (0.9,))


def test_controls_have_exactly_as_many_active_weights() -> None:
    found = final_architectures(search(), TEMPLATE, BEST, BEST)
    assert set(found) == {"best", *CONTROLS}
    for name in ("best", "uniform", "erdos_renyi_kernel", "gradual_pruning", "random_search"):
        assert sum(found[name].counts.values()) == 2459
    assert found["dense"] == Architecture()
    assert found["gradual_pruning"].pruned_from_dense
    assert sum(architecture.pruned_from_dense for architecture in found.values()) == 1


def test_the_dense_network_of_the_same_capacity_is_the_nearest_there_is() -> None:
    width = final_architectures(search(), TEMPLATE, BEST, None)["same_capacity"].width
    assert width is not None
    totals = {units: 784 * units + units * max(1, round(units / 3)) + 10 * max(1, round(units / 3)) for units in (3, 4)}
    assert read_template(search().protocol, width).total == min(totals.values(), key=lambda total: abs(total - 2459))
    assert width_of(search().protocol, TEMPLATE.total) == pytest.approx(0.1, rel=1e-4)
    whole = search(model_options={}).protocol
    assert read_template(whole, width_of(whole, 266200)).total == 266200


def test_the_narrowest_network_that_can_be_made_is_the_nearest_to_very_sparse_ones() -> None:
    width = width_of(search().protocol, 10)
    assert read_template(search().protocol, width).total == 784 * 2 + 2 + 10


def test_a_dense_best_network_has_no_other_controls() -> None:
    dense = Candidate(Trial(0, (19, 19, 19)), {}, TEMPLATE.sizes, (0.9,))
    assert list(final_architectures(search(), TEMPLATE, dense, None)) == ["best", "dense"]


def test_fewer_controls_are_fewer_trainings() -> None:
    found = final_architectures(search(controls=("uniform",), width=None), TEMPLATE, BEST, None)
    assert list(found) == ["best", "uniform"]


def test_final_trainings_have_seeds_that_the_search_had_not() -> None:
    chosen = search(seed=7)
    trainings = list(final_trainings(chosen, {"best": Architecture(BEST.counts), "dense": Architecture()}))
    assert [(training.label, training.seed) for training in trainings] == [
        ("best", 8),
        ("dense", 8),
        ("best", 9),
        ("dense", 9),
    ]
    assert all(training.tests and training.epochs == 4 and not training.continues for training in trainings)


def test_results_of_another_best_network_have_a_place_of_their_own() -> None:
    def paths(counts: dict[str, int]) -> list[str]:
        named = {"best": Architecture(counts), "dense": Architecture()}
        return [training.path for training in final_trainings(search(final_seeds=1), named)]

    first, other = paths({"fc1.weight": 5}), paths({"fc1.weight": 6})
    assert first[0] != other[0]
    assert first[1] == other[1] == "tiny/final/dense/seed1"
    assert first == paths({"fc1.weight": 5})


def test_counts_are_spread_exactly() -> None:
    assert sum(spread(TEMPLATE, 1234, "uniform").values()) == 1234


def test_another_process_gets_the_very_training() -> None:
    (training,) = list(final_trainings(search(final_seeds=1), {"best": Architecture(BEST.counts, 0.5, True)}))
    again = SearchTraining.from_json(training.to_json())
    assert again == training
    assert (again.architecture.counts, again.protocol) == (training.architecture.counts, training.protocol)
