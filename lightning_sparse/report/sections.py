"""What a report says: each section is a function of one run or two, and empty if they have nothing of it."""

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
from lightning_sparse.report.page import drawn, folded, note, picture, pictures, section, table
from lightning_sparse.report.run_log import Point, RunLog

_OURS = ("sparsity/", "gradient_flow/", "specialization/")
# A callback's root (of a name, of an optimizer), a measure, and the layer that it is of.
_FLOW = re.compile(r"(gradient_flow(?:/.+?)??)/(?:(egf_l[\d.e+]+|egf_linf)/(.+)|([^/]+))")


def results(runs: Sequence[RunLog]) -> str:
    """What the project itself logged: last numbers, and curves over epochs, of both runs in one picture."""
    names = list(dict.fromkeys(name for run in runs for name in run.columns if not name.startswith(_OURS)))
    rows = [[name, *_with_difference([run.last(name) for run in runs])] for name in names]
    found = []
    for word, label in (("acc", "accuracy"), ("loss", "loss")):
        curves = {
            f"{name} ({run.name})" if len(runs) > 1 else name: run.columns[name]
            for name in names
            for run in runs
            if word in name.lower() and len(run.columns.get(name, [])) > 1
        }
        if curves:
            found.append(drawn(plot_curves(curves, label), f"{label} over the run"))
    return section("Results", table(_head("metric, last value", runs), rows), pictures(found))


def density(runs: Sequence[RunLog]) -> str:
    """Active weights of each layer, at the start and at the end."""
    layers = [run.by_layer("sparsity/density") for run in runs]
    names = list(dict.fromkeys(name for found in layers for name in found))
    rows = [["all layers", *(_percent(run.columns.get("sparsity/density"), at) for run in runs for at in (0, -1))]]
    rows += [[name, *(_percent(found.get(name), at) for found in layers for at in (0, -1))] for name in names]
    head = ["density"] + [f"{when}, {run.name}" for run in runs for when in ("first", "last")]
    found = [
        _picture(run, layer, plot_layer_densities, "density per layer") for run, layer in zip(runs, layers, strict=True)
    ]
    return section("Density per layer", table(head, rows) if names else "", pictures(found))


def updates(runs: Sequence[RunLog]) -> str:
    """What the topology updates moved, and where to."""
    found, tables = [], []
    for run in runs:
        moved = [run.columns.get(f"sparsity/{name}", []) for name in ("prune_rate", "pruned", "grown")]
        rows = [
            [f"{rate.epoch:g}", f"{rate.step:g}", f"{rate.value:.3g}", f"{pruned.value:,.0f}", f"{grown.value:,.0f}"]
            for rate, pruned, grown in zip(*moved, strict=False)
        ]
        shown = table(["epoch", "step", "prune rate", "pruned", "grown"], rows)
        tables.append(folded(f"{len(rows)} updates of {run.name}", shown) if rows else "")
        found.append(_picture(run, run.by_layer("sparsity/share"), plot_redistribution, "redistribution"))
    return section("Topology updates", *tables, pictures(found))


def gradient_flow(runs: Sequence[RunLog]) -> str:
    """Gradient flow over the run, its average, and that of each layer; of each optimizer, if there are several."""
    flows = [_flows(run) for run in runs]
    rows, found = [], []
    for root in dict.fromkeys(root for each in flows for root in each):
        name = root.removeprefix("gradient_flow").removeprefix("/")
        own = [each.get(root, {}) for each in flows]
        of_all = [each.get("", {}) for each in own]
        for measure in dict.fromkeys(measure for each in of_all for measure in each if measure != "flagged"):
            means = _with_difference([_mean(each.get(measure)) for each in of_all])
            rows.append([f"{name}/{measure}" if name else measure, *means])
        flagged = [sum(point.value for point in each["flagged"]) if "flagged" in each else None for each in of_all]
        rows.append([f"{name and name + ': '}flagged layers, all measurements", *_with_difference(flagged)])
        found += [drawing for run, each in zip(runs, own, strict=True) for drawing in _flow_pictures(run, each, name)]
    return section("Gradient flow", table(_head("mean over the run", runs), rows), pictures(found))


def _flows(run: RunLog) -> dict[str, dict[str, dict[str, list[Point]]]]:
    """Return what was measured by root; there, by measure what is of each layer, and by "" what is of all layers."""
    found: dict[str, dict[str, dict[str, list[Point]]]] = {}
    for name, points in run.columns.items():
        if match := _FLOW.fullmatch(name):
            root, norm, layer, measure = match.groups()
            found.setdefault(root, {}).setdefault(norm or "", {})[layer or measure] = points
    return found


def _flow_pictures(run: RunLog, flow: Mapping[str, Mapping[str, list[Point]]], name: str) -> list[str]:
    measures = {measure: points for measure, points in flow.get("", {}).items() if measure != "flagged"}
    layers = flow[max(norms, key=order_of)] if (norms := [norm for norm in flow if norm]) else {}
    of = f" of {name}" if name else ""
    return [
        _picture(run, measures, plot_gradient_flow, f"gradient flow{of}", "epoch"),
        _picture(run, layers, plot_layer_gradient_flow, f"gradient flow per layer{of}", "epoch"),
    ]


def specialization(runs: Sequence[RunLog]) -> str:
    """How specialized the channels of each layer are, as it was measured last; of a layer that is dead, that it is."""
    parts = [name.rpartition("/") for run in runs for name in run.by_layer("specialization")]
    layers = list(dict.fromkeys(layer for layer, _, measure in parts if measure in ("mean", "dead")))
    rows = [[layer, *_with_difference([run.last(f"specialization/{layer}/mean") for run in runs])] for layer in layers]
    dead = [[layer, *_with_difference([run.last(f"specialization/{layer}/dead") for run in runs])] for layer in layers]
    means = table(_head("mean over channels", runs), rows)
    counts = folded("channels that are never active", table(_head("channels", runs), dead))
    return section("Class specialization", means, _specialization_picture(runs, layers), counts if layers else "")


def _specialization_picture(runs: Sequence[RunLog], layers: Sequence[str]) -> str:
    measured = {}
    for run in runs:
        own = {layer: [run.last(f"specialization/{layer}/{name}") for name in Quartiles._fields] for layer in layers}
        measured[run.name] = {
            layer: Quartiles(*(nan if value is None else value for value in own[layer]))
            for layer in own
            if own[layer][0] is not None
        }
    measured = {name: found for name, found in measured.items() if found}
    if not measured:
        return ""
    label = "largest share of one class in a channel's activity"
    return pictures(
        [
            drawn(
                plot_quartiles(measured, label),
                "class specialization of the channels: mean (mark), median (line) and middle half (bar)",
            )
        ]
    )


def left_pictures(runs: Sequence[RunLog]) -> str:
    """Pictures that callbacks left beside the log."""
    found = [
        picture(file, f"{file.relative_to(run.folder / 'figures').with_suffix('').as_posix()} ({run.name})")
        for run in runs
        for file in run.pictures
    ]
    return section("Pictures", pictures(found))


def settings(runs: Sequence[RunLog]) -> str:
    """What the runs were configured with; of two runs, what differs stands out and comes first."""
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


def _picture(
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
    return drawn(plot(xs, series, xlabel=unit if by_epoch else "steps"), f"{caption}, {run.name}")
