"""What a run says about its gradients: numbers for its loggers, and warnings with names of layers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from lightning_sparse._compat import Trainer
from lightning_sparse.callbacks.gradient_flow.records import GradientFlowRecord
from lightning_sparse.selection.patterns import name_list


def log_records(trainer: Trainer, records: Sequence[GradientFlowRecord], *, per_layer: bool, root: str) -> None:
    """Hand measures to the loggers, at the steps they are from, and the last ones to the Trainer's metrics."""
    if trainer.barebones:
        return
    for record in records:
        metrics = record.metrics(per_layer=per_layer, root=root)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics({**metrics, "epoch": record.epoch}, step=record.step)


def warn_of_flags(trainer: Trainer, records: Sequence[GradientFlowRecord], warned: set[tuple[str, str]]) -> None:
    """Name each layer once for each flag that it gets.

    Args:
        trainer: The process of rank zero warns.
        records: New ones.
        warned: Layers and flags that were named; those that are named now are added.
    """
    scales = getattr(trainer.precision_plugin, "scaler", None) is not None
    for record in records:
        new = {layer: flag for layer, flag in record.flags.items() if (layer, flag) not in warned}
        warned |= set(new.items())
        for flag in dict.fromkeys(new.values()):
            layers = [layer for layer, found in new.items() if found == flag]
            # A gradient scaler tries scales that are too large, and skips the step.
            if trainer.is_global_zero and not (scales and flag == "non-finite"):
                place = f"epoch {record.epoch}, step {record.step}"
                warnings.warn(f"{flag} gradients in {place}: {name_list(layers)}", stacklevel=2)
