"""Names of a module that are imported when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_imports(
    namespace: dict[str, Any], package: str, names: Mapping[str, Sequence[str]]
) -> tuple[list[str], Callable[[str], Any]]:
    """Return the sorted names, and a `__getattr__` for a module that imports each when it is first asked for.

    Args:
        namespace: The module's `globals()`; an imported object is kept there.
        package: Name of the package that the names are imported from.
        names: Names by module of the package; the module "" is the package itself.

    >>> names, get = lazy_imports({"__name__": "example"}, "os", {"": ["sep"], "path": ["join"]})
    >>> names, get("join")("a", "b").count(get("sep"))
    (['join', 'sep'], 1)
    """
    module_of = {name: f"{package}.{module}".rstrip(".") for module, of_module in names.items() for name in of_module}

    def import_name(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {namespace['__name__']!r} has no attribute {name!r}")
        value = namespace[name] = getattr(import_module(module_of[name]), name)
        return value

    return sorted(module_of), import_name
