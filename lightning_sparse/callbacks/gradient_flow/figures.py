"""Pictures of gradient flow, from records."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import nan
from typing import TYPE_CHECKING

from lightning_sparse._compat import Trainer
from lightning_sparse.analysis.gradient_flow import order_of
from lightning_sparse.callbacks.gradient_flow.records import GradientFlowRecord, root_of
from lightning_sparse.callbacks.probing.figure_logging import send_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def send_pictures(trainer: Trainer, records: Sequence[GradientFlowRecord], root: str) -> None:
    """Send the measures over the run, and those of each layer with its flags, of each optimizer, to the loggers."""
    for optimizer in dict.fromkeys(record.optimizer for record in records):
        own = [record for record in records if record.optimizer == optimizer]
        own_root = root_of(optimizer, root)
        send_figure(trainer, f"{own_root}/measures", lambda own=own: measures(own))  # type: ignore[misc]  # of one figure
        send_figure(trainer, f"{own_root}/layers", lambda own=own: layers(own))  # type: ignore[misc]  # likewise


def measures(records: Sequence[GradientFlowRecord]) -> Figure:
    """Draw EGF and, where it is known, the norm of the whole gradient."""
    from lightning_sparse.analysis.pictures import plot_gradient_flow

    xs, unit = _places(records)
    named = [{**{f"egf_{p}": v for p, v in r.effective.items()}, **r.total} for r in records]
    names = dict.fromkeys(name for each in named for name in each)
    return plot_gradient_flow(xs, {name: [each.get(name, nan) for each in named] for name in names}, xlabel=unit)


def layers(records: Sequence[GradientFlowRecord]) -> Figure:
    """Draw the norm of each layer's masked gradient, of the largest order, with its flags."""
    from lightning_sparse.analysis.pictures import plot_layer_gradient_flow

    xs, unit = _places(records)
    norm = max(records[-1].effective, key=order_of)
    names = dict.fromkeys(layer for record in records for layer in record.layers)
    norms = {layer: [record.layers.get(layer, {}).get(norm, nan) for record in records] for layer in names}
    flags = {layer: [record.flags.get(layer) for record in records] for layer in names}
    return plot_layer_gradient_flow(xs, norms, flags, xlabel=unit)


def _places(records: Sequence[GradientFlowRecord]) -> tuple[list[float], str]:
    """Return where the records are from: in epochs, if these tell them apart."""
    by_epoch = all(first.epoch < second.epoch for first, second in pairwise(records))
    return ([float(r.epoch) for r in records], "epoch") if by_epoch else ([float(r.step) for r in records], "step")
