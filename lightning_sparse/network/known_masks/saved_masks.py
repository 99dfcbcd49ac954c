"""Masks from elsewhere: of a network, of its saved state, of a checkpoint, or in a dictionary."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.network.known_masks.checkpoint_file import verify_checkpoint_file
from lightning_sparse.network.masked_model import MaskedModel
from lightning_sparse.network.state import unpacked_masks
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError, MissingFileError

MaskSource = str | PathLike[str] | MaskedModel | Mapping[str, Any]

# What Lightning's strategies write into a directory beside the weights that they split.
_BESIDE_SPLIT_WEIGHTS = "meta.pt"


def read_masks(source: object) -> dict[str, Tensor]:
    """Return the masks of whole weights by name: as they come from a dictionary, else bool.

    Args:
        source: Path of a Lightning checkpoint, or of a saved `SparseNetwork.state_dict()`; what was loaded from such a
            file; a `SparseNetwork`; or masks by parameter name.

    Raises:
        ValueError: If there are no masks, or what was saved is damaged.
        FileNotFoundError: If there is no such file.
        TypeError: If it is none of these.
    """
    check_mask_source(source)
    if isinstance(source, MaskedModel):
        return {name: mask for name, mask in source.masks.items() if source.local_mask(name) is not None}
    saved: Mapping[str, Any] = source if isinstance(source, Mapping) else read_file(source)  # type: ignore[arg-type]  # checked
    state = network_state(saved)
    if state is not None:
        return unpacked_masks(state)
    if not saved or isinstance(source, (str, PathLike)) or "state_dict" in saved or "network" in saved:
        raise without_masks(saved, "" if isinstance(source, Mapping) else f" in {str(source)!r}")
    return dict(saved)


def check_mask_source(source: object) -> None:
    """Raise a TypeError unless masks could be read from something of this type."""
    if not isinstance(source, (str, PathLike, MaskedModel, Mapping)):
        raise InvalidTypeError(
            expected="the path of a checkpoint, a SparseNetwork, or a mapping of parameter names to bool tensors",
            got=repr(source)[:80],
            cure="pass one of these",
        )


def read_file(path: str | PathLike[str]) -> Mapping[str, Any]:
    """Return what a file saved by `torch.save` holds, on the CPU; no code in it is run.

    Raises:
        ValueError: If the file is damaged, or holds more than tensors and plain values.
        FileNotFoundError: If there is no such file.
    """
    file = Path(path)
    if file.is_dir() and (file / _BESIDE_SPLIT_WEIGHTS).is_file():
        file = file / _BESIDE_SPLIT_WEIGHTS
    if not file.is_file():
        raise MissingFileError(
            expected="the file of a checkpoint",
            got=f"{str(path)!r}, {'a directory without one' if file.is_dir() else 'where there is none'}",
            cure="check the path; download what lies on another machine",
        )
    verify_checkpoint_file(file)
    try:
        # Mapped, the weights and optimizer states of a large checkpoint are not read where masks alone are wanted.
        loaded = torch.load(str(file), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ValueError) as error:
        raise InvalidValueError(
            expected=f"a checkpoint of tensors and plain values in {str(path)!r}",
            got=f"what PyTorch refuses to load: {str(error).strip().partition(chr(10))[0][:200]}",
            cure=(
                "if you trust the file's origin, pass what torch.load(path, weights_only=False) returns instead of "
                "the path"
            ),
        ) from error
    if not isinstance(loaded, Mapping):
        raise InvalidValueError(
            expected=f"a checkpoint in {str(path)!r}, a dictionary",
            got=f"a {type(loaded).__name__}",
            cure="give the path of a Lightning checkpoint, or of a saved SparseNetwork.state_dict()",
        )
    return loaded


def network_state(saved: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the state of a network in what was saved: itself, a callback's state, or a checkpoint; None if none is.

    Raises:
        ValueError: If there are several.
    """
    if isinstance(saved.get("masks"), Mapping):
        return saved
    if isinstance(network := saved.get("network"), Mapping):
        return network
    callbacks = saved.get("callbacks")
    states = callbacks.values() if isinstance(callbacks, Mapping) else ()
    found = [state["network"] for state in states if isinstance(state, Mapping) and _is_network(state.get("network"))]
    if len(found) > 1:
        raise InvalidValueError(
            expected="a checkpoint of one sparse network",
            got=f"{len(found)}",
            cure="pass the state of the one that you mean, checkpoint['callbacks'][key]",
        )
    return found[0] if found else None


def _is_network(state: object) -> bool:
    return isinstance(state, Mapping) and isinstance(state.get("masks"), Mapping)


def without_masks(saved: Mapping[str, Any], where: str) -> InvalidValueError:
    """Return the error that there are no masks in what was saved.

    Args:
        saved: Content of a file.
        where: Place of it, for the message: "", or " in 'path'".
    """
    holds = ", ".join(map(str, list(saved)[:6])) or "nothing"
    return InvalidValueError(
        expected=f"masks{where}: the state of a sparse training callback, or of a SparseNetwork",
        got=f"none among {holds}",
        cure=(
            "take a full checkpoint (save_weights_only=False) of a run with the callback; masks are never read off "
            "zeros, but masks={name: weight != 0, ...} says that zeros mean inactive"
        ),
    )
