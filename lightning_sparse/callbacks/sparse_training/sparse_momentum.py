"""Sparse momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_sparse.callbacks.sparse_training.callback import SparseTrainingCallback
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.layer import LayerView
from lightning_sparse.topology.pruning import PRUNING
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.redistribution import REDISTRIBUTION
from lightning_sparse.topology.registry import resolve
from lightning_sparse.validation.errors import InvalidTypeError


class SparseMomentumCallback(SparseTrainingCallback, sets=["recipe", "method"]):
    """Train a sparse network from scratch with sparse momentum (Dettmers & Zettlemoyer 2019, Algorithm 1).

    After every epoch but the last: prune the smallest weights of each layer, hand the freed budget to the layers by
    the mean momentum magnitude of their active weights, and regrow where momentum is largest. The number of active
    weights is exact at all times; inactive weights are exactly zero after every optimizer step. Momentum is read from
    the optimizers, or kept by the callback where they have none that can be compared (the summary says which).

    Each of the three rules can be exchanged, which is how the paper's ablation (Table 5) is run:
    `redistribution="none", growth="random"`, for instance. A rule is a name, an import path or a function of one
    `LayerView`.

    Masking saves no time by itself: sparse weights are multiplied as zeros.

    Args:
        args: `density`, `prune_rate`, `schedule`, `every_n_epochs` and `every_n_steps` of `SparseTrainingCallback`.
        pruning: "magnitude" or "signed_magnitude"; scores each weight, the lowest are pruned.
        redistribution: "momentum"; "momentum_per_multiplication" or "momentum_per_root_multiplication", which divide by
            what a weight of the layer costs per example, or its square root; or "none" (each layer regrows what it
            lost). One claim per layer.
        growth: "momentum", "random" or "gradient"; scores each weight, the highest inactive ones are grown.
        keep_regrown: Whether a weight that is pruned and regrown in the same update keeps its value, as in the
            authors' code, or starts at zero like every other regrown weight, as in their paper.
        options: Options of `SparseTrainingCallback`, without `recipe` and `method`. The defaults are the paper's.

    Attributes:
        network: The `SparseNetwork`, with masks and densities, from the start of fit on.
        history: One `UpdateRecord` per topology update.

    Raises:
        ValueError: If an argument is out of range or unknown.
        TypeError: If there is no such option.

    >>> callback = SparseMomentumCallback(density=0.05, growth="random")
    """

    def __init__(
        self,
        *args: Any,
        pruning: str | Callable[[LayerView], Tensor] = "magnitude",
        redistribution: str | Callable[[LayerView], Tensor | float] | None = "momentum",
        growth: str | Callable[[LayerView], Tensor] = "momentum",
        keep_regrown: bool = False,
        **options: Any,
    ) -> None:
        for name in ("recipe", "method"):
            if name in options:
                raise InvalidTypeError(
                    expected="rules, as the recipe of this callback is sparse momentum with some of them exchanged",
                    got=f"{name}={options[name]!r}",
                    cure=f"SparseTrainingCallback takes a {name}; here pruning, redistribution and growth are given",
                )
        recipe = Recipe(
            prune=resolve("pruning rule", pruning, PRUNING),
            redistribute=resolve(
                "redistribution rule", "none" if redistribution is None else redistribution, REDISTRIBUTION
            ),
            grow=resolve("growth rule", growth, GROWTH),
            keep_regrown=keep_regrown,
        )
        super().__init__(recipe, *args, method=None, **options)
