"""Downloads and checks the data sets of settings once, before many processes read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_sparse.experiments.setting import Scale, Setting
from lightning_sparse.experiments.sparse_cli import SparseCLI


def prepare(settings: Sequence[Setting], scale: Scale, data: Path, *, download: bool) -> None:
    """Download the missing data sets of the settings, and read each once, so that missing files are reported at once.

    Args:
        settings: Settings that will be run.
        scale: Scale at which they will be run.
        data: Root folder of the data sets.
        download: Whether to download.

    Raises:
        FileNotFoundError: If data are missing and `download` is False.
    """
    by_class: dict[type, Any] = {}
    for setting in settings:
        data_arguments = setting.data_arguments(data, download=download)
        trainer_arguments = [
            "--trainer.logger",
            "false",
            "--trainer.enable_checkpointing",
            "false",
            "--trainer.accelerator",
            "cpu",
        ]
        arguments = [*setting.arguments(), *scale.arguments(setting), *data_arguments, *trainer_arguments]
        datamodule = SparseCLI(arguments, run=False).datamodule
        by_class.setdefault(type(datamodule), datamodule)
    for datamodule in by_class.values():
        datamodule.prepare_data()
        datamodule.setup("fit")
