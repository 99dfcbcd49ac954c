"""Metrics sent to a Trainer's loggers immediately."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch

from lightning_sparse._compat import Trainer
from lightning_sparse.callbacks.probing.failures import warn_of_failure

# Beginnings of names, new and old. The old ones made a value a folder at the same time (`sparsity/density` and
# `sparsity/density/<layer>`), which loggers with nested stores can't keep.
_OLD_BEGINNINGS = {
    "sparsity/layer_density/": "sparsity/density/",
    "sparsity/layer_share/": "sparsity/share/",
    "/layer_egf_": "/egf_",
}


def under_old_names(metrics: dict[str, float]) -> dict[str, float]:
    """Return metrics of layers by the names that they had before version 1.

    >>> under_old_names({"sparsity/density": 0.1, "sparsity/layer_density/fc1": 0.2})
    {'sparsity/density': 0.1, 'sparsity/density/fc1': 0.2}
    """
    renamed = {}
    for name, value in metrics.items():
        for new, old in _OLD_BEGINNINGS.items():
            name = name.replace(new, old, 1)
        renamed[name] = value
    return renamed


def warn_of_old_names(wanted: bool) -> bool:
    """Warn, if old names are asked for, that they will go, and return whether they are."""
    if wanted:
        warnings.warn(
            "old_metric_names will be removed with the old names: read sparsity/layer_density/<layer>, "
            "sparsity/layer_share/<layer> and gradient_flow/layer_egf_.../<layer> instead.",
            DeprecationWarning,
            stacklevel=4,
        )
    return wanted


def log_at(trainer: Trainer, metrics: Mapping[str, float], epoch: int | None = None, step: int | None = None) -> None:
    """Send metrics to the Trainer's loggers, regardless of its logging interval, and to its callback metrics.

    A logger that fails to take them, because of their names for instance, is warned of once; the others get them.

    Args:
        trainer: Trainer of the run.
        metrics: Values by name.
        epoch: Epoch that they belong to; default: the present one.
        step: Step that they belong to, as Lightning counts steps for its own metrics; default: the present one.
    """
    if trainer.barebones:
        return
    epoch = trainer.current_epoch if epoch is None else epoch
    step = trainer.fit_loop.epoch_loop._batches_that_stepped if step is None else step
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        try:
            logger.log_metrics(metrics={**metrics, "epoch": epoch}, step=step)
        except Exception as error:
            kind, first = type(logger).__name__, next(iter(metrics), "")
            cure = "check the logger's settings and connection, or use another one for these metrics"
            warn_of_failure(trainer, f"metrics to {kind}", f"{kind} to take metrics such as {first!r}", error, cure)
