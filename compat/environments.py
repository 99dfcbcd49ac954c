"""An environment for each package, on top of the one that runs this: PyTorch and Lightning are installed once."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sysconfig
import venv
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).parent
# What every environment shares, in the versions that are installed.
SHARED = ("torch", "torchvision", "lightning", "pytorch-lightning")
# The block of https://packaging.python.org/en/latest/specifications/inline-script-metadata.
_BLOCK = re.compile(r"^# /// script$\n(?P<lines>(?:^#.*$\n)+?)^# ///$", re.MULTILINE)


def pins(script: Path) -> list[str]:
    """Return the requirements in the header of a script."""
    block = _BLOCK.search(script.read_text(encoding="utf-8"))
    if block is None:
        raise ValueError(f"expected a '# /// script' block with dependencies in {script.name}, got none")
    text = "".join(line.removeprefix("#").strip() for line in block["lines"].splitlines())
    return list(ast.literal_eval(text.partition("=")[2].strip()))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def _shared_versions() -> list[str]:
    found = []
    for name in SHARED:
        try:
            found.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            continue
    return found


def environment(name: str, requirements: list[str], folder: Path) -> Path:
    """Return the interpreter of an environment with these requirements, installed now unless that was done before."""
    target = folder / name
    python = target / "bin" / "python"
    mark = target / "installed"
    wanted = hashlib.sha256("\n".join([*requirements, *_shared_versions()]).encode()).hexdigest()
    if mark.exists() and mark.read_text() == wanted:
        return python
    venv.create(target, clear=True, with_pip=False)
    # Packages of the environment that runs this are visible in the new one, and hidden by other versions in it.
    base = sysconfig.get_path("purelib")
    site = Path(sysconfig.get_path("purelib", vars={"base": str(target)}))
    (site / "shared.pth").write_text(base + "\n")
    constraints = target / "constraints.txt"
    constraints.write_text("\n".join(_shared_versions()))
    _run(str(python), "-m", "pip", "install", "-q", "--no-warn-conflicts", "-c", str(constraints), *requirements)
    mark.write_text(wanted)
    return python
