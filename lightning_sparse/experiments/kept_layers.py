"""Options of sparse training under which each layer keeps its number of active weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_sparse.topology.recipes import as_recipe
from lightning_sparse.validation.errors import InvalidValueError


def check_keeps_layers(options: Mapping[str, Any]) -> None:
    """Check options of `SparseTrainingCallback` for trainings whose layers keep their numbers of active weights.

    Args:
        options: The options, in which there must be a recipe.

    Raises:
        ValueError: If there is no recipe, or it moves weights between layers.
    """
    if not isinstance(options, Mapping) or "recipe" not in options:
        raise InvalidValueError(
            expected="a recipe in sparse_training, which says how masks change",
            got=repr(options),
            cure="{recipe: static} for masks that stay, or {recipe: set, prune_rate: 0.3}",
        )
    if as_recipe(options["recipe"]).redistribute is not None:
        raise InvalidValueError(
            expected="a recipe that leaves each layer its number of active weights",
            got=f"{options['recipe']!r}, which redistributes them",
            cure="'static', 'set' without redistribution, or a Recipe with redistribute=None",
        )
