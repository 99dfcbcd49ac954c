"""The networks and the data of a training of a study."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_sparse._compat import LightningDataModule
from lightning_sparse.comparison.regularizers import Regularizer
from lightning_sparse.comparison.same_capacity import SameCapacity, same_capacity
from lightning_sparse.comparison.study import PairMember
from lightning_sparse.validation.import_paths import import_callable


def make_pair(training: PairMember) -> SameCapacity:
    """Return both networks of a training's pair, as they are initialized."""
    protocol = training.protocol
    return same_capacity(
        _maker(training),
        training.width,
        protocol["max_width"],
        init_reference=protocol["init_reference"],
        initial_masks=protocol.get("initial_masks", "random"),
        seed=training.seed,
    )


def make_widest(training: PairMember) -> nn.Module:
    """Return the widest network of a training's study, dense, whose weights depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        network: nn.Module = _maker(training)(training.protocol["max_width"])
        return network


def _maker(training: PairMember) -> Callable[[float], Any]:
    """Return the function of a width that makes a training's networks."""
    protocol, cell, regularizer = training.protocol, training.cell, Regularizer(training.cell.regularizer)
    options = {
        "depth": cell.depth,
        "activation": cell.activation,
        "batch_norm": regularizer.batch_norm,
        "skip": regularizer.skip,
    }
    make_model = import_callable(protocol["model"], expected="a function of a width that makes a network")
    return partial(make_model, **options, **protocol["model_options"])


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
