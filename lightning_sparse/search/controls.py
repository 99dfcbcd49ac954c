"""What the best network of a search is compared with, at the same number of active weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lightning_sparse.search.density_search import DensitySearch
from lightning_sparse.search.template import Template, read_template
from lightning_sparse.search.trainings import Architecture, SearchTraining
from lightning_sparse.search.tried import Candidate
from lightning_sparse.topology.density import allocate
from lightning_sparse.validation.errors import InvalidValueError

BEST, RANDOM = "best", "random_search"
_HALVINGS = 20


def final_architectures(
    search: DensitySearch, template: Template, best: Candidate, best_of_random: Candidate | None
) -> dict[str, Architecture]:
    """Return the best network and its controls, by name.

    Args:
        search: The search.
        template: Its template.
        best: The best network.
        best_of_random: The best network of a random search with the same budget, if there was one.
    """
    found = {BEST: Architecture(best.counts)}
    if best_of_random is not None:
        found[RANDOM] = Architecture(best_of_random.counts)
    for control in search.controls:
        if control == "dense":
            found[control] = Architecture()
        elif best.active == template.total:  # all others would be the dense template
            continue
        elif control == "same_capacity":
            found[control] = Architecture(width=width_of(search.protocol, best.active))
        elif control == "gradual_pruning":
            found[control] = Architecture(spread(template, best.active, "uniform"), pruned_from_dense=True)
        elif control != RANDOM:
            found[control] = Architecture(spread(template, best.active, control))
    return found


def final_trainings(search: DensitySearch, architectures: Mapping[str, Architecture]) -> Iterator[SearchTraining]:
    """Return the trainings of final networks, seed by seed: from scratch, with fresh weights, masks and batches."""
    for seed in range(search.seed + 1, search.seed + 1 + search.final_seeds):
        for label, architecture in architectures.items():
            yield SearchTraining(
                search.name,
                "final",
                label,
                architecture,
                seed,
                search.epochs,
                tests=True,
                protocol=search.protocol,
            )


def spread(template: Template, active: int, distribution: str) -> dict[str, int]:
    """Return exactly as many active weights in all, spread over layers by a distribution.

    >>> spread(Template({"a": (10, 20), "b": (5, 10)}), 100, "uniform")
    {'a': 80, 'b': 20}
    """
    counts = allocate(list(template.shapes.values()), active, distribution)
    return dict(zip(template.shapes, counts, strict=True))


def width_of(protocol: Mapping[str, Any], active: int) -> float:
    """Return the width, up to the template's, of the dense network whose number of weights is nearest to a number."""
    low, high = 0.0, float(protocol["model_options"].get(protocol["width"], 1.0))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        total = _total(protocol, middle)
        if total is None or total <= active:
            low = middle
        else:
            high = middle
    distances = {width: abs(total - active) for width in (low, high) if (total := _total(protocol, width)) is not None}
    return min(distances, key=distances.__getitem__)


def _total(protocol: Mapping[str, Any], width: float) -> int | None:
    """Return the number of weights of a width; None if it is too narrow for a network."""
    try:
        return read_template(protocol, width).total if width else None
    except InvalidValueError:
        return None
