"""What is written of a search: tables as Markdown, numbers as CSV, pictures, and a page."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from matplotlib.figure import Figure

from lightning_sparse.analysis.pictures.plot_density_search import Point, plot_front, plot_layer_shares
from lightning_sparse.comparison.output import plain_cells
from lightning_sparse.comparison.tables import markdown
from lightning_sparse.report.page import figure_grid, figure_html, note, page, section, table
from lightning_sparse.search.results import SearchResults, front
from lightning_sparse.search.tables import (
    FINALS_NOTE,
    FRONT_NOTE,
    final_name,
    finals_table,
    front_table,
    full_trials,
    summary,
)
from lightning_sparse.search.tried import Trials


def write_texts(results: SearchResults, folder: Path) -> str:
    """Write the tables as Markdown and the trials as CSV, and return the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = as_markdown(results)
    (folder / "search.md").write_text(text)
    (folder / "trials.csv").write_text(as_csv(results))
    return text


def write_page(results: SearchResults, folder: Path) -> None:
    """Write the page with the pictures."""
    (folder / "search.html").write_text(as_page(results))


def _parts(results: SearchResults) -> list[tuple[str, list[list[str]], str]]:
    metric = FRONT_NOTE.format(metric=results.search.metric)
    parts = [("Final networks", finals_table(results), FINALS_NOTE), ("The front", front_table(results), metric)]
    return [part for part in parts if len(part[1]) > 1]


def as_markdown(results: SearchResults) -> str:
    """Return the tables as Markdown."""
    lines = [f"# {results.search.title}", "", summary(results), ""]
    if results.search.note:
        lines += [results.search.note, ""]
    for name, rows, text in _parts(results):
        lines += [f"## {name}", "", markdown(rows), "", text, ""]
    return "\n".join(lines)


def as_csv(results: SearchResults) -> str:
    """Return a line for each trial of the search and of the random one."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    rungs = [f"{results.search.metric} after {length} epochs" for length in results.search.halving.lengths]
    writer.writerow(["part", "trial", "active", *results.template.shapes, *rungs])
    for part, trials in _by_part(results).items():
        for candidate in trials.candidates:
            empty = [""] * (len(rungs) - len(candidate.values))
            shares = [f"{density:.6g}" for density in candidate.densities.values()]
            writer.writerow([part, candidate.trial.number, candidate.active, *shares, *candidate.values, *empty])
    return file.getvalue()


def _by_part(results: SearchResults) -> dict[str, Trials]:
    return {"search": results.trials, **({} if results.random is None else {"random": results.random})}


def as_page(results: SearchResults) -> str:
    """Return a self-contained page: pictures first, then the tables."""
    notes = [note(text) for text in (summary(results), results.search.note) if text]
    figures = [_front_figure(results), _densities_figure(results), _finals_figure(results)]
    drawn = [figure_html(figure, caption) for figure, caption in figures if figure is not None]
    tables = [section(name, table(rows[0], plain_cells(rows[1:])), note(text)) for name, rows, text in _parts(results)]
    return page(results.search.title, [*notes, *([figure_grid(drawn)] if drawn else []), *tables])


def _front_figure(results: SearchResults) -> tuple[Figure | None, str]:
    whole = full_trials(results)
    if not whole:
        return None, ""
    by_length: dict[str, list[Point]] = {}
    for candidate in results.trials.candidates:
        length = results.search.halving.lengths[len(candidate.values) - 1]
        by_length.setdefault(f"after {length} epochs", []).append((candidate.active, 100 * candidate.reached))
    line = [(candidate.active, 100 * candidate.reached) for candidate in front(whole)]
    groups = dict(sorted(by_length.items(), key=lambda item: int(item[0].split()[1])))
    return plot_front(groups, line, f"validation {results.search.metric} (%)"), "Trials, and the front of those in full"


def _densities_figure(results: SearchResults) -> tuple[Figure | None, str]:
    chosen = {
        final_name(label): results.finals[label] for label in ("best", "random_search") if label in results.finals
    }
    if not chosen:
        return None, ""
    sizes = results.template.sizes
    shares = {
        name: {layer: count / sizes[layer] for layer, count in network.architecture.counts.items()}
        for name, network in chosen.items()
    }
    return plot_layer_shares(shares), "Densities that were found"


def _finals_figure(results: SearchResults) -> tuple[Figure | None, str]:
    points = {
        final_name(label): [(network.active, network.error[0])]
        for label, network in results.finals.items()
        if network.error is not None
    }
    return (plot_front(points, [], "test error (%)") if points else None), "Final networks, mean over the seeds"
