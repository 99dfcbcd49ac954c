"""Compile the kernels into one shared library, with the code for each instruction set in it.

`setup.py` loads this file by its path, before the package and PyTorch are there: it imports the standard library only.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

SOURCES = Path(__file__).parent / "sources"
LIBRARY = "kernels.so"
# Compiled once; all others once for each instruction set.
_PORTABLE = ("reference.c", "threads.c")
_FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-fvisibility=default", "-ffp-contract=fast", "-Wall", "-Wextra", "-Wno-psabi")
# Instruction sets by machine, each with the flags of its code. `vector.h` has what follows from them.
_X86 = {
    "baseline": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": (
        *("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"),
        "-mprefer-vector-width=512",
    ),
}
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {"x86_64": _X86, "amd64": _X86}


class BuildError(Exception):
    """The kernels can't be compiled here; the message says why."""


def find_compiler() -> str | None:
    """Return the command of a C compiler: `CC` of the environment, or the first that is there."""
    if sys.platform == "win32":  # the kernels are written for GCC's and clang's extensions, and POSIX threads
        return None
    for command in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if command and shutil.which(command.split()[0]):
            return command
    return None


def variants(machine: str | None = None) -> dict[str, tuple[str, ...]]:
    """Return the instruction sets that are compiled for on a machine, with their flags.

    Args:
        machine: Its name, as `platform.machine()` has it; default: this one's.
    """
    return VARIANTS.get((machine or platform.machine()).lower(), {"baseline": ()})


def digest() -> str:
    """Return a digest of the sources, by which a library knows the ones that it was made from."""
    found = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in (".c", ".h"):
            found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def build(folder: Path, extra: Sequence[str] = ()) -> Path:
    """Compile the library into a folder, and return its path.

    Args:
        folder: Folder that exists.
        extra: Further options of the compiler, for sanitizers say.

    Raises:
        BuildError: If there is no compiler, or it fails.
    """
    compiler = find_compiler()
    if compiler is None:
        raise BuildError("no C compiler was found (GCC or clang; the variable CC names another command)")
    command = [*compiler.split(), *_FLAGS, *extra]
    with TemporaryDirectory() as made:
        objects = []
        for path in sorted(SOURCES.glob("*.c")):
            each = {"": ()} if path.name in _PORTABLE else variants()
            for variant, flags in each.items():
                objects.append(str(Path(made) / f"{path.stem}_{variant}.o"))
                mark = (f'-DSOURCES="{digest()}"',)
                _run([*command, *flags, *mark, "-c", str(path), "-o", objects[-1]])
        # Renamed when it is complete, as another process may have the old one open.
        library = Path(made) / LIBRARY
        _run([*command, "-shared", *objects, "-lpthread", "-o", str(library)])
        target = folder / LIBRARY
        shutil.copyfile(library, target.with_suffix(".new"))
        target.with_suffix(".new").replace(target)
    return target


def _run(command: Sequence[str]) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]} can't be run: {error}") from error
    if result.returncode != 0:
        raise BuildError(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
