"""With several processes, rank zero alone draws, and masks of split weights are whole."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from lightning_sparse import SparseMomentumCallback, SparsityPictures

from .processes import run
from .test_sharded import Sharded, fsdp, strategy
from .training import Model, ddp, loader, trainer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")


class Everywhere(Logger):
    """Stores the figures of its process."""

    name, version = "everywhere", 0

    def __init__(self) -> None:
        super().__init__()
        self.got: dict[str, Figure] = {}

    def log_image(self, key: str, images: list[Figure], step: int | None = None) -> None:
        self.got[key] = images[0]

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Nothing is stored."""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing is stored."""


def _draw(model: Callable[[], Model], options: dict[str, Any]) -> dict[str, Any]:
    """Train in one of the processes and return its figures and its first mask."""
    logger, sparse = Everywhere(), SparseMomentumCallback(density=0.3, seed=5)
    trainer(sparse, SparsityPictures(1), logger=logger, log_every_n_steps=1, **options).fit(model(), loader())
    assert sparse.network is not None
    drawn = [
        np.asarray(each.axes[0].images[0].get_array()).tolist() for each in logger.got.values() if each.axes[0].images
    ]
    return {"names": list(logger.got), "drawn": drawn, "mask": sparse.network.masks["net.0.weight"].int().tolist()}


FSDP2 = pytest.param(
    True,
    id="FSDP2",
    marks=pytest.mark.skipif(not hasattr(fsdp, "fully_shard"), reason="before PyTorch 2.6, FSDP2 needs CUDA"),
)


@pytest.mark.parametrize("split", [pytest.param(False, id="DDP"), FSDP2])
def test_only_rank_zero_draws_and_it_draws_whole_masks(tmp_path: Path, split: bool) -> None:
    model, options = (Sharded, strategy(2)) if split else (Model, {"strategy": ddp(), "devices": 2})
    first, second = run(partial(_draw, model, options), 2, tmp_path)
    assert not isinstance(first, str), first
    assert not isinstance(second, str), second
    assert len(first["names"]) == 4
    assert second["names"] == []
    assert first["drawn"] == [first["mask"]]
    assert first["mask"] == second["mask"]
