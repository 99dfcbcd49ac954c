"""Figures of studies: our numbers beside the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from lightning_sparse.analysis.pictures import Point, plot_beside_published, plot_over_density
from lightning_sparse.reproduction.measured import MeasuredCells
from lightning_sparse.reproduction.report import title
from lightning_sparse.reproduction.study import Cell, Study

# A part of the figure: a column's name, and labels and cells that share an axis.
Part = tuple[str, list[tuple[str, Cell]]]

_MEASURES = {"error": "test error (%)", "accuracy": "accuracy (%)", "accuracy_top5": "top-5 accuracy (%)"}
# In inches: the widest page, a curve, margins of a part with rows, height of a row, width of a letter of its label.
_PAGE, _CURVE, _AROUND, _ROW, _LETTER = 21.0, (6.5, 4.8), (4.3, 1.3), 0.36, 0.075
# In inches, in the legend: width of a mark and of a letter, height of a line.
_MARK, _SMALL_LETTER, _LINE = 0.6, 0.062, 0.2
# Ratio of the largest to the smallest number above which a linear axis would show the outlier only.
_LOGARITHMIC_RATIO = 5


def picture(study: Study, results: MeasuredCells) -> Figure:
    """Return a figure of our and the published numbers: a part per column, and another one for its differences."""
    grid = _grid(study)
    sizes = [[_size(study, line, index) for index in range(len(line))] for line in grid]
    heights = [max(height for _, height in line) for line in sizes]
    width = max(sum(width for width, _ in line) for line in sizes)
    figure = Figure(figsize=(width, sum(heights) + 0.5), layout="constrained")
    places = figure.add_gridspec(len(grid), len(grid[0]), height_ratios=heights)
    for row, line in enumerate(grid):
        for index, (column, cells) in enumerate(line):
            if not cells:
                continue
            axes = figure.add_subplot(places[row, index])
            (_draw_curve if study.curve else _draw_rows)(axes, study, cells, results)
            axes.set_title(column)
            axes.tick_params(labelleft=not _is_labelled_before(study, line, index))
    figure.suptitle(fill(title(study, results), int(width * 10)))
    _legend_below(figure)
    return figure


def _grid(study: Study) -> list[list[Part]]:
    """Return the parts, line by line; differences have parts of their own, as their range is another one."""
    levels: list[Part] = []
    differences: list[Part] = []  # below their columns; a column without any leaves its place empty
    for column in study.columns:
        cells = [(label, row[column]) for label, row in study.rows if column in row]
        levels.append((column, [(label, cell) for label, cell in cells if cell.base is None]))
        differences.append((column, [(label, cell) for label, cell in cells if cell.base is not None]))
    if any(cells for _, cells in differences):
        return [levels, differences]
    widest = max(_size(study, [part], 0)[0] for part in levels)
    lines = -(-len(levels) // max(1, int(_PAGE / widest)))
    fitting = -(-len(levels) // lines)  # of four, where three would fit, two and two
    return [levels[start : start + fitting] for start in range(0, len(levels), fitting)]


def _size(study: Study, line: Sequence[Part], index: int) -> tuple[float, float]:
    if study.curve:
        return _CURVE
    labels = _labels(line[index])
    letters = 0 if _is_labelled_before(study, line, index) else max(map(len, labels), default=0)
    return _AROUND[0] + _LETTER * letters, _AROUND[1] + _ROW * len(labels)


def _is_labelled_before(study: Study, line: Sequence[Part], index: int) -> bool:
    """Return whether the part to the left has the same labels."""
    return not study.curve and index > 0 and _labels(line[index - 1]) == _labels(line[index])


def _labels(part: Part) -> list[str]:
    return [f"{label}, {cell.weights:g} %" for label, cell in part[1]]


def _draw_rows(axes: Axes, study: Study, cells: Sequence[tuple[str, Cell]], results: MeasuredCells) -> None:
    here, published = [_here(cell, results) for _, cell in cells], [_published(cell) for _, cell in cells]
    first = cells[0][1]
    measured = _MEASURES[first.measure]
    if first.base is not None:
        axes.axvline(0, color="black", linewidth=0.8, zorder=1)
        measured = f"difference of the {measured.replace('%', 'percentage points')}"
    plot_beside_published(_labels(("", list(cells))), {"here": here, "published": published}, measured, axes)
    values = [point[0] for point in (*here, *published) if point is not None]
    if first.base is None and values and max(values) > _LOGARITHMIC_RATIO * min(values) > 0:
        axes.set_xscale("log")
        _number_ticks(axes.xaxis)


def _draw_curve(axes: Axes, study: Study, cells: Sequence[tuple[str, Cell]], results: MeasuredCells) -> None:
    # All names in all parts, even without points: the colours depend on them.
    names = _curves(study)
    series: dict[str, list[tuple[float, Point]]] = {name: [] for name in names.values()}
    for label, cell in cells:
        for source, point in (("here", _here(cell, results)), ("published", _published(cell))):
            if point is not None:
                series[names[label, source]].append((cell.weights, point))
    plot_over_density(series, _MEASURES[cells[0][1].measure], axes)
    if study.curve == "log":
        axes.set_xscale("log")
        _number_ticks(axes.xaxis)
    else:
        axes.set_xticks(sorted({cell.weights for _, cell in cells if cell.weights < 100}))


def _curves(study: Study) -> dict[tuple[str, str], str]:
    """Return the names of all curves by label and source; methods that are measured here come first and have two."""
    measured = {label for label, row in study.rows if any(cell.setting is not None for cell in row.values())}
    labels = sorted(dict.fromkeys(label for label, _ in study.rows), key=lambda label: label not in measured)
    return {
        (label, source): f"{label}, {source}" if label in measured else label
        for label in labels
        for source in ("here", "published")
        if label in measured or source == "published"
    }


def _number_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _here(cell: Cell, results: MeasuredCells) -> Point | None:
    mean = results.entry(cell)[0]
    return None if mean is None else (mean.value, mean.error)


def _published(cell: Cell) -> Point | None:
    return None if cell.published is None else (cell.published.value, cell.published.error)


def _legend_below(figure: Figure) -> None:
    """Replace the legends of the parts, which would cover points, by one below the figure."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= {label: handle for label, handle in zip(labels, handles, strict=True) if _has_points(handle)}
        if legend := axes.get_legend():
            legend.remove()
    width, height = figure.get_size_inches()
    columns = min(len(entries), max(1, int(width / (_MARK + _SMALL_LETTER * max(map(len, entries))))))
    figure.set_size_inches(width, height + _LINE * -(-len(entries) // columns))
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns, fontsize="small")


def _has_points(handle: Any) -> bool:
    line: Any = handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle
    return bool(len(line.get_xdata()))
