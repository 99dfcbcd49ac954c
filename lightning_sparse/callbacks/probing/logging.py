"""Metrics sent to a Trainer's loggers immediately."""

from __future__ import annotations

import torch

from lightning_sparse._compat import Trainer


def log_now(trainer: Trainer, metrics: dict[str, float]) -> None:
    """Send metrics to the Trainer's loggers, regardless of its logging interval, and to its callback metrics."""
    if trainer.barebones:
        return
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
    if trainer.is_global_zero:
        step = trainer.fit_loop.epoch_loop._batches_that_stepped  # by which Lightning's own metrics are logged
        for logger in trainer.loggers:
            logger.log_metrics(metrics={**metrics, "epoch": trainer.current_epoch}, step=step)
