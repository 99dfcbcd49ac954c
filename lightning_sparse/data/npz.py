"""Reading image data sets from ``.npz`` files."""

from __future__ import annotations

import struct
import zipfile
import zlib
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError, MissingFileError

Array = np.ndarray[Any, Any]

# Errors that NumPy and zipfile raise on a damaged file.
_UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, RuntimeError, MemoryError, AttributeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
"""The arrays of an ``.npz`` file, as in Keras' ``mnist.npz``."""


def read_npz(path: str | Path) -> tuple[Array, Array, Array, Array]:
    """Read the arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test``. No code in the file is executed.

    Args:
        path: An ``.npz`` file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, no ``.npz`` file, or lacks one of the arrays.
    """
    if not isinstance(path, (str, PathLike)):
        raise InvalidTypeError(
            expected="the path of an .npz file",
            got=repr(path),
            cure="check the path",
        )
    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingFileError(
            expected="an .npz file",
            got=f"{path}, which does not exist",
            cure="check the path",
        )
    try:
        # Opened explicitly, because np.load leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            # Checked first, because an array is read only up to the length in its header, before its checksum.
            if damaged := file.zip.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
            missing = [key for key in NPZ_KEYS if key not in file]
            arrays = {key: file[key] for key in NPZ_KEYS if key in file}
    except _UNREADABLE as error:
        raise InvalidValueError(
            expected="an intact .npz file of numbers",
            got=f"{path}, which cannot be read ({error})",
            cure="write it again with numpy.savez",
        ) from error
    if missing:
        raise InvalidValueError(
            expected=f"the arrays {', '.join(NPZ_KEYS)}",
            got=f"{path} without {', '.join(missing)}",
            cure="write all four with numpy.savez(path, x_train=..., ...)",
        )
    return arrays["x_train"], arrays["y_train"], arrays["x_test"], arrays["y_test"]
