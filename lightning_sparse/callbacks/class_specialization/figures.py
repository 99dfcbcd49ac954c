"""Figure of a measurement of class specialization."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_sparse.callbacks.class_specialization.records import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_specialization(result: Result) -> Figure:
    """Draw the specialization of each layer's channels; the result needs its proportions."""
    from lightning_sparse.analysis.pictures import plot_specialization

    classes = next(iter(result.values()))["proportions"].shape[-1]
    return plot_specialization({layer: computed["specialization"] for layer, computed in result.items()}, None, classes)
