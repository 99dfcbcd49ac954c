"""Whether a checkpoint file still holds what was written."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from os import PathLike
from pathlib import Path
from typing import IO

from lightning_sparse.validation.errors import InvalidValueError

# What zipfile raises on files that are not what they were.
_DAMAGED = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error)
_BLOCK = 1 << 20
_MAGIC = b"PK\x03\x04"  # by which PyTorch tells its files from others


def verify_checkpoint_file(path: str | PathLike[str] | None) -> None:
    """Raise unless everything in a checkpoint file has the checksum that was written with it.

    PyTorch doesn't look at the checksums that its files have (CRC-32, of each tensor), so that a weight with a flipped
    bit would go unseen. The file is read once more, at about the speed of memory.

    Nothing is known of, and nothing is said about, directories, addresses, files of other formats, and files that were
    saved without checksums (`torch.serialization.set_crc32_options(False)`).

    Args:
        path: Path of the file; None if there is none.

    Raises:
        ValueError: If something in it was changed after it was written.
    """
    if path is None or not Path(path).is_file():
        return
    with Path(path).open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return
        try:
            damaged = _damaged_entry(file)
        except _DAMAGED as error:
            damaged = f"an archive that can't be read ({error})"
    if damaged:
        raise InvalidValueError(
            expected=f"the checkpoint {str(path)!r} as it was written",
            got=damaged,
            cure="the file is damaged, load another checkpoint, or copy it again from an intact one",
        )


def _damaged_entry(file: IO[bytes]) -> str:
    """Return the first entry of an archive whose content doesn't have its checksum, as words; "" if there is none."""
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if not entry.CRC:  # saved without
                continue
            try:
                with archive.open(entry) as content:
                    while content.read(_BLOCK):  # which compares at the end
                        pass
            except _DAMAGED as error:
                return f"{entry.filename!r} in it changed ({error})"
    return ""
