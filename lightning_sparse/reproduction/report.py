"""A study's table with our numbers beside the published ones, as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from lightning_sparse.reproduction.measured import MeasuredCells
from lightning_sparse.reproduction.study import Cell, Study

_NOTE = """\
Percentages of a row are those of active weights. Each cell: mean +- standard error (number of runs) of our runs, and
what is published. `*`: the 95 % interval overlaps that of the dense network, or the network is better than it. The
interval is normal, 1.96 standard errors to each side, as the authors'; it is too narrow for few runs: Student's would
be 2.26 of them for 10 runs, 2.78 for 5 and 4.30 for 3. Runs that diverged, to weights that are not finite or to a
network that guesses, are counted, and are in no mean. A dash: not measured."""

_CSV = (
    *("row", "column", "weights_percent", "setting", "runs", "mean", "standard_error"),
    *("published", "published_error", "reaches_dense", "difference_error", "scale", "diverged"),
)


def title(study: Study, results: MeasuredCells) -> str:
    """Return what heads the table: it says so if the runs are not of the papers' protocol."""
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

    `standard_error` is that of the setting's own mean, also where `mean` is a difference from another setting; that of
    the difference is `difference_error`.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV)
    for label, cells in study.rows:
        for column, cell in cells.items():
            found, reaches = results.entry(cell)
            numbers = (
                (None, None, None) if found is None else (found.runs, round(found.value, 4), _rounded(found.error))
            )
            published = cell.published.parts if cell.published else (None, None)
            name = None if cell.setting is None else cell.setting.name
            difference = results.difference(cell)
            more = (
                reaches,
                _rounded(difference.error) if difference else None,
                results.scale.name,
                results.diverged(cell),
            )
            writer.writerow([label, column, cell.weights, name, *numbers, *published, *more])
    return file.getvalue()


def _texts(cell: Cell, results: MeasuredCells, *, at: bool) -> list[str]:
    """Return our number and the published one, with the percentage of weights if the row's label has none."""
    found, reaches = results.entry(cell)
    lost = results.diverged(cell)
    here = _without_mean(cell, results)
    if found is not None:
        sign = "+" if cell.base is not None else ""
        runs = f"{found.runs}, {lost} diverged" if lost else f"{found.runs}"
        here = f"{_number(found.value, found.error, sign)} ({runs}){' *' if reaches else ''}"
    published = cell.published.shown if cell.published else ""
    where = f" at {cell.weights:g} %" if at else ""
    return [text and text + where for text in (here, published)]


def _without_mean(cell: Cell, results: MeasuredCells) -> str:
    """Return what stands in the place of a mean that there isn't."""
    if cell.setting is None:
        return ""
    lost = results.diverged(cell)
    if cell.base is not None and not lost and results.mean(cell.setting, cell.measure):
        return "its base diverged" if any(run.get("diverged") for run in results.runs(cell.base)) else "-"
    return f"{lost} diverged" if lost else "-"


def _number(value: float, error: float | None, sign: str) -> str:
    return f"{value:{sign}.2f}" + ("" if error is None else f" +- {error:.3f}")


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
