"""Tables of a search, as Markdown or plain cells."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_sparse.comparison.intervals import Interval
from lightning_sparse.search.results import FinalNetwork, SearchResults, front
from lightning_sparse.search.tried import Candidate

FINALS_NOTE = """\
Each network is trained from scratch with fresh seeds, that is other initial weights, masks and batches than in the
search, and tested once. Error: mean over the seeds in percent, with Student's 95 % interval. Against dense: by how many
points its error is larger, seed by seed, with the interval of that; a negative number is a better network. Same
capacity: a dense network of the width whose number of weights is nearest. Uniform and Erdos-Renyi-kernel: random masks
with exactly as many active weights. Gradual pruning: from the dense network, by magnitude (Zhu & Gupta, 2017), to as
many."""
FRONT_NOTE = """\
Of all trials that were trained in full, those that no other one beats in both, number of active weights and {metric} on
the validation data. These numbers chose the network, so they flatter it: compare networks by the errors above."""
_NAMES = {
    "best": "best of the search",
    "random_search": "best of random search",
    "dense": "dense template",
    "same_capacity": "same capacity, dense",
    "uniform": "uniform density",
    "erdos_renyi_kernel": "Erdos-Renyi-kernel",
    "gradual_pruning": "gradual pruning",
}


def final_name(label: str) -> str:
    """Return the name of a final network in tables."""
    return _NAMES[label]


def finals_table(results: SearchResults) -> list[list[str]]:
    """Return the table of final networks: its head, then a row for each."""
    rows = [["", "active weights", "share", "seeds", "test error (%)", "against dense", "against the best", "diverged"]]
    dense, best = results.finals.get("dense"), results.finals.get("best")
    for label, network in results.finals.items():
        rows.append(
            [
                final_name(label),
                f"{network.active:,}",
                f"{100 * network.active / results.template.total:.1f} %",
                str(len(network.results)),
                _interval(network.error, ".2f"),
                _against(network, dense),
                _against(network, best),
                str(len(network.results) - len(network.whole)),
            ]
        )
    return rows


def _against(network: FinalNetwork, other: FinalNetwork | None) -> str:
    return "-" if other is None or network is other else _interval(network.difference(other), "+.2f")


def _interval(interval: Interval | None, form: str) -> str:
    if interval is None:
        return "-"
    mean, low, high = interval
    ends = "" if low == high == mean else f" [{low:{form}}, {high:{form}}]"
    return f"{mean:{form}}{ends}"


def full_trials(results: SearchResults) -> list[Candidate]:
    """Return the trials that were trained in full."""
    return [each for each in results.trials.candidates if len(each.values) == results.search.rungs]


def front_table(results: SearchResults) -> list[list[str]]:
    """Return the table of the front: its head, then a row for each network, from the sparsest on."""
    layers = [name.removesuffix(".weight") for name in results.template.shapes]
    rows = [["trial", "active weights", "share", f"{results.search.metric} (%)", *layers]]
    for candidate in front(full_trials(results)):
        shares = [f"{density:.2f}" for density in candidate.densities.values()]
        share = f"{100 * candidate.active / results.template.total:.1f} %"
        reached = f"{100 * candidate.reached:.2f}"
        rows.append([str(candidate.trial.number), f"{candidate.active:,}", share, reached, *shares])
    return rows


def summary(results: SearchResults) -> str:
    """Return a paragraph about how the search was made and what it cost."""
    search, lengths = results.search, results.search.halving.lengths
    begun, whole, failed = results.trials.counts
    objective = f"{search.metric} on the validation data"
    objective += f" minus {search.penalty:g} times the active share of the weights" if search.penalty else ""
    objective += f", with at most {search.max_active:,} active weights" if search.max_active else ""
    epochs = _listed([str(length) for length in lengths])
    again = (
        f" The test data were used for {results.earlier} other networks before, which were the best of fewer trials or "
        "by another objective: the errors below flatter the last one."
        if results.earlier
        else ""
    )
    return (
        f"{begun} of {search.trials} trials, chosen by {results.sampler} among {results.trials.space.description}; "
        f"{whole} were trained in full, the others until they fell behind (compared after {epochs} epochs); "
        f"{failed} failed. Maximized: {objective}. The template has {results.template.total:,} weights in "
        f"{len(results.template.shapes)} layers.{again}"
    )


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
