"""Sections of a report: each is a function of one run or two, and empty if they logged nothing for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import isfinite, nan

from matplotlib.figure import Figure

from lightning_sparse.analysis.gradient_flow import order_of
from lightning_sparse.analysis.pictures import (
    plot_gradient_flow,
    plot_layer_densities,
    plot_layer_gradient_flow,
    plot_redistribution,
)
from lightning_sparse.report.curve_charts import Quartiles, plot_curves, plot_quartiles
from lightning_sparse.report.page import figure_grid, figure_html, folded, image_html, note, section, table
from lightning_sparse.report.run_log import Point, RunLog

_OURS = ("sparsity/", "gradient_flow/", "specialization/")
# The root of a callback's names (with its name or an optimizer's), a measure, and its layer.
# Of layers as they are logged now, and as version 0 did.
_FLOW = re.compile(r"(gradient_flow(?:/.+?)??)/(?:(?:layer_)?(egf_l[\d.e+]+|egf_linf)/(.+)|([^/]+))")


def results(runs: Sequence[RunLog]) -> str:
    """Metrics of the project itself: last values, and curves over the run, both runs in one figure."""
    names = list(dict.fromkeys(name for run in runs for name in run.columns if not name.startswith(_OURS)))
    rows = [[name, *_with_difference([run.last(name) for run in runs])] for name in names]
    figures = []
    for word, label in (("acc", "accuracy"), ("loss", "loss")):
        curves = {
            f"{name} ({run.name})" if len(runs) > 1 else name: run.columns[name]
            for name in names
            for run in runs
            if word in name.lower() and len(run.columns.get(name, [])) > 1
        }
        if curves:
            figures.append(figure_html(plot_curves(curves, label), f"{label} over the run"))
    return section("Results", table(_head("metric, last value", runs), rows), figure_grid(figures))


def density(runs: Sequence[RunLog]) -> str:
    """Active weights of each layer, at the start and at the end."""
    layers = [run.by_layer("sparsity/layer_density", "sparsity/density") for run in runs]
    names = list(dict.fromkeys(name for by_layer in layers for name in by_layer))
    whole = {"all layers": "sparsity/density", "all trainable weights": "sparsity/overall_density"}
    logged = {row: [run.columns.get(metric) for run in runs] for row, metric in whole.items()}
    rows = [
        [row, *(_percent(points, at) for points in of_runs for at in (0, -1))]
        for row, of_runs in logged.items()
        if any(of_runs)
    ]
    rows += [[name, *(_percent(by_layer.get(name), at) for by_layer in layers for at in (0, -1))] for name in names]
    head = ["density"] + [f"{when}, {run.name}" for run in runs for when in ("first", "last")]
    figures = [
        _figure(run, by_layer, plot_layer_densities, "density per layer")
        for run, by_layer in zip(runs, layers, strict=True)
    ]
    return section("Density per layer", table(head, rows) if names else "", figure_grid(figures))


def updates(runs: Sequence[RunLog]) -> str:
    """Weights that topology updates pruned and grew, and the layers' shares."""
    figures, tables = [], []
    for run in runs:
        moved = [run.columns.get(f"sparsity/{name}", []) for name in ("prune_rate", "pruned", "grown")]
        rows = [
            [f"{rate.epoch:g}", f"{rate.step:g}", f"{rate.value:.3g}", f"{pruned.value:,.0f}", f"{grown.value:,.0f}"]
            for rate, pruned, grown in zip(*moved, strict=False)
        ]
        shown = table(["epoch", "step", "prune rate", "pruned", "grown"], rows)
        tables.append(folded(f"{len(rows)} updates of {run.name}", shown) if rows else "")
        figures.append(
            _figure(run, run.by_layer("sparsity/layer_share", "sparsity/share"), plot_redistribution, "redistribution")
        )
    return section("Topology updates", *tables, figure_grid(figures))


def gradient_flow(runs: Sequence[RunLog]) -> str:
    """Gradient flow over the run, its mean, and gradient flow per layer; for each optimizer, if there are several."""
    flows = [_flows(run) for run in runs]
    rows, figures = [], []
    for root in dict.fromkeys(root for flow in flows for root in flow):
        name = root.removeprefix("gradient_flow").removeprefix("/")
        own = [flow.get(root, {}) for flow in flows]
        of_all = [flow.get("", {}) for flow in own]
        for measure in dict.fromkeys(measure for measures in of_all for measure in measures if measure != "flagged"):
            means = _with_difference([_mean(measures.get(measure)) for measures in of_all])
            rows.append([f"{name}/{measure}" if name else measure, *means])
        flagged = [
            sum(point.value for point in measures["flagged"]) if "flagged" in measures else None for measures in of_all
        ]
        rows.append([f"{name and name + ': '}flagged layers, all measurements", *_with_difference(flagged)])
        figures += [figure for run, flow in zip(runs, own, strict=True) for figure in _flow_figures(run, flow, name)]
    return section("Gradient flow", table(_head("mean over the run", runs), rows), figure_grid(figures))


