"""Fetches the data sets of settings once, before many processes read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_sparse.experiments.setting import Scale, Setting
from lightning_sparse.experiments.sparse_cli import SparseCLI


def prepare(settings: Sequence[Setting], scale: Scale, data: Path, *, download: bool) -> None:
    """Download what the settings need and is not there, and read it once, so that what is missing is known at once.

    Args:
        settings: What will be run.
        scale: How much of it.
        data: Root folder of the data sets.
        download: Whether to download.

    Raises:
        FileNotFoundError: If data are missing and not to be downloaded.
    """
    by_module: dict[type, Any] = {}
    for setting in settings:
        more = setting.data_arguments(data, download=download)
        quiet = ["--trainer.logger", "false", "--trainer.enable_checkpointing", "false", "--trainer.accelerator", "cpu"]
        arguments = [*setting.arguments(), *scale.arguments(setting), *more, *quiet]
        found = SparseCLI(arguments, run=False).datamodule
        by_module.setdefault(type(found), found)
    for module in by_module.values():
        module.prepare_data()
        module.setup("fit")
