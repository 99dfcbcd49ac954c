"""Experiments as YAML files, found by name."""

from __future__ import annotations

from pathlib import Path

from lightning_sparse.validation.errors import InvalidValueError

_FOLDER = Path(__file__).parent


def available() -> dict[str, str]:
    """Return what each shipped configuration is, by name: the comment in its first line."""
    return {path.stem: path.read_text().splitlines()[0].lstrip("# ") for path in sorted(_FOLDER.glob("[!.]*.yaml"))}


def find(name: str) -> Path:
    """Return the file that a name or a path stands for; a file of the user's goes first.

    Raises:
        ValueError: If there is neither a file nor a shipped configuration of that name.
    """
    shipped = _FOLDER / f"{name.removesuffix('.yaml')}.yaml"
    for path in (Path(name), shipped):
        if path.is_file():
            return path
    raise InvalidValueError(
        expected=f"a YAML file or the name of a shipped configuration ({', '.join(available())})",
        got=repr(name),
        cure="check the spelling",
    )
