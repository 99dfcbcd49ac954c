"""Signatures of constructors that forward options to another one, which declares them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from inspect import Parameter, Signature, signature
from typing import Any

_VARIABLE = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def forwarded_signature(
    constructor: Callable[..., Any], target: Callable[..., Any], *, sets: Collection[str] = ()
) -> Signature:
    """Return the signature of a constructor with the options that it forwards in place of `*args` and `**options`.

    Args:
        constructor: The `__init__` of a class.
        target: Callable that takes the forwarded options: another class.
        sets: Names of the target's options that the constructor sets itself.

    >>> def constructor(self, size, **options): ...
    >>> def target(model, color="red"): ...
    >>> str(forwarded_signature(constructor, target, sets=["model"]))
    "(size, *, color='red')"
    """
    own = list(signature(constructor).parameters.values())[1:]
    kinds = {parameter.kind for parameter in own}
    named = [parameter for parameter in own if parameter.kind not in _VARIABLE]
    taken = {parameter.name for parameter in named} | set(sets)
    forwarded = [other for name, other in signature(target).parameters.items() if name not in taken]
    if Parameter.VAR_KEYWORD not in kinds:
        return Signature(named)
    if Parameter.VAR_POSITIONAL not in kinds:
        forwarded = [other.replace(kind=Parameter.KEYWORD_ONLY) for other in forwarded]
    return Signature(sorted([*named, *forwarded], key=lambda parameter: parameter.kind))
