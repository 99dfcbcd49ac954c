"""Tells of runs that ended before the density that they were to reach."""

from __future__ import annotations

from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.budget import Density
from lightning_sparse.validation.representation import short_text


def unreached_density(network: SparseNetwork, density: Density) -> str | None:
    """Return what is to be said if a network hasn't a density after a run, as far as frozen layers let it, else None.

    Args:
        network: The network.
        density: Density of all layers, or of those of each pattern.
    """
    if network.has_density(network.feasible_density(density)):
        return None
    present = network.group_densities(density)
    got = ", ".join(f"{short_text(key)}: {value:.4g}" for key, value in present.items() if key)
    return (
        f"Expected a density of {short_text(density)} at the end of training; got {got or f'{network.density:.4g}'}: "
        "the run ended before the last change. Cure: a longer run, or a method or schedule that ends earlier."
    )
