"""A misspelt option in a configuration file is named, with the option that was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_sparse import configs
from lightning_sparse.experiments.option_names import check_option_names
from lightning_sparse.validation.errors import InvalidValueError

CALLBACK = "trainer:\n  callbacks:\n  - class_path: {path}\n    init_args: {{{options}}}\n"


def check(folder: Path, text: str) -> None:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    check_option_names(path)


@pytest.mark.parametrize(
    "path",
    [
        "SparseMomentumCallback",
        "lightning_sparse.SparseMomentumCallback",
        "lightning_sparse.callbacks.SparseMomentumCallback",
    ],
)
def test_a_misspelt_option_is_named_with_the_one_that_was_meant(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidValueError, match=r"options of SparseMomentumCallback in .*'densty'.*'density' is"):
        check(tmp_path, CALLBACK.format(path=path, options="densty: 0.05"))


def test_options_that_a_class_forwards_are_known(tmp_path: Path) -> None:
    check(tmp_path, CALLBACK.format(path="SparseMomentumCallback", options="density: 0.05, seed: 1, include: fc1"))
    check(tmp_path, "data:\n  class_path: DigitsDataModule\n  init_args: {batch_size: 8}\n")


def test_an_option_like_no_other_gets_the_list_of_all(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"'zzz'.*its options are test_fraction, batch_size"):
        check(tmp_path, "data:\n  class_path: lightning_sparse.data.DigitsDataModule\n  init_args: {zzz: 8}\n")


@pytest.mark.parametrize(
    "text",
    [
        CALLBACK.format(path="mine.SparseMomentumCallback", options="densty: 0.05"),
        CALLBACK.format(path="lightning.pytorch.callbacks.EarlyStopping", options="monitr: loss"),
        "- a\n- [b",
        "",
    ],
)
def test_classes_of_others_and_other_files_are_left_to_the_parser(tmp_path: Path, text: str) -> None:
    check(tmp_path, text)


def test_every_shipped_configuration_has_options_that_are_known() -> None:
    for name in configs.available():
        check_option_names(configs.find(name))
