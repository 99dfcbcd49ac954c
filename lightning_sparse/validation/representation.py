"""The text of an object: its class with the options that it was made with, in one line."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

# Characters of one value.
_MOST = 60


def short_text(value: object) -> str:
    """Return a value in a few words: numbers and names as they are, arrays by their shape, functions by their name.

    >>> short_text({"fc1": 0.5, "*": 0.1}), short_text(len), short_text("x" * 90)[-3:]
    ("{'fc1': 0.5, '*': 0.1}", 'len', '...')
    """
    if isinstance(value, str):
        text = repr(value)
    elif (shape := getattr(value, "shape", None)) is not None and not isinstance(value, type):
        text = f"{type(value).__name__} of shape {tuple(shape)}"
    elif isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key!r}: {short_text(entry)}" for key, entry in value.items()) + "}"
    elif isinstance(value, (list, tuple)):
        entries = ", ".join(map(short_text, value))
        text = f"[{entries}]" if isinstance(value, list) else f"({entries}{',' * (len(value) == 1)})"
    elif isinstance(value, (set, frozenset)):
        text = "{" + ", ".join(sorted(map(short_text, value))) + "}"
    elif callable(value) and hasattr(value, "__name__"):
        text = value.__name__
    else:
        text = repr(value)
        if " at 0x" in text:
            text = f"{type(value).__name__}(...)"
    text = " ".join(text.split())
    return text if len(text) <= _MOST else f"{text[: _MOST - 3]}..."


class ShowsFields:
    """Mixin of a dataclass (made with `repr=False`) whose `repr` is one line, however much its fields hold."""

    def __repr__(self) -> str:
        shown = [field.name for field in fields(self) if field.repr]  # type: ignore[arg-type]  # a dataclass
        return f"{type(self).__name__}({', '.join(f'{name}={short_text(getattr(self, name))}' for name in shown)})"


class ShowsOptions:
    """Mixin whose `repr` is one line: the class, and the options that differ from their defaults.

    An option is looked for among the attributes, by its name with an underscore and by its name.
    """

    # Attributes that hold further options: mappings, or objects with attributes of the options' names.
    _options_in: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={short_text(value)}" for name, value in self._shown_options().items())
        return f"{type(self).__name__}({shown})"

    def _shown_options(self) -> dict[str, Any]:
        """Return the options by name."""
        kept = vars(self)
        for name in self._options_in:
            part = kept[name]
            kept = {**(part if isinstance(part, Mapping) else getattr(part, "__dict__", {})), **kept}
        return {
            name: value
            for name, default in _constructor_defaults(type(self)).items()
            if (value := kept.get(f"_{name}", kept.get(name, default))) is not None
            and value is not inspect.Parameter.empty  # a class of the user's may keep an option elsewhere
            and not _equal(value, default)
        }


def _constructor_defaults(cls: type) -> dict[str, Any]:
    """Return the defaults of the options of a class and of the base classes that it may forward options to.

    Those of PyTorch and Lightning are no base classes that count.
    """
    defaults: dict[str, Any] = {}
    for base in cls.__mro__:
        is_ours = base.__module__.partition(".")[0] == __name__.partition(".")[0]
        if "__init__" in vars(base) and (is_ours or issubclass(base, ShowsOptions)):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            named = [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
            defaults = {**{each.name: each.default for each in named[1:]}, **defaults}
    return defaults


def _equal(value: object, default: object) -> bool:
    """Tell whether a value is the default; an array never is."""
    return value is default or (type(value) is type(default) and not hasattr(value, "shape") and value == default)
