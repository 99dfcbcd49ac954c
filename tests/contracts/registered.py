"""What the contracts of callbacks are run over: found, not listed, so that registering is enough."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import Any

import lightning_sparse.callbacks
from lightning_sparse.callbacks import SparseTrainingCallback
from lightning_sparse.methods import DensitySchedule
from lightning_sparse.testing.callbacks.runs import Factory
from lightning_sparse.topology import RECIPES, Recipe


def sparse_callbacks(
    package: ModuleType = lightning_sparse.callbacks, recipes: Mapping[str, Any] = RECIPES
) -> dict[str, Factory]:
    """Return every exported kind of sparse training by name, and the general one with every recipe."""
    exported = {name: getattr(package, name) for name in package.__all__}
    special = {
        name: kind
        for name, kind in exported.items()
        if isinstance(kind, type) and issubclass(kind, SparseTrainingCallback) and kind is not SparseTrainingCallback
    }
    return {**special, **{f"recipe {name}": _with_recipe(name, recipe) for name, recipe in recipes.items()}}


def _with_recipe(name: str, recipe: Recipe) -> Factory:
    if recipe.prune is None or recipe.grow is not None:
        return partial(SparseTrainingCallback, recipe=name)
    # A recipe that only removes weights needs a density that falls: here after the second, third and fourth step.
    return partial(SparseTrainingCallback, recipe=name, density=DensitySchedule(0.3, every_n_steps=1, begin=1, end=4))
