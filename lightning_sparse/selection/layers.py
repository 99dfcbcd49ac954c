"""Which layers of a model are meant by patterns."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn

from lightning_sparse.selection.names import named_modules
from lightning_sparse.selection.obstacles import is_metric
from lightning_sparse.selection.patterns import DEFAULT, Pattern, Patterns, as_included, name_list
from lightning_sparse.validation.errors import InvalidValueError

CONVOLUTIONS: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def find_layers(model: nn.Module, patterns: Patterns | None = None) -> dict[str, nn.Module]:
    """Return the modules inside a model that match patterns, by name, in the order of the model.

    Args:
        model: Any module. Its metrics are ignored, with the networks inside them.
        patterns: Module types, or globs on module or type names. Default: all convolutions, for which the word
            "default" stands among other patterns.

    Raises:
        ValueError: If a pattern matches nothing, or there is no convolution.
        TypeError: If a pattern is neither a string nor a module type.

    >>> list(find_layers(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), "ReLU"))
    ['1']
    """
    of_metrics = {id(inner) for module in model.modules() if is_metric(module) for inner in module.modules()}
    # A wrapper and the module that it wraps share a name; the wrapped one comes later, and is called by the wrapper.
    modules = {name: module for name, module in named_modules(model) if name and id(module) not in of_metrics}
    wanted = as_included(patterns) or CONVOLUTIONS
    matched = {
        pattern: [name for name, module in modules.items() if _matches(pattern, name, module)] for pattern in wanted
    }
    unmatched = [pattern for pattern, names in matched.items() if not names]
    if unmatched and (patterns is not None or len(unmatched) == len(matched)):
        raise InvalidValueError(
            expected=f"{_wanted(patterns, unmatched[0])} in {type(model).__name__}",
            got="none",
            cure=f"choose layers from {name_list(list(modules))}, by their names or types",
        )
    chosen = {name for names in matched.values() for name in names}
    return {name: module for name, module in modules.items() if name in chosen}


def _matches(pattern: Pattern, name: str, module: nn.Module) -> bool:
    if pattern == DEFAULT:
        return isinstance(module, CONVOLUTIONS)
    if isinstance(pattern, type):
        return isinstance(module, pattern)
    return fnmatchcase(name, pattern) or fnmatchcase(type(module).__name__, pattern)


def _wanted(patterns: Patterns | None, unmatched: Pattern) -> str:
    return "convolutions" if patterns is None else f"layers that {unmatched!r} matches"
