"""Studies as data: which trainings they have, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from studies import OPTIONS, one, study

from lightning_sparse.comparison.networks import mlp
from lightning_sparse.comparison.regularizers import Regularizer
from lightning_sparse.comparison.study import PairMember, SameCapacityStudy, shipped


def test_every_pair_of_every_cell_is_trained_once() -> None:
    trainings = list(study().trainings())
    assert len(trainings) == 2 * 2 * 2 * 2 * 2  # optimizers, regularizers, widths, seeds, sides
    assert len({training.path for training in trainings}) == len(trainings)
    assert len(set(trainings)) == len(trainings)


def test_all_widths_have_a_seed_before_any_has_the_next() -> None:
    assert [training.seed for training in study().trainings()] == [0] * 16 + [1] * 16


def test_both_sides_of_a_pair_stand_beside_each_other() -> None:
    trainings = list(study().trainings())
    for dense, sparse in zip(trainings[::2], trainings[1::2], strict=True):
        assert (dense.side, sparse.side) == ("dense", "sparse")
        assert replace(dense, side="sparse") == sparse


def test_fewer_seeds_are_the_first_ones() -> None:
    assert list(study().trainings(1)) == list(study().trainings())[:16]
    assert list(study().trainings(0)) == []


def test_cells_are_the_whole_grid() -> None:
    wide = study(
        activations=("relu", "swish"),
        depths=(1, 4),
        optimizers={"sgd": {"class_path": "torch.optim.SGD", "learning_rates": [0.1, 0.001]}},
    )
    assert len(wide.cells()) == len(set(wide.cells())) == 2 * 2 * 2 * 2
    assert len({cell.name for cell in wide.cells()}) == 16


def test_networks_pruned_from_dense_start_with_the_distribution_of_the_widest() -> None:
    with pytest.raises(ValueError, match=r"sparse_nominal, where networks are pruned.*Cure"):
        study(pruned_from_dense=True)
    assert "pruned_from_dense" not in one().protocol
    assert one(pruned_from_dense=True, init_reference="sparse_nominal").protocol["pruned_from_dense"]


def test_another_process_gets_the_very_training() -> None:
    training = one(regularizers=("da_bn",))
    assert PairMember.from_json(training.to_json()) == training
    assert PairMember.from_json(training.to_json()).protocol == training.protocol


def test_a_study_is_read_from_a_file_and_named_after_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in OPTIONS.items() if key != "name"}
    file.write_text(yaml.safe_dump(lists))
    assert SameCapacityStudy.read(str(file)) == study(name="mine")


@pytest.mark.parametrize("name", shipped())
def test_shipped_studies_have_networks_that_can_be_made(name: str) -> None:
    found = SameCapacityStudy.read(name)
    assert found.title
    assert found.note
    assert found.cells()
    for regularizer in map(Regularizer, found.regularizers):
        looks = {"batch_norm": regularizer.batch_norm, "skip": regularizer.skip}
        for activation in found.activations:
            mlp(4, depth=found.depths[0], activation=activation, **looks, **found.model_options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (3, 13)}, r"Expected widths in \(0, 12\]; got \[3, 13\]. Cure"),
        ({"widths": ()}, r"Expected widths in \(0, 12\]; got \[\]. Cure"),
        ({"widths": (3, 6, 3)}, r"Expected widths, learning rates, .* that differ; got the same twice: .*width3.*Cure"),
        ({"regularizers": ("bn", "bn")}, r"that differ; got the same twice: .*Cure"),
        ({"weight_decay": "1e-4"}, r"Expected a number as weight_decay; got '1e-4'. Cure: a number; in YAML 1.0e-4"),
        ({"epochs": "1"}, r"Expected an integer >= 1 as epochs; got '1'. Cure"),
        ({"widths": 4}, r"Expected a list as widths; got 4. Cure: \[4\]"),
        ({"widths": ("a",)}, r"Expected numbers as widths; got 'a'. Cure"),
        ({"regularizers": "bn"}, r"Expected a list as regularizers; got 'bn'. Cure"),
        ({"optimizers": ["sgd"]}, r"Expected names of optimizers, each with its options; got \['sgd'\]. Cure"),
        ({"data": {"class_path": "x"}}, r"Expected class_path and.* as data: class_path; got 'x'. Cure"),
        ({"optimizers": {"sgd": {"learning_rates": [0.1]}}}, r"class_path and.* as optimizers: sgd.*Cure"),
        ({"sparse_training": {"recipe": "sparse_momentum"}}, r"Expected a recipe that leaves each layer its.*Cure"),
        ({"sparse_training": {"method": "snip"}}, r"Expected a recipe in sparse_training.*'snip'.*Cure"),
        (
            {"optimizers": {"sgd": {"class_path": "x"}}},
            r"a list of numbers as learning_rates of sgd; got None",
        ),
        ({"epochs": 0}, r"Expected an integer >= 1 as epochs; got 0. Cure"),
        ({"seeds": 0}, r"Expected an integer >= 1 as seeds; got 0. Cure"),
        ({"regularizers": ("dropout",)}, r"Expected a regularizer of bn, sc, da, l2, wd.*; got 'dropout'. Cure"),
        ({"regularizers": ("bn_bn",)}, r"Expected a regularizer of .*; got 'bn_bn'. Cure"),
        (
            {"regularizers": ("da",), "data": {"digits": {"class_path": "x"}}},
            r"Expected options that augment the images of each data set.*got none for digits. Cure",
        ),
    ],
)
def test_what_makes_no_study_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study(**changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("titel: x", r"Expected options of a study in .*: activations, .*; got titel. Cure: check the spelling"),
        ("- 3", r"Expected options of a study in .*; got '\[3\]'. Cure|got \[3\]"),
        (
            "title: x\nepochs: 3",
            r"Expected all needed options .*; got none of data, max_width, opt.*Cure",
        ),
    ],
)
def test_a_file_that_is_no_study_is_explained(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        SameCapacityStudy.read(str(file))


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(ValueError, match=r"Expected a YAML file or the name of a shipped study \(.*mnist_red.*Cure"):
        SameCapacityStudy.read("mnist_reducd")


def test_parts_of_a_regularizer_are_found_in_any_order() -> None:
    parts = Regularizer("da_l2_sc_bn")
    assert (parts.augments, parts.penalizes, parts.skip, parts.batch_norm, parts.decays) == (True,) * 4 + (False,)
    assert not any((Regularizer("none").augments, Regularizer("none").batch_norm, Regularizer("wd").penalizes))
    assert Regularizer("wd").decays
