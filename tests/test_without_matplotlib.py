"""Sparse training needs no matplotlib, and who asks for a picture without it is told the cure."""

from __future__ import annotations

import subprocess
import sys

HIDDEN = """
import sys, warnings
import {lightning}  # whose torchmetrics imports matplotlib where it is installed
for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
    del sys.modules[name]
sys.modules["matplotlib"] = None  # as if it were not
"""
TRAINING = """
import lightning_sparse
import lightning_sparse.callbacks.probing.figure_logging, lightning_sparse.callbacks.sparse_training.figures
from lightning_sparse.testing.callbacks.training import fit
callback = lightning_sparse.SparseMomentumCallback(density=0.3)
fit(callback)
print(len(callback.history))
"""
ASKING = """
from importlib import import_module
from lightning_sparse import (
    ClassSpecializationCallback, GradientFlowCallback, SparseMomentumCallback, SparsityPictures
)
from lightning_sparse.testing.callbacks.training import fit
for ask in (
    lambda: import_module("lightning_sparse.analysis.pictures").plot_mask,
    lambda: import_module("lightning_sparse.analysis.pictures.style"),
    lambda: fit(SparseMomentumCallback(density=0.3), SparsityPictures()),
    lambda: fit(GradientFlowCallback(pictures=True)),
    lambda: fit(ClassSpecializationCallback(pictures=True)),
):
    try:
        ask()
    except ModuleNotFoundError as error:
        print(error)
"""
CURE = "Expected the package matplotlib, which draws the pictures; got none. Cure: pip install matplotlib."


def run(code: str) -> list[str]:
    """Return the lines that a program prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_sparse_training_needs_no_matplotlib_and_who_asks_for_pictures_is_told_the_cure() -> None:
    hidden = HIDDEN.format(lightning="lightning.pytorch, pytorch_lightning")
    assert run(hidden + TRAINING + ASKING) == ["2", *[CURE] * 5]


def test_importing_the_package_imports_no_pictures() -> None:
    listing = "print(any(name.startswith('lightning_sparse.analysis.pictures') for name in sys.modules))"
    code = f"import sys, lightning_sparse\n{listing}\nimport lightning_sparse.analysis.pictures\n{listing}"
    assert run(code) == ["False", "True"]
