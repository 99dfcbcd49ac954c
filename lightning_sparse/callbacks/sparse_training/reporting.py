"""Sparsity of a run: metrics for the loggers, and warnings."""

from __future__ import annotations

import warnings

from lightning_sparse._compat import Trainer
from lightning_sparse.callbacks.probing.logging import log_at, under_old_names
from lightning_sparse.methods.history import UpdateRecord
from lightning_sparse.network import SparseNetwork
from lightning_sparse.selection.patterns import name_list


def log_sparsity(
    trainer: Trainer, network: SparseNetwork, record: UpdateRecord | None = None, *, old_names: bool = False
) -> None:
    """Log densities, and a topology update, to the Trainer's loggers and callback metrics at once.

    Densities and shares are in [0, 1], pruned and grown are numbers of weights. Updates are rare, and would mostly fall
    between two of the steps that Lightning logs. `sparsity/density`, that of the maskable weights, and
    `sparsity/overall_density`, that of all trainable weights, also go to the progress bar, where they stay.
    Nothing is logged through `LightningModule.log`: the Trainer would process all metrics after every batch, and wait
    for the device for those that it shows.
    """
    if trainer.barebones:
        return
    active, size = network.coverage
    shown = {"sparsity/density": network.density, "sparsity/overall_density": active / size}
    metrics = dict(shown)
    metrics |= {f"sparsity/layer_density/{name}": density for name, density in network.layer_densities.items()}
    if record is not None:
        changes = record.layers.values()
        metrics["sparsity/prune_rate"] = record.prune_rate
        metrics |= {f"sparsity/{kind}": float(sum(getattr(c, kind) for c in changes)) for kind in ("pruned", "grown")}
        metrics |= {f"sparsity/layer_share/{change.name}": change.share for change in changes}
    trainer.progress_bar_metrics.update(shown)
    log_at(trainer, under_old_names(metrics) if old_names else metrics)


def warn_of_unreached(trainer: Trainer, complaint: str | None) -> None:
    """Warn, after training, of a density that should have been reached by then and isn't."""
    if complaint is not None and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # an attribute that Lightning doesn't declare
        warnings.warn(complaint, stacklevel=2)


def warn_of_untrained(trainer: Trainer, names: list[str]) -> None:
    """Warn, after the first update, of masked weights that never had a gradient."""
    if trainer.is_global_zero:
        warnings.warn(
            f"Expected a gradient for every masked weight before the first topology update; got none for "
            f"{name_list(names)}: they keep their number of active weights, which are not trained, while other layers "
            "could use them. Cure: exclude them, or freeze them with requires_grad=False before the fit.",
            stacklevel=2,
        )
