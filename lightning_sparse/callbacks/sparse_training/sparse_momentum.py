"""Sparse momentum."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lightning_sparse.callbacks.sparse_training.callback import SparseTrainingCallback
from lightning_sparse.network.budget import Density
from lightning_sparse.selection.patterns import Patterns
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.layer import LayerView
from lightning_sparse.topology.pruning import PRUNING
from lightning_sparse.topology.redistribution import REDISTRIBUTION
from lightning_sparse.topology.registry import resolve
from lightning_sparse.topology.rewire import Recipe


class SparseMomentumCallback(SparseTrainingCallback):
    """Train a sparse network from scratch with sparse momentum (Dettmers & Zettlemoyer 2019, Algorithm 1).

    After every epoch but the last: prune the smallest weights of each layer, hand the freed budget to the layers by
    the mean momentum magnitude of their active weights, and regrow where momentum is largest. The number of active
    weights is exact at all times; inactive weights are exactly zero after every optimizer step. Momentum is read from
    the optimizer, or kept by the callback where the optimizer has none (`lightning_sparse.network.signals`).

    Each of the three rules can be exchanged, which is how the paper's ablation (Table 5) is run:
    `redistribution="none", growth="random"`, for instance. A rule is a name, an import path or a function of one
    `LayerView`.

    Masking saves no time by itself: sparse weights are multiplied as zeros.

    Args:
        density: Fraction in (0, 1] of the maskable weights that stay active; or a mapping of layer patterns to the
            density of each, of which the first match counts. Default: 0.05.
        prune_rate: Fraction in [0, 1] of each layer's active weights that the first update prunes.
        schedule: Decay of the prune rate: "cosine" (the paper: to zero at the last update), "linear", "constant", or
            a function of progress in [0, 1] that returns a factor in [0, 1].
        every_n_epochs: Update period in epochs; 1 if neither period is given.
        every_n_steps: Update period in optimizer steps, instead.
        pruning: "magnitude" or "signed_magnitude"; scores each weight, the lowest are pruned.
        redistribution: "momentum" or "none" (each layer regrows what it lost); one claim per layer.
        growth: "momentum", "random" or "gradient"; scores each weight, the highest inactive ones are grown.
        keep_regrown: Whether a weight that is pruned and regrown in the same update keeps its value, as in the
            authors' code, or starts at zero like every other regrown weight, as in their paper.
        distribution: How active weights are spread over layers at first: "uniform" (the paper), "erdos_renyi" or
            "erdos_renyi_kernel".
        include: Mask these instead of all linear and convolutional layers: globs on layer, parameter or type names,
            or module types.
        exclude: Leave these out, likewise; they don't count in the density.
        dense: These stay dense, likewise, but count in the density.
        minimum: No layer falls below so many active weights.
        seed: Of random masks and growth; default: the seed that PyTorch was given (`seed_everything`).
        sparsity: 1 - density, to give instead of it.

    Attributes:
        network: The `SparseNetwork`, with masks and densities, from the start of fit on.
        history: One `UpdateRecord` per topology update.

    Raises:
        ValueError: If an argument is out of range or unknown.

    >>> callback = SparseMomentumCallback(density=0.05, growth="random")
    """

    def __init__(
        self,
        density: Density | None = None,
        prune_rate: float = 0.5,
        schedule: str | Callable[[float], float] = "cosine",
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        pruning: str | Callable[[LayerView], Tensor] = "magnitude",
        redistribution: str | Callable[[LayerView], Tensor | float] | None = "momentum",
        growth: str | Callable[[LayerView], Tensor] = "momentum",
        keep_regrown: bool = False,
        distribution: str = "uniform",
        include: Patterns | None = None,
        exclude: Patterns | None = None,
        dense: Patterns | None = None,
        minimum: int = 1,
        seed: int | None = None,
        sparsity: Density | None = None,
    ) -> None:
        recipe = Recipe(
            prune=resolve("pruning rule", pruning, PRUNING),
            redistribute=resolve(
                "redistribution rule", "none" if redistribution is None else redistribution, REDISTRIBUTION
            ),
            grow=resolve("growth rule", growth, GROWTH),
            keep_regrown=keep_regrown,
        )
        super().__init__(
            recipe=recipe,
            density=density,
            prune_rate=prune_rate,
            schedule=schedule,
            every_n_epochs=every_n_epochs,
            every_n_steps=every_n_steps,
            distribution=distribution,
            include=include,
            exclude=exclude,
            dense=dense,
            minimum=minimum,
            seed=seed,
            sparsity=sparsity,
        )
