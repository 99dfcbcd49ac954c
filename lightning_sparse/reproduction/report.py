"""A study's table with our numbers beside the published ones: Markdown, CSV and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_sparse.analysis.pictures import Point, plot_beside_published, plot_over_density
from lightning_sparse.reproduction.results import Mean, Results
from lightning_sparse.reproduction.studies import Cell, Study

_NOTE = """\
Percentages of a row are those of active weights. Each cell: mean +- standard error (number of runs) of our runs, and
what is published. `*`: the 95 % interval overlaps that of the dense network, or the network is better than it. A dash:
not measured."""


def markdown(study: Study, results: Results) -> str:
    """Return the table as Markdown."""
    columns = study.columns
    head = ["", *(text for column in columns for text in (f"{column}, here", "published"))]
    lines = [f"# {study.title}", "", _line(head), _line(["---"] * len(head))]
    for label, cells in study.rows:
        common = {cell.weights for cell in cells.values()}
        texts = [f"{label}, {common.pop():g} %" if len(common) == 1 else label]
        for column in columns:
            texts += _texts(cells[column], results, at=bool(common)) if column in cells else ["", ""]
        lines.append(_line(texts))
    return "\n".join([*lines, "", _NOTE, ""])


def as_csv(study: Study, results: Results) -> str:
    """Return one line per cell."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = "row column weights_percent setting runs mean standard_error published published_error reaches_dense"
    writer.writerow(heads.split())
    for label, cells in study.rows:
        for column, cell in cells.items():
            found, reaches = results.of(cell)
            numbers = (
                (None, None, None) if found is None else (found.runs, round(found.value, 4), _rounded(found.error))
            )
            published = cell.published or (None, None)
            name = None if cell.setting is None else cell.setting.name
            writer.writerow([label, column, cell.weights, name, *numbers, *published, reaches])
    return file.getvalue()


def picture(study: Study, results: Results) -> Figure:
    """Return a picture of our numbers and the published ones, one part per column."""
    wide = 7 if study.curve else 9  # room for the labels of rows
    figure = Figure(figsize=(wide * len(study.columns), 4.8), layout="constrained")
    for index, column in enumerate(study.columns):
        axes = figure.add_subplot(1, len(study.columns), index + 1)
        cells = [(label, row[column]) for label, row in study.rows if column in row]
        (_draw_curve if study.curve else _draw_rows)(axes, cells, results)
        axes.set_title(column)
    figure.suptitle(study.title)
    return figure


def _draw_rows(axes: Axes, cells: Sequence[tuple[str, Cell]], results: Results) -> None:
    labels = [f"{label}, {cell.weights:g} %" for label, cell in cells]
    series = {"here": [_point(results.of(cell)[0]) for _, cell in cells], "published": [c.published for _, c in cells]}
    plot_beside_published(labels, series, _measure_of(cells), axes)


def _draw_curve(axes: Axes, cells: Sequence[tuple[str, Cell]], results: Results) -> None:
    here = [(cell.weights, _point(results.of(cell)[0])) for _, cell in cells]
    published = [(cell.weights, cell.published) for _, cell in cells]
    series: dict[str, list[tuple[float, Point]]] = {}
    for source, points in (("here", here), ("published", published)):
        known = [(weights, point) for weights, point in points if point is not None]
        series[f"sparse momentum, {source}"] = [point for point in known if point[0] < 100]
        series[f"dense, {source}"] = [point for point in known if point[0] == 100]
    plot_over_density({name: points for name, points in series.items() if points}, _measure_of(cells), axes)


def _point(mean: Mean | None) -> Point | None:
    return None if mean is None else (mean.value, mean.error)


def _measure_of(cells: Sequence[tuple[str, Cell]]) -> str:
    return {"error": "test error (%)", "accuracy": "accuracy (%)", "accuracy_top5": "top-5 accuracy (%)"}[
        cells[0][1].measure
    ]


def _texts(cell: Cell, results: Results, *, at: bool) -> list[str]:
    """Return our number and the published one, with the percentage of weights if the row's label has none."""
    found, reaches = results.of(cell)
    sign = "+" if cell.base is not None else ""
    here = "-" if cell.setting is not None else ""
    if found is not None:
        here = f"{_number(found.value, found.error, sign)} ({found.runs}){' *' if reaches else ''}"
    published = "" if cell.published is None else _number(*cell.published, sign)
    where = f" at {cell.weights:g} %" if at else ""
    return [text and text + where for text in (here, published)]


def _number(value: float, error: float | None, sign: str) -> str:
    return f"{value:{sign}.2f}" + ("" if error is None else f" +- {error:.3f}")


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
