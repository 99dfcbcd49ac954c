"""Files that no reader sees half written."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(file: Path, text: str) -> None:
    """Write a file atomically; several processes may write the same one."""
    half = file.with_name(f"{file.name}.{os.getpid()}.half")
    half.write_text(text)
    half.replace(file)
