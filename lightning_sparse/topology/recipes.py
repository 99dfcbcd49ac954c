"""Published methods, a line each.

A recipe fixes which weights move at an update. When updates happen and how the prune rate decays belongs to whoever
calls it; so does what a paper prescribes beyond that.
"""

from lightning_sparse.topology.growth import gradient, momentum, random
from lightning_sparse.topology.pruning import magnitude, signed_magnitude
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.redistribution import mean_momentum
from lightning_sparse.topology.registry import resolve

# Dettmers & Zettlemoyer 2019.
SPARSE_MOMENTUM = Recipe(prune=magnitude, redistribute=mean_momentum, grow=momentum)

# Sparse evolutionary training as Mostafa & Wang 2019 compare with it, and as Mocanu et al. 2018 prune.
SET = Recipe(prune=magnitude, redistribute=None, grow=random)
SET_ORIGINAL = Recipe(prune=signed_magnitude, redistribute=None, grow=random)

# The rules of RigL (Evci et al. 2020).
RIGL = Recipe(prune=magnitude, redistribute=None, grow=gradient, keep_regrown=True)

# Removes weights where a density schedule says how many, as gradual pruning does (Zhu & Gupta 2017).
MAGNITUDE_PRUNING = Recipe(prune=magnitude)

# A fixed random topology.
STATIC = Recipe(prune=None, redistribute=None, grow=None)

RECIPES: dict[str, Recipe] = {
    "sparse_momentum": SPARSE_MOMENTUM,
    "set": SET,
    "set_original": SET_ORIGINAL,
    "rigl": RIGL,
    "magnitude_pruning": MAGNITUDE_PRUNING,
    "static": STATIC,
}


def as_recipe(recipe: str | Recipe) -> Recipe:
    """Return a recipe given by name, by import path, or as it is.

    Raises:
        ValueError: If the name is unknown or the path can't be imported.
        TypeError: If it is not a recipe.
    """
    return resolve("recipe", recipe, RECIPES, accepts=lambda choice: isinstance(choice, Recipe))
