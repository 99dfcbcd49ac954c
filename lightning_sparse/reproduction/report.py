"""A study's table with our numbers beside the published ones, as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from lightning_sparse.reproduction.measured import MeasuredCells
from lightning_sparse.reproduction.study import Cell, Study

_NOTE = """\
The percentage of a row is that of active weights. Each cell: mean +- standard error (number of runs) of our runs, and
the published number. `*`: the 95 % interval overlaps that of the dense network, or the network is better than it. The
interval is normal, 1.96 standard errors to each side, as the authors'; it is too narrow for few runs: Student's would
be 2.26 of them for 10 runs, 2.78 for 5 and 4.30 for 3. Runs that diverged (weights that are not finite, or a
network that guesses) are counted, but excluded from the means. A dash: not measured."""

_CSV = (
    *("row", "column", "weights_percent", "setting", "runs", "mean", "standard_error"),
    *("published", "published_error", "reaches_dense", "difference_error", "scale", "diverged"),
)


def title(study: Study, results: MeasuredCells) -> str:
    """Return the table's title, which says so if the runs don't follow the papers' protocol."""
    return study.title + results.scale.title


def markdown(study: Study, results: MeasuredCells) -> str:
    """Return the table as Markdown."""
    columns = study.columns
    head = ["", *(text for column in columns for text in (f"{column}, here", "published"))]
    lines = [f"# {title(study, results)}", "", _line(head), _line(["---"] * len(head))]
    for label, cells in study.rows:
        common = {cell.weights for cell in cells.values()}
        texts = [f"{label}, {common.pop():g} %" if len(common) == 1 else label]
        for column in columns:
            texts += _texts(cells[column], results, at=bool(common)) if column in cells else ["", ""]
        lines.append(_line(texts))
    for note in (results.scale.note, study.note, _NOTE):
        lines += ["", note] if note else []
    return "\n".join([*lines, ""])


def as_csv(study: Study, results: MeasuredCells) -> str:
    """Return one line per cell.

    `standard_error` belongs to the setting's own mean, even where `mean` is a difference from another setting;
    `difference_error` is the difference's own standard error.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV)
    for label, cells in study.rows:
        for column, cell in cells.items():
            mean, reaches = results.entry(cell)
            numbers = (None, None, None) if mean is None else (mean.runs, round(mean.value, 4), _rounded(mean.error))
            published = cell.published.parts if cell.published else (None, None)
            name = None if cell.setting is None else cell.setting.name
            difference = results.difference(cell)
            remaining = (
                reaches,
                _rounded(difference.error) if difference else None,
                results.scale.name,
                results.diverged(cell),
            )
            writer.writerow([label, column, cell.weights, name, *numbers, *published, *remaining])
    return file.getvalue()


def _texts(cell: Cell, results: MeasuredCells, *, at: bool) -> list[str]:
    """Return our number and the published one, with the percentage of weights if the row's label has none."""
    mean, reaches = results.entry(cell)
    diverged = results.diverged(cell)
    here = _without_mean(cell, results)
    if mean is not None:
        sign = "+" if cell.base is not None else ""
        runs = f"{mean.runs}, {diverged} diverged" if diverged else f"{mean.runs}"
        here = f"{_number(mean.value, mean.error, sign)} ({runs}){' *' if reaches else ''}"
    published = cell.published.shown if cell.published else ""
    where = f" at {cell.weights:g} %" if at else ""
    return [text and text + where for text in (here, published)]


def _without_mean(cell: Cell, results: MeasuredCells) -> str:
    """Return the text that replaces a missing mean."""
    if cell.setting is None:
        return ""
    diverged = results.diverged(cell)
    if cell.base is not None and not diverged and results.mean(cell.setting, cell.measure):
        return "its base diverged" if any(run.get("diverged") for run in results.runs(cell.base)) else "-"
    return f"{diverged} diverged" if diverged else "-"


def _number(value: float, error: float | None, sign: str) -> str:
    return f"{value:{sign}.2f}" + ("" if error is None else f" +- {error:.3f}")


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
