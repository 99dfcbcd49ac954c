"""Run the tests of the kernels with the compiler's sanitizers: memory, undefined behaviour, and races of threads.

    python tests/sanitizers/run_sanitized.py [address] [thread]

Outside of CI, as it needs GCC's sanitizer libraries, and a minute for each. The package is copied, its kernels are
compiled with `-fsanitize=...`, and pytest runs in a process that has the library loaded first. It ends with an error if
a test fails or a sanitizer reports anything.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
# Options of the compiler, libraries to load first, options of these. Vectors are loaded from any address of a float.
KINDS: dict[str, tuple[list[str], list[str], dict[str, str]]] = {
    "address": (
        ["-fsanitize=address,undefined", "-fno-sanitize=alignment", "-fno-sanitize-recover=all"],
        ["libasan.so", "libubsan.so"],
        # Python's own allocations live until the end, and the library that is loaded first isn't the program's first.
        {"ASAN_OPTIONS": "detect_leaks=0,verify_asan_link_order=0", "UBSAN_OPTIONS": "print_stacktrace=1"},
    ),
    "thread": (
        ["-fsanitize=thread"],
        ["libtsan.so"],
        {"TSAN_OPTIONS": "exitcode=66,report_signal_unsafe=0,ignore_noninstrumented_modules=1"},
    ),
}
BUILD = """
import sys
from pathlib import Path
from lightning_sparse.execution.kernels import build
build.build(Path(build.__file__).parent, sys.argv[1:])
"""


def check(kind: str) -> int:
    """Return the exit status of the tests with one kind of sanitizer."""
    flags, libraries, options = KINDS[kind]
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        for name in ("lightning_sparse", "tests", "pyproject.toml"):
            source, target = ROOT / name, copy / name
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", BUILD, *flags, "-g", "-O1", "-fno-omit-frame-pointer"]
        subprocess.run(command, cwd=copy, env=environment, check=True)
        paths = [_library(name) for name in libraries]
        environment |= {**options, "LD_PRELOAD": " ".join(paths)}
        # What forks or compiles is left out: a sanitized library needs the other one loaded first in each process.
        tests = ["tests/execution/kernels", "tests/execution/plans", "tests/execution/chains"]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
        command += ["-k", "not forked and not built_from and not other_sources"]
        return subprocess.run(command, cwd=copy, env=environment, check=False).returncode


def _library(name: str) -> str:
    found = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(found).is_absolute():
        sys.exit(f"GCC has no {name} here")
    return found


if __name__ == "__main__":
    results = {kind: check(kind) for kind in sys.argv[1:] or KINDS}
    sys.stdout.write(f"{results}\n")
    sys.exit(any(results.values()))
