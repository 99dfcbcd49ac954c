"""Options of `SparseNetwork` that a callback takes before there is a model."""

from __future__ import annotations

from inspect import signature
from typing import Any

from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.budget import Density, as_density, check_density_options, optional_density
from lightning_sparse.selection.patterns import as_included, as_patterns
from lightning_sparse.topology.initial_masks import as_initial_masks
from lightning_sparse.validation.deprecation import renamed_argument
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError

# Arguments of `SparseNetwork` that a callback sets itself when a fit starts.
SET_AT_START = ("model", "seed", "masks", "state")
_DEFAULTS = {
    name: parameter.default
    for name, parameter in signature(SparseNetwork).parameters.items()
    if name not in SET_AT_START
}


def check_network_options(
    owner: str, density: Density | None, options: dict[str, Any], *, takes_masks_over: bool = False
) -> dict[str, Any]:
    """Return the options of a `SparseNetwork`, checked as far as they can be without a model.

    Args:
        owner: Class name of the callback, for the message.
        density: Density, or None for the default.
        options: Further options by name.
        takes_masks_over: Whether masks are given: then the default is their density.

    Raises:
        ValueError: If an option is out of range.
        TypeError: If there is no such option, or a pattern is neither a string nor a module type.
    """
    if unknown := [name for name in options if name not in _DEFAULTS]:
        raise InvalidTypeError(
            expected=f"options of {owner}",
            got=f"an unexpected keyword argument {', '.join(map(repr, unknown))}",
            cure=f"drop it; help({owner}) lists all options",
        )
    checked = {**_DEFAULTS, **options}
    minimum = checked.pop("minimum")
    checked["min_active"] = renamed_argument(
        "minimum", minimum, "min_active", checked["min_active"], default=_DEFAULTS["min_active"], stacklevel=4
    )
    given = optional_density(density, checked.pop("sparsity"))
    or_default = as_density(given, None)
    check_density_options(or_default, checked["distribution"], checked["min_active"])
    checked["density"] = given if takes_masks_over else or_default
    as_included(checked["include"])
    as_initial_masks(checked["initial_masks"])
    if takes_masks_over and checked["initial_masks"] != _DEFAULTS["initial_masks"]:
        raise InvalidValueError(
            expected="masks to take over or a rule for new ones",
            got=f"masks_from and initial_masks={checked['initial_masks']!r}",
            cure="drop one of them",
        )
    for name in ("exclude", "dense"):
        as_patterns(checked[name])
    return checked
