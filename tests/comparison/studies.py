"""A study that takes seconds, and results as its trainings would write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_sparse.comparison.study import Cell, PairMember, SameCapacityStudy

OPTIONS: dict[str, Any] = {
    "name": "tiny",
    "title": "A tiny study",
    "max_width": 12,
    "widths": (3, 6),
    "optimizers": {
        "momentum": {"class_path": "torch.optim.SGD", "init_args": {"momentum": 0.9}, "learning_rates": [0.01]},
        "adam": {"class_path": "torch.optim.Adam", "learning_rates": [0.001]},
    },
    "data": {
        "mnist": {
            "class_path": "lightning_sparse.data.MNISTDataModule",
            "init_args": {"val_fraction": 0.0},
            "augmentation": {"crop_padding": 2},
        }
    },
    "epochs": 3,
    "depths": (2,),
    "seeds": 2,
    "regularizers": ("none", "bn"),
    "batch_size": 64,
}


def study(**changes: Any) -> SameCapacityStudy:
    return SameCapacityStudy(**{**OPTIONS, **changes})


def one(side: Any = "sparse", seed: int = 0, **changes: Any) -> PairMember:
    """Return one training, of the first cell of the changed study."""
    changed = study(**changes)
    return changed.training(changed.cells()[0], changed.widths[0], seed, side)


@pytest.fixture(scope="session")
def small_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an MNIST of 256 and 100 images, each class a bright row of its own."""
    root = tmp_path_factory.mktemp("images")
    source = np.random.default_rng(0)
    arrays = {}
    for name, count in (("train", 256), ("test", 100)):
        labels = np.arange(count) % 10
        images = source.integers(0, 90, (count, 28, 28)).astype(np.uint8)
        images[np.arange(count), 2 * labels + 3] = 255
        arrays |= {f"x_{name}": images, f"y_{name}": labels}
    np.savez(root / "mnist.npz", **arrays)
    return root


Outcome = Callable[[Cell, float, int, str], dict[str, Any]]


def finish(results: Path, of: SameCapacityStudy, outcome: Outcome, seeds: int | None = None) -> None:
    """Write the results of all trainings: what every result has, and what the outcome says of one."""
    for training in of.trainings(seeds):
        told = outcome(training.cell, training.width, training.seed, training.side)
        flow = [{"epoch": epoch, "egf_l1": 3.0, "egf_l2": 1.0 + epoch, "l1": 9.0, "l2": 2.0} for epoch in range(3)]
        result = {
            **json.loads(training.to_json()),
            "diverged": False,
            "images": 1000,
            "test_loss": 0.1,
            "gradient_flow": flow,
            "active": {"hidden.0.linear.weight": 30},
            **told,
        }
        file = results / f"{training.path}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result))
