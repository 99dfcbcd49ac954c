"""Pictures of a study."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lightning_sparse.analysis.pictures.plot_same_capacity import (
    Interval,
    plot_over_epochs,
    plot_over_width,
    plot_tests,
)
from lightning_sparse.comparison.intervals import mean_interval
from lightning_sparse.comparison.measured import MeasuredStudy
from lightning_sparse.comparison.study import SIDES
from lightning_sparse.comparison.tables import label

_COLUMNS, _WIDTH, _HEIGHT = 3, 4.6, 3.4


def accuracy_figure(study: MeasuredStudy) -> Figure:
    """Return the accuracy of both sides over the width, with 95 % intervals over seeds, a part for each cell."""
    figure, places = _grid(len(study.cells))
    for result, place in zip(study.cells, places, strict=True):
        series: dict[str, dict[float, Interval]] = {
            side: {
                width: mean_interval(found) for width in study.study.widths if (found := result.accuracy(side, width))
            }
            for side in SIDES
        }
        plot_over_width(series, "test accuracy (%)", label(result, study), figure.add_subplot(*place))
    return figure


def flow_figure(study: MeasuredStudy) -> Figure:
    """Return EGF_2 of both sides over the epochs, a part for each cell."""
    cells = [result for result in study.cells if result.whole]
    figure, places = _grid(len(cells))
    for result, place in zip(cells, places, strict=True):
        epochs = [record["epoch"] for record in result.whole[0].dense["gradient_flow"]]
        series: dict[str, list[list[float]]] = {side: result.flow(side, "egf_l2") for side in SIDES}
        plot_over_epochs(series, epochs, "EGF_2", label(result, study), figure.add_subplot(*place))
    return figure


def heat_map(study: MeasuredStudy) -> Figure:
    """Return the tests as a heat map: a row for each optimizer, and a column for what else differs."""
    keys = {result.cell.name: _row_and_column(result.cell.optimizer, label(result, study)) for result in study.cells}
    p_values = {keys[result.cell.name]: result.test.p for result in study.cells}
    effects = {keys[result.cell.name]: result.test.rank_biserial for result in study.cells}
    return plot_tests(p_values, effects, "p, one-sided: is the sparse network better?")


def _row_and_column(optimizer: str, name: str) -> tuple[str, str]:
    others = [part for part in name.split(", ") if part != optimizer]
    return optimizer, ", ".join(others)


def _grid(parts: int) -> tuple[Figure, list[tuple[int, int, int]]]:
    columns = max(1, min(_COLUMNS, parts))
    rows = -(-parts // columns)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * max(1, rows)), layout=layout)
    return figure, [(rows, columns, index + 1) for index in range(parts)]
