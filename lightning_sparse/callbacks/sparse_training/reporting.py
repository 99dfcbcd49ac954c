"""Sparsity of a run: metrics for the loggers, warnings, and a table before training."""

from __future__ import annotations

import warnings
from collections import defaultdict

from rich import box, get_console
from rich.table import Table

from lightning_sparse._compat import Trainer, callbacks_of, is_a
from lightning_sparse.callbacks.probing.logging import log_now
from lightning_sparse.callbacks.sparse_training.history import UpdateRecord
from lightning_sparse.network import SparseNetwork
from lightning_sparse.selection.names import named_parameters
from lightning_sparse.selection.patterns import name_list


def log_sparsity(trainer: Trainer, network: SparseNetwork, record: UpdateRecord | None = None) -> None:
    """Log densities, and a topology update, to the Trainer's loggers and callback metrics at once.

    Densities and shares are in [0, 1], pruned and grown are numbers of weights. Updates are rare, and would mostly fall
    between two of the steps that Lightning logs. `sparsity/density` also goes to the progress bar, where it stays.
    Nothing is logged through `LightningModule.log`: the Trainer would process all metrics after every batch, and wait
    for the device for those that it shows.
    """
    if trainer.barebones:
        return
    metrics = {"sparsity/density": network.density}
    metrics |= {f"sparsity/density/{name}": density for name, density in network.layer_densities.items()}
    if record is not None:
        changes = record.layers.values()
        metrics["sparsity/prune_rate"] = record.prune_rate
        metrics |= {f"sparsity/{kind}": float(sum(getattr(c, kind) for c in changes)) for kind in ("pruned", "grown")}
        metrics |= {f"sparsity/share/{change.name}": change.share for change in changes}
    trainer.progress_bar_metrics["sparsity/density"] = metrics["sparsity/density"]
    log_now(trainer, metrics)


def warn_of_untrained(trainer: Trainer, network: SparseNetwork) -> None:
    """Warn, after the first update, of masked weights that never had a gradient."""
    if trainer.is_global_zero and (names := network.untrained):
        warnings.warn(
            f"Expected a gradient for every masked weight before the first topology update; got none for "
            f"{name_list(names)}: they lose weights, and what they regain is not trained. Cure: exclude them, or "
            "freeze them with requires_grad=False.",
            stacklevel=2,
        )


def print_summary(trainer: Trainer, network: SparseNetwork) -> None:
    """Print what is masked, what stays dense and why, if the Trainer prints a summary of its model."""
    if trainer.is_global_zero and any(is_a(callback, "ModelSummary") for callback in callbacks_of(trainer)):
        for table in (masked_table(network), dense_table(network)):
            if table.row_count:
                get_console().print(table)


def masked_table(network: SparseNetwork) -> Table:
    """Return a table of the masked weights."""
    layers = network.layers
    active, size = (sum(getattr(layer, field) for layer in layers.values()) for field in ("active", "size"))
    table = Table(
        title=f"Sparse training: {active:,} of {size:,} weights active, density {network.density:.3g}",
        box=box.SIMPLE,
        show_footer=False,
    )
    table.add_column("weight", overflow="fold")
    for heading in ("shape", "weights", "active", "density"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, layer in layers.items():
        shape = " x ".join(map(str, layer.shape))
        table.add_row(name, shape, f"{layer.size:,}", f"{layer.active:,}", f"{layer.density:.3g}")
    return table


def dense_table(network: SparseNetwork) -> Table:
    """Return a table of the parameters that have no mask, by reason."""
    sizes = {name: parameter.numel() for name, parameter in named_parameters(network.model)}
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in network.why_unmasked.items():
        by_reason[reason].append(name)
    table = Table(title="Dense parameters", box=box.SIMPLE)
    table.add_column("reason")
    table.add_column("parameters", overflow="fold")
    table.add_column("weights", justify="right", no_wrap=True)
    for reason, names in by_reason.items():
        listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        table.add_row(reason, listed, f"{sum(sizes.get(name, 0) for name in names):,}")
    return table
