"""Experiments as YAML files, found by name."""

from __future__ import annotations

from pathlib import Path

from lightning_sparse.validation.errors import InvalidValueError

_FOLDER = Path(__file__).parent


def available(folder: Path = _FOLDER) -> dict[str, str]:
    """Return what each shipped file is, by name: the comment in its first line.

    Args:
        folder: Folder of the files. Default: that of the configurations.
    """
    return {path.stem: path.read_text().splitlines()[0].lstrip("# ") for path in sorted(folder.glob("[!.]*.yaml"))}


def find(name: str, folder: Path = _FOLDER, kind: str = "configuration") -> Path:
    """Return the file that a name or a path stands for; a file of the user's goes first.

    Args:
        name: Name of a shipped file, or a path.
        folder: Folder of the shipped files. Default: that of the configurations.
        kind: Noun for such a file, for the error.

    Raises:
        ValueError: If there is neither a file nor a shipped configuration of that name.
    """
    shipped = folder / f"{name.removesuffix('.yaml')}.yaml"
    for path in (Path(name), shipped):
        if path.is_file():
            return path
    raise InvalidValueError(
        expected=f"a YAML file or the name of a shipped {kind} ({', '.join(available(folder))})",
        got=repr(name),
        cure="check the spelling",
    )
