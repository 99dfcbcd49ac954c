"""Figures of gradient flow, drawn from records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from math import nan
from typing import TYPE_CHECKING

from lightning_sparse._compat import Trainer
from lightning_sparse.analysis.gradient_flow import order_of
from lightning_sparse.callbacks.gradient_flow.records import GradientFlowRecord, root_of
from lightning_sparse.callbacks.probing.figure_logging import send_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def send_figures(trainer: Trainer, records: Sequence[GradientFlowRecord], root: str) -> None:
    """Send two figures per optimizer to the loggers: the norms of its gradients, and of each layer's, over the run."""
    for optimizer in dict.fromkeys(record.optimizer for record in records):
        own = [record for record in records if record.optimizer == optimizer]
        own_root = root_of(optimizer, root)
        send_figure(trainer, f"{own_root}/measures", partial(measures, own))
        send_figure(trainer, f"{own_root}/layers", partial(layers, own))


def measures(records: Sequence[GradientFlowRecord]) -> Figure:
    """Draw EGF and, if it is known, the norm of the whole gradient."""
    from lightning_sparse.analysis.pictures import plot_gradient_flow

    xs, unit = _places(records)
    rows = [{**{f"egf_{p}": v for p, v in r.effective.items()}, **r.total} for r in records]
    names = dict.fromkeys(name for row in rows for name in row)
    return plot_gradient_flow(xs, {name: [row.get(name, nan) for row in rows] for name in names}, xlabel=unit)


def layers(records: Sequence[GradientFlowRecord]) -> Figure:
    """Draw the norm of the largest order of each layer's masked gradient, with its flags."""
    from lightning_sparse.analysis.pictures import plot_layer_gradient_flow

    xs, unit = _places(records)
    norm = max(records[-1].effective, key=order_of)
    names = dict.fromkeys(layer for record in records for layer in record.layers)
    norms = {layer: [record.layers.get(layer, {}).get(norm, nan) for record in records] for layer in names}
    flags = {layer: [record.flags.get(layer) for record in records] for layer in names}
    return plot_layer_gradient_flow(xs, norms, flags, xlabel=unit)


def _places(records: Sequence[GradientFlowRecord]) -> tuple[list[float], str]:
    """Return the records' places on the x axis: epochs if each record has its own, else steps."""
    by_epoch = all(first.epoch < second.epoch for first, second in pairwise(records))
    return ([float(r.epoch) for r in records], "epoch") if by_epoch else ([float(r.step) for r in records], "step")
