"""Search over the densities of layers, in the manner of SNAS: spaces, samplers, successive halving and controls."""

from lightning_sparse.search.command import search
from lightning_sparse.search.density_search import DensitySearch
from lightning_sparse.search.spaces import GroupDensities, LayerDensities, PowerLaw, Space, power_law
from lightning_sparse.search.trials import MutationSampler, RandomSampler, Sampler, Score, Trial

__all__ = [
    "DensitySearch",
    "GroupDensities",
    "LayerDensities",
    "MutationSampler",
    "PowerLaw",
    "RandomSampler",
    "Sampler",
    "Score",
    "Space",
    "Trial",
    "power_law",
    "search",
]
