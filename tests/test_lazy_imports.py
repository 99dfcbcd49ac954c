"""Names that are imported when they are first asked for, and their declarations for type checkers."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import lightning_sparse
from lightning_sparse import _compat
from lightning_sparse.validation.lazy_imports import lazy_imports

SOURCE = """
if TYPE_CHECKING:
    from os import sep as sep
    from os.path import join as join
else:
    pass
"""


def declared(source: str) -> dict[str, str]:
    """Return the module of each name that is imported for type checkers."""
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If) and "TYPE" in ast.unparse(node.test)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {str(alias.asname or alias.name): str(node.module) for node in imports for alias in node.names}


def text(module: ModuleType) -> str:
    return Path(str(module.__file__)).read_text(encoding="utf-8")


def test_declared_names_are_found_with_their_modules() -> None:
    assert declared(SOURCE) == {"sep": "os", "join": "os.path"}


def test_what_the_package_imports_lazily_is_what_type_checkers_see() -> None:
    seen = declared(text(lightning_sparse))
    assert set(seen) == {*lightning_sparse._NAMES, *lightning_sparse._PARTS}
    for name in lightning_sparse._NAMES:
        assert getattr(lightning_sparse, name) is getattr(import_module(seen[name]), name)


def test_what_comes_from_lightning_lazily_is_what_type_checkers_see() -> None:
    seen = declared(text(_compat))
    assert set(seen) == {*_compat._NAMES, "Callback", "MisconfigurationException"}
    package = _compat._PACKAGES[0].__name__
    for name in _compat._NAMES:
        assert getattr(_compat, name) is getattr(import_module(seen[name].replace(_compat.NAMES[0], package)), name)


def test_an_imported_name_is_kept_and_an_unknown_one_is_an_error() -> None:
    namespace = {"__name__": "example"}
    names, get = lazy_imports(namespace, "os", {"": ["sep"], "path": ["join"]})
    assert names == ["join", "sep"]
    assert namespace == {"__name__": "example"}
    assert get("sep") == namespace["sep"]
    with pytest.raises(AttributeError, match=r"module 'example' has no attribute 'curdir'"):
        get("curdir")
