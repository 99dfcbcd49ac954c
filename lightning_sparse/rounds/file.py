"""The file that rounds resume from: written as a whole after every round."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.network.known_masks.saved_masks import read_file
from lightning_sparse.network.ranks import is_rank_zero
from lightning_sparse.network.state import verify_checksum, with_checksum
from lightning_sparse.rounds.round import Round
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError

_CONTENT = {"plan", "seed", "rounds", "network", "kept", "module", "modes", "random"}
_PLAIN = (type(None), bool, int, float, complex, str, bytes)


class RoundsFile:
    """The state of rounds in a folder, tensors and plain values only.

    Args:
        folder: Folder for the file `rounds.pt`; it is made if there is none.

    Raises:
        ValueError: If there is a file of the folder's name.
        TypeError: If it is no path.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        if not isinstance(folder, (str, PathLike)):
            raise InvalidTypeError(
                expected="the path of a folder as checkpoint",
                got=repr(folder)[:80],
                cure="'runs/lottery', say",
            )
        self.path = Path(folder) / "rounds.pt"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InvalidValueError(
                expected="the path of a folder as checkpoint", got=f"that of a file, {folder!s}", cure="choose another"
            ) from error

    def read(self, plan: Mapping[str, Any], seed: int | None) -> dict[str, Any] | None:
        """Return the state that was written last; None if there is none yet.

        Args:
            plan: Description of the rounds to resume.
            seed: Seed of them; None takes the one of the file.

        Raises:
            ValueError: If the file is damaged, or that of other rounds.
        """
        if not self.path.is_file():
            return None
        saved = dict(read_file(self.path))
        verify_checksum(saved, _CONTENT, "run_rounds with the same checkpoint folder")
        ours = {**plan, "seed": saved["seed"] if seed is None else seed}
        theirs = {**saved["plan"], "seed": saved["seed"]}
        if different := [name for name in ours if ours[name] != theirs.get(name)]:
            name = different[0]
            raise InvalidValueError(
                expected=f"rounds that began with the same {', '.join(different)} in {str(self.path)!r}",
                got=f"{name}={ours[name]!r}, where the file has {theirs.get(name)!r}",
                cure="another checkpoint folder, or the arguments of that run",
            )
        return saved

    def write(self, content: dict[str, Any]) -> None:
        """Replace the file, on rank zero: who reads finds all of the former state or all of this one."""
        if not is_rank_zero():
            return
        unfinished = self.path.with_name(f"{self.path.name}.{os.getpid()}.unfinished")
        try:
            with unfinished.open("wb") as file:
                torch.save(with_checksum(content), file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self.path)
        finally:
            unfinished.unlink(missing_ok=True)


def round_to_plain(each: Round) -> dict[str, Any]:
    """Return a round as plain values and tensors; its result, if it is none of these, as None, with a warning."""
    is_kept = is_plain(each.result)
    if not is_kept and is_rank_zero():
        warnings.warn(
            f"Expected a result of tensors and plain values from the training function, to save it; got a "
            f"{type(each.result).__name__}: after a resume it is None. Cure: return numbers, a metric for instance.",
            stacklevel=4,
        )
    return {
        "active": each.active,
        "first_step": each.first_step,
        "masks": dict(each.packed_masks),
        "shapes": {name: list(shape) for name, shape in each.shapes.items()},
        "result": _detached(each.result) if is_kept else None,
    }


def is_plain(value: object) -> bool:
    """Tell whether a value is a tensor, a plain value, or a list, tuple or dictionary of these."""
    if isinstance(value, Mapping):
        return type(value) is dict and all(type(key) in _PLAIN and is_plain(entry) for key, entry in value.items())
    if type(value) in (list, tuple):
        return all(map(is_plain, value))  # type: ignore[call-overload]  # a list or a tuple
    return type(value) in (*_PLAIN, Tensor)


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: _detached(entry) for key, entry in value.items()}
    return type(value)(map(_detached, value)) if isinstance(value, (list, tuple)) else value
