"""What a report says: each section is a function of one run or two, and empty if they have nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import isfinite, nan

from matplotlib.figure import Figure

from lightning_sparse.analysis.pictures import (
    plot_gradient_flow,
    plot_layer_densities,
    plot_layer_gradient_flow,
    plot_redistribution,
)
from lightning_sparse.report.curves import Quartiles, plot_curves, plot_quartiles
from lightning_sparse.report.page import drawn, folded, picture, pictures, section, table
from lightning_sparse.report.run_log import Point, RunLog

_OURS = ("sparsity/", "gradient_flow/", "specialization/")


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
    """Gradient flow over the run, its average, and that of each layer."""
    measures = {
        name: name.removeprefix("gradient_flow/")
        for run in runs
        for name in run.columns
        if name.startswith("gradient_flow/") and name.count("/") == 1 and not name.endswith("flagged")
    }
    rows = [
        [label, *_with_difference([_mean(run.columns.get(name)) for run in runs])] for name, label in measures.items()
    ]
    flagged = [sum(point.value for point in run.columns.get("gradient_flow/flagged", [])) for run in runs]
    rows += [["flagged layers, all measurements", *_with_difference(flagged)]] if rows else []
    found = []
    for run in runs:
        own = {label: run.columns[name] for name, label in measures.items() if name in run.columns}
        found.append(_picture(run, own, plot_gradient_flow, "gradient flow", "epoch"))
        largest = [name for name in measures if name.startswith("gradient_flow/egf") and run.by_layer(name)]
        layers = run.by_layer(largest[-1]) if largest else {}
        found.append(_picture(run, layers, plot_layer_gradient_flow, "gradient flow per layer", "epoch"))
    return section("Gradient flow", table(_head("mean over the run", runs), rows), pictures(found))


def specialization(runs: Sequence[RunLog]) -> str:
    """How specialized the channels of each layer are, as it was measured last."""
    found = [run.by_layer("specialization") for run in runs]
    layers = list(dict.fromkeys(name.rpartition("/")[0] for each in found for name in each if name.endswith("/mean")))
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
    different = table(head, [row for row, differs in zip(rows, differ, strict=True) if differs])
    return section(
        "Settings", different, folded(f"all {len(rows)} settings", table(head, rows, differ) if rows else "")
    )


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
