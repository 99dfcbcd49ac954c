"""Methods by name, by import path, or as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lightning_sparse.methods.at_initialization.snip import Snip
from lightning_sparse.methods.base import Method
from lightning_sparse.methods.dense_to_sparse.l0_regularization import L0Regularization
from lightning_sparse.methods.throughout.deep_rewiring import DeepRewiring
from lightning_sparse.methods.throughout.rigl import RigL
from lightning_sparse.methods.throughout.top_kast import TopKast
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.recipes import RECIPES, as_recipe
from lightning_sparse.topology.registry import resolve
from lightning_sparse.validation.errors import InvalidValueError

# A name stands for the method with the hyperparameters of its paper.
METHODS: dict[str, Callable[[], Method]] = {
    "snip": Snip,
    "rigl_original": RigL,
    "deep_rewiring": DeepRewiring,
    "top_kast": TopKast,
    "l0_regularization": L0Regularization,
}


def as_method(method: str | Method) -> Method:
    """Return a method given by name, by the import path of a class or an instance, or as it is.

    Raises:
        ValueError: If the name is unknown or the path can't be imported.
        TypeError: If it is no method.
    """
    if isinstance(method, str) and method in RECIPES:
        raise InvalidValueError(
            expected=f"a method from {', '.join(METHODS)}, or an import path",
            got=f"{method!r}, which is a recipe",
            cure=f"recipe={method!r}",
        )
    found = resolve("method", method, METHODS, accepts=_is_method)
    return found if isinstance(found, Method) else found()


def _is_method(choice: object) -> bool:
    return isinstance(choice, Method) or (isinstance(choice, type) and issubclass(choice, Method))


def as_recipes(recipe: str | Recipe | Mapping[str, str | Recipe]) -> Recipe | dict[str, Recipe]:
    """Return one recipe, or one for each pattern of layers, given by name, by import path, or as they are.

    Raises:
        ValueError: If a name is unknown or a path can't be imported, with the cure where it is that of a method.
        TypeError: If one is no recipe.
    """
    if isinstance(recipe, Mapping):
        return {pattern: as_recipe(each) for pattern, each in recipe.items()}
    if isinstance(recipe, str) and recipe in METHODS:
        raise InvalidValueError(
            expected=f"a recipe from {', '.join(RECIPES)}, or an import path",
            got=f"{recipe!r}, which is a method",
            cure=f"method={recipe!r}",
        )
    return as_recipe(recipe)
