"""Tables of a study, as Markdown: tests, gradient flow, correlations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, median, pstdev
from typing import Any

from lightning_sparse.comparison.correlations import Correlation, correlation
from lightning_sparse.comparison.measured import NORMS, CellResult, MeasuredStudy, mean_flow
from lightning_sparse.comparison.paired_tests import Shift, holm
from lightning_sparse.comparison.study import SIDES

TESTS_NOTE = """\
A pair: a dense network, and one of the maximal width with exactly as many active weights in every layer, drawn from the
same distribution and trained on the same batches. Tested is whether the sparse ones classify more test images
correctly: p of Wilcoxon's signed-rank test, one-sided and exact with ties, also corrected by Holm for all rows of this
table. Shift: Hodges-Lehmann estimate in percentage points of accuracy with its 95 % interval, > 0 if sparse is better
(no interval: too few pairs for one). Effect: rank-biserial correlation, from -1 (dense always better) to 1. Wins, ties
and losses are those of the sparse network. Pairs with a network whose weights are not finite (diverged) are left out.
With n pairs no p is below 1 / 2^n."""
FLOW_NOTE = """\
EGF_2, the mean over layers of the 2-norm of the masked gradient, as the mean over the measured epochs; and how unsteady
it is, its standard deviation over these epochs divided by its mean. Medians over the networks."""
CORRELATIONS_NOTE = """\
Kendall's tau-b between a norm (mean over the measured epochs) and what the network reaches, over all finite networks of
a depth, with 95 % bootstrap intervals over them. EGF: mean over layers of the norm of the masked gradient; ||g||: norm
of the whole gradient, inactive weights included. For stability, a norm should go together with a *low* test loss."""
_NAMES = {"egf_l1": "EGF_1", "egf_l2": "EGF_2", "l1": "||g||_1", "l2": "||g||_2"}


def label(result: CellResult, study: MeasuredStudy) -> str:
    """Return what tells a cell from the others of its study."""
    cells = study.study.cells()
    parts = {
        "data": result.cell.data,
        "optimizer": result.cell.optimizer,
        "learning_rate": f"{result.cell.learning_rate:g}",
        "regularizer": result.cell.regularizer,
        "activation": result.cell.activation,
        "depth": f"{result.cell.depth} layers",
    }
    differ = [name for name in parts if len({getattr(cell, name) for cell in cells}) > 1]
    shown = [name for name in differ if name != "learning_rate" or _several_rates(study)]
    return ", ".join(parts[name] for name in shown) or result.cell.name


def _several_rates(study: MeasuredStudy) -> bool:
    return any(len(each["learning_rates"]) > 1 for each in study.study.optimizers.values())


def results_table(study: MeasuredStudy) -> list[list[str]]:
    """Return the table of tests: its head, then a row per cell."""
    corrected = holm({result.cell.name: result.test.p for result in study.cells})
    head = [
        "",
        "pairs",
        "wins / ties / losses",
        "sparse (%)",
        "dense (%)",
        "shift",
        "effect",
        "p",
        "p (Holm)",
        "diverged",
    ]
    rows = [head]
    for result in study.cells:
        test = result.test
        means = [f"{fmean(found):.2f}" if (found := result.accuracy(side)) else "-" for side in ("sparse", "dense")]
        numbers = [f"{test.rank_biserial:+.2f}", _p(test.p), _p(corrected[result.cell.name]), str(result.diverged)]
        counts = f"{test.wins} / {test.ties} / {test.losses}"
        rows.append([label(result, study), str(test.pairs), counts, *means, _shift(result.shift), *numbers])
    return rows


def _p(value: float) -> str:
    text = f"{value:.4f}" if value >= 0.001 else f"{value:.1e}"
    return f"**{text}**" if value <= 0.05 else text


def _shift(shift: Shift) -> str:
    if shift.estimate != shift.estimate:
        return "-"
    interval = "" if shift.high == float("inf") else f" [{shift.low:+.3f}, {shift.high:+.3f}]"
    return f"{shift.estimate:+.3f}{interval}"


def flow_table(study: MeasuredStudy) -> list[list[str]]:
    """Return the table of gradient flow: its head, then a row per cell."""
    rows = [["", "EGF_2, sparse", "dense", "unsteadiness, sparse", "dense"]]
    for result in study.cells:
        if not result.whole:
            continue
        runs = {side: result.flow(side, "egf_l2") for side in SIDES}
        level = {side: median(map(fmean, runs[side])) for side in SIDES}
        unsteady = {side: median(pstdev(run) / fmean(run) if any(run) else 0.0 for run in runs[side]) for side in SIDES}
        numbers = [level["sparse"], level["dense"], unsteady["sparse"], unsteady["dense"]]
        rows.append([label(result, study), *(f"{number:.3g}" for number in numbers)])
    return rows


def correlations(study: MeasuredStudy) -> dict[int, dict[tuple[str, str], Correlation]]:
    """Return the correlations of norms with test loss and accuracy, by depth, norm and "loss" or "accuracy"."""
    runs: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for result in study.cells:
        runs[result.cell.depth] += [each for pair in result.whole for each in (pair.dense, pair.sparse)]
    found = {}
    for depth, results in runs.items():
        if len(results) < 2:
            continue
        reached = {
            "loss": [result["test_loss"] for result in results],
            "accuracy": [result["correct"] / result["images"] for result in results],
        }
        norms = {norm: [mean_flow(result, norm) for result in results] for norm in NORMS}
        found[depth] = {(norm, name): correlation(norms[norm], reached[name]) for norm in NORMS for name in reached}
    return found


def correlations_table(study: MeasuredStudy) -> list[list[str]]:
    """Return the table of correlations: its head, then a row per depth and norm."""
    rows = [["", "networks", "with test loss", "with accuracy"]]
    for depth, found in correlations(study).items():
        for norm in NORMS:
            both = [found[norm, name] for name in ("loss", "accuracy")]
            texts = [f"{each.tau:+.2f} [{each.low:+.2f}, {each.high:+.2f}]" for each in both]
            rows.append([f"{_NAMES[norm]}, {depth} hidden layers", str(both[0].runs), *texts])
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table with its head as Markdown."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(each.replace("|", "\\|") for each in line) + " |" for line in lines)
