"""What is written of a study: tables as Markdown, numbers as CSV, pictures, and a page."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from lightning_sparse.comparison.figures import accuracy_figure, flow_figure, heat_map
from lightning_sparse.comparison.measured import MeasuredStudy
from lightning_sparse.comparison.study import SIDES
from lightning_sparse.comparison.tables import (
    CORRELATIONS_NOTE,
    FLOW_NOTE,
    TESTS_NOTE,
    correlations_table,
    flow_table,
    markdown,
    results_table,
)
from lightning_sparse.report.page import figure_grid, figure_html, note, page, section, table

_EMPTY = "No pair is finished yet."


def write_texts(measured: MeasuredStudy, folder: Path) -> str:
    """Write the tables as Markdown and the pairs as CSV, and return the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = as_markdown(measured)
    (folder / "study.md").write_text(text)
    (folder / "pairs.csv").write_text(as_csv(measured))
    return text


def write_page(measured: MeasuredStudy, folder: Path) -> None:
    """Write the page with the pictures."""
    (folder / "study.html").write_text(as_page(measured))


def _parts(measured: MeasuredStudy) -> list[tuple[str, list[list[str]], str]]:
    return [
        ("Is the sparse network better?", results_table(measured), TESTS_NOTE),
        ("Gradient flow", flow_table(measured), FLOW_NOTE),
        ("Gradient flow and performance", correlations_table(measured), CORRELATIONS_NOTE),
    ]


def _protocol(measured: MeasuredStudy) -> str:
    study = measured.study
    optimizers = ", ".join(
        f"{name} (learning rate {', '.join(f'{float(rate):g}' for rate in each['learning_rates'])})"
        for name, each in study.optimizers.items()
    )
    seeds = len({pair.seed for result in measured.cells for pair in result.pairs})
    widths = ", ".join(f"{width:g}" for width in study.widths)
    return (
        f"Sparse networks of width {study.max_width:g} against dense ones of widths {widths}; {seeds} seeds, "
        f"{study.epochs} epochs, batches of {study.batch_size}, weight decay {study.weight_decay:g} if any; "
        f"initial weights of both from the distribution of {study.init_reference!r}; {optimizers}."
    )


def as_markdown(measured: MeasuredStudy) -> str:
    """Return the tables as Markdown."""
    head = [f"# {measured.study.title}", "", _protocol(measured), ""]
    if measured.study.note:
        head += [measured.study.note, ""]
    if not measured.cells:
        return "\n".join([*head, _EMPTY, ""])
    parts = [line for name, rows, text in _parts(measured) for line in (f"## {name}", "", markdown(rows), "", text, "")]
    return "\n".join([*head, *parts])


def as_csv(measured: MeasuredStudy) -> str:
    """Return one line for each network of each finished pair."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = ("data", "optimizer", "learning_rate", "regularizer", "activation", "depth")
    writer.writerow([*names, "width", "seed", "side", "diverged", "correct", "images", "test_loss", "active"])
    for result in measured.cells:
        for pair in result.pairs:
            for side in SIDES:
                run = pair.dense if side == "dense" else pair.sparse
                reached = [run.get(name) for name in ("diverged", "correct", "images", "test_loss")]
                cell = [getattr(result.cell, name) for name in names]
                writer.writerow([*cell, pair.width, pair.seed, side, *reached, sum(run["active"].values())])
    return file.getvalue()


def as_page(measured: MeasuredStudy) -> str:
    """Return a self-contained page: pictures first, then the tables."""
    notes = [note(text) for text in (_protocol(measured), measured.study.note) if text]
    if not measured.cells:
        return page(measured.study.title, [*notes, note(_EMPTY)])
    drawn = [
        (heat_map(measured), "Tests: colour is the effect, a number is p, bold at 0.05 and below"),
        (accuracy_figure(measured), "Accuracy over the width of the dense network, 95 % intervals"),
        (flow_figure(measured), "Effective gradient flow: medians and middle halves"),
    ]
    pictures = figure_grid([figure_html(figure, caption) for figure, caption in drawn if figure.axes])
    tables = [section(name, table(rows[0], plain_cells(rows[1:])), note(text)) for name, rows, text in _parts(measured)]
    return page(measured.study.title, [*notes, pictures, *tables])


def plain_cells(rows: list[list[str]]) -> list[list[str]]:
    """Return cells without Markdown's marks."""
    return [[cell.replace("**", "") for cell in row] for row in rows]
