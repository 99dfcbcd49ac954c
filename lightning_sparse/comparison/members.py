"""The networks and the data of a training of a study."""

from __future__ import annotations

from functools import partial
from inspect import signature
from pathlib import Path

from lightning_sparse._compat import LightningDataModule
from lightning_sparse.comparison.regularizers import Regularizer
from lightning_sparse.comparison.same_capacity import SameCapacity, same_capacity
from lightning_sparse.comparison.study import PairMember
from lightning_sparse.validation.import_paths import import_callable


def make_pair(training: PairMember) -> SameCapacity:
    """Return both networks of a training's pair, as they are initialized."""
    protocol, cell, regularizer = training.protocol, training.cell, Regularizer(training.cell.regularizer)
    options = {
        "depth": cell.depth,
        "activation": cell.activation,
        "batch_norm": regularizer.batch_norm,
        "skip": regularizer.skip,
    }
    make_model = import_callable(protocol["model"], expected="a function of a width that makes a network")
    return same_capacity(
        partial(make_model, **options, **protocol["model_options"]),
        training.width,
        protocol["max_width"],
        init_reference=protocol["init_reference"],
        seed=training.seed,
    )


def make_data(training: PairMember, root: Path) -> LightningDataModule:
    """Return the data of a training, whose batches depend on the seed only.

    Args:
        training: The training.
        root: Folder of the data sets. If it has an `.npz` file with the data set's name, that file is used.
    """
    data = training.protocol["data"]
    arrays = root / f"{training.cell.data}.npz"
    make = import_callable(data["class_path"], expected="a class of LightningDataModules")
    places = {"data_dir": arrays if arrays.exists() else root} if "data_dir" in signature(make).parameters else {}
    augmentation = data["augmentation"] if Regularizer(training.cell.regularizer).augments else {}
    options = {**data.get("init_args", {}), **augmentation}
    made: LightningDataModule = make(
        **places, batch_size=training.protocol["batch_size"], shuffle_seed=training.seed, **options
    )
    return made
