"""The summary before training: tables of masked and dense weights, and sentences on the run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from rich import box, get_console
from rich.table import Table

from lightning_sparse._compat import Trainer, callbacks_of, is_a
from lightning_sparse.network import SparseNetwork
from lightning_sparse.selection.names import named_parameters


def print_summary(trainer: Trainer, network: SparseNetwork, lines: Iterable[str] = ()) -> None:
    """Print what is masked, what stays dense and why, if the Trainer prints a summary of its model.

    Args:
        trainer: Trainer of the run.
        network: Masks to summarize.
        lines: Sentences below the tables: what else is known of the run before it begins.
    """
    if trainer.is_global_zero and any(is_a(callback, "ModelSummary") for callback in callbacks_of(trainer)):
        for table in (masked_table(network), dense_table(network)):
            if table.row_count:
                get_console().print(table)
        for line in (coverage_line(network), *network.momentum_sources, *lines):
            get_console().print(line, highlight=False, markup=False)


def coverage_line(network: SparseNetwork) -> str:
    """Return a sentence on the density of the whole model."""
    coverage = network.coverage
    return (
        f"Overall density: {coverage.density:.3g}, {coverage.active:,} of the {coverage.size:,} trainable weights in "
        "parameters with two or more dimensions are active."
    )


def masked_table(network: SparseNetwork) -> Table:
    """Return a table of the masked weights."""
    layers = network.layers
    active, size = (sum(getattr(layer, field) for layer in layers.values()) for field in ("active", "size"))
    table = Table(
        title=(
            f"Sparse training: {active:,} of {size:,} weights active, density {network.density:.3g}, overall density "
            f"{network.overall_density:.3g}"
        ),
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