def _flows(run: RunLog) -> dict[str, dict[str, dict[str, list[Point]]]]:
    """Return measurements by root, by norm ("" for the whole network), and by layer or measure."""
    flows: dict[str, dict[str, dict[str, list[Point]]]] = {}
    for name, points in run.columns.items():
        if match := _FLOW.fullmatch(name):
            root, norm, layer, measure = match.groups()
            flows.setdefault(root, {}).setdefault(norm or "", {})[layer or measure] = points
    return flows


def _flow_figures(run: RunLog, flow: Mapping[str, Mapping[str, list[Point]]], name: str) -> list[str]:
    measures = {measure: points for measure, points in flow.get("", {}).items() if measure != "flagged"}
    layers = flow[max(norms, key=order_of)] if (norms := [norm for norm in flow if norm]) else {}
    of = f" of {name}" if name else ""
    return [
        _figure(run, measures, plot_gradient_flow, f"gradient flow{of}", "epoch"),
        _figure(run, layers, plot_layer_gradient_flow, f"gradient flow per layer{of}", "epoch"),
    ]


def specialization(runs: Sequence[RunLog]) -> str:
    """Class specialization of each layer at the last measurement, and dead channels."""
    parts = [name.rpartition("/") for run in runs for name in run.by_layer("specialization")]
    layers = list(dict.fromkeys(layer for layer, _, measure in parts if measure in ("mean", "dead")))
    rows = [[layer, *_with_difference([run.last(f"specialization/{layer}/mean") for run in runs])] for layer in layers]
    dead = [[layer, *_with_difference([run.last(f"specialization/{layer}/dead") for run in runs])] for layer in layers]
    means = table(_head("mean over channels", runs), rows)
    counts = folded("channels that are never active", table(_head("channels", runs), dead))
    return section("Class specialization", means, _specialization_figure(runs, layers), counts if layers else "")


def _specialization_figure(runs: Sequence[RunLog], layers: Sequence[str]) -> str:
    measured = {}
    for run in runs:
        own = {layer: [run.last(f"specialization/{layer}/{name}") for name in Quartiles._fields] for layer in layers}
        measured[run.name] = {
            layer: Quartiles(*(nan if value is None else value for value in own[layer]))
            for layer in own
            if own[layer][0] is not None
        }
    measured = {name: quartiles for name, quartiles in measured.items() if quartiles}
    if not measured:
        return ""
    label = "largest share of one class in a channel's activity"
    return figure_grid(
        [
            figure_html(
                plot_quartiles(measured, label),
                "class specialization of the channels: mean (mark), median (line) and middle half (bar)",
            )
        ]
    )


def saved_figures(runs: Sequence[RunLog]) -> str:
    """Figures that callbacks saved beside the log."""
    figures = [
        image_html(file, f"{file.relative_to(run.folder / 'figures').with_suffix('').as_posix()} ({run.name})")
        for run in runs
        for file in run.figures
    ]
    return section("Pictures", figure_grid(figures))


def settings(runs: Sequence[RunLog]) -> str:
    """Return the settings of the runs; of two runs, settings that differ come first and are bold."""
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    rows = [[name, *(run.settings.get(name, "-") for run in runs)] for name in names]
    differ = [len(set(row[1:])) > 1 for row in rows]
    head = ["setting", *(run.name for run in runs)]
    unread = [note(f"{run.name}: {run.unread}") for run in runs if run.unread]
    different = table(head, [row for row, differs in zip(rows, differ, strict=True) if differs])
    every = folded(f"all {len(rows)} settings", table(head, rows, differ) if rows else "")
    return section("Settings", *unread, different, every)


def _head(first: str, runs: Sequence[RunLog]) -> list[str]:
    return [first, *(run.name for run in runs), *(["difference"] if len(runs) > 1 else [])]


def _with_difference(values: Sequence[float | None]) -> list[str]:
    shown = ["-" if value is None else f"{value:.5g}" for value in values]
    if len(values) < 2:
        return shown
    first, second = values
    return [*shown, "-" if first is None or second is None else f"{second - first:+.3g}"]


def _percent(points: Sequence[Point] | None, at: int) -> str:
    return f"{100 * points[at].value:.3g} %" if points else "-"


def _mean(points: Sequence[Point] | None) -> float | None:
    finite = [point.value for point in points or [] if isfinite(point.value)]
    return sum(finite) / len(finite) if finite else None


def _figure(
    run: RunLog,
    curves: Mapping[str, Sequence[Point]],
    plot: Callable[..., Figure],
    caption: str,
    unit: str = "epochs completed",
) -> str:
    """Draw curves over epochs, or over steps where an epoch has several points; nothing if there are none."""
    places = sorted({(point.epoch, point.step) for points in curves.values() for point in points})
    if not places:
        return ""
    by_epoch = all(first[0] < second[0] for first, second in pairwise(places))
    series = {}
    for name, points in curves.items():
        values = {(point.epoch, point.step): point.value for point in points}
        series[name] = [values.get(place, nan) for place in places]
    xs = [place[0 if by_epoch else 1] for place in places]
    return figure_html(plot(xs, series, xlabel=unit if by_epoch else "steps"), f"{caption}, {run.name}")
