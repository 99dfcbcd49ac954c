"""Contracts that every rule, recipe and callback must satisfy, for the library's and users' own.

>>> from lightning_sparse.topology.growth import random
>>> check_growth(random)
"""

from lightning_sparse.testing.callbacks.sparse_training import CALLBACK_PROPERTIES, check_callback
from lightning_sparse.testing.contract import ContractError
from lightning_sparse.testing.methods.method import METHOD_PROPERTIES, check_method
from lightning_sparse.testing.recipes.recipe import RECIPE_PROPERTIES, check_recipe
from lightning_sparse.testing.rules.growth import GROWTH_PROPERTIES, check_growth
from lightning_sparse.testing.rules.pruning import PRUNING_PROPERTIES, check_pruning
from lightning_sparse.testing.rules.redistribution import REDISTRIBUTION_PROPERTIES, check_redistribution

__all__ = [
    "CALLBACK_PROPERTIES",
    "GROWTH_PROPERTIES",
    "METHOD_PROPERTIES",
    "PRUNING_PROPERTIES",
    "RECIPE_PROPERTIES",
    "REDISTRIBUTION_PROPERTIES",
    "ContractError",
    "check_callback",
    "check_growth",
    "check_method",
    "check_pruning",
    "check_recipe",
    "check_redistribution",
]
