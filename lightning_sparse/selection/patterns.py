"""Names of layers and weights, and the patterns that choose some of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError

Pattern = str | type[nn.Module]
Patterns = Pattern | Sequence[Pattern]
# Stands for the layers that are masked (or measured) by default, among patterns of others.
DEFAULT = "default"


def as_patterns(patterns: Patterns | None) -> tuple[Pattern, ...]:
    """Return one pattern or several as a tuple.

    Raises:
        TypeError: If one is neither a string nor a module type.
    """
    if patterns is None:
        return ()
    single = isinstance(patterns, (str, type, bytes, Mapping)) or not isinstance(patterns, Iterable)
    given: tuple[Pattern, ...] = (patterns,) if single else tuple(patterns)  # type: ignore[arg-type, assignment]  # checked next
    for pattern in given:
        if not isinstance(pattern, str) and not (isinstance(pattern, type) and issubclass(pattern, nn.Module)):
            raise InvalidTypeError(
                expected="a glob or a module type to choose layers by",
                got=repr(pattern),
                cure="a string like 'encoder.*', or a type like torch.nn.Linear",
            )
    return given


def as_included(include: Patterns | None) -> tuple[Pattern, ...]:
    """Return what to include as a tuple, empty for the default.

    Raises:
        ValueError: If there are no patterns: most likely not meant to stand for all default layers.
        TypeError: If one is neither a string nor a module type.
    """
    included = as_patterns(include)
    if include is not None and not included:
        raise InvalidValueError(
            expected="at least one pattern to include",
            got="none",
            cure="None stands for the default layers",
        )
    return included


def name_list(names: Sequence[str]) -> str:
    """Return the first few names, for a message."""
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
