"""Densities that change over a run of several processes: exact at every stage, the same in every process."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_sparse import SparseTrainingCallback
from lightning_sparse.methods import DensitySchedule
from lightning_sparse.testing.equality import differences
from lightning_sparse.topology import Recipe
from lightning_sparse.topology.pruning import magnitude

from .processes import run
from .test_sharded import Sharded, fsdp, strategy
from .training import BATCH, Model, Record, ddp, loader, report, trainer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")

SIZE = 133
RECIPES = {"layer": Recipe(magnitude), "network": Recipe(magnitude, ranking="network")}


def gradual(ranking: str) -> SparseTrainingCallback:
    """Return a callback that prunes a dense network to 10 % in five changes, one after every second step."""
    return SparseTrainingCallback(RECIPES[ranking], DensitySchedule(0.1, every_n_steps=2, end=10), seed=5)


def expected(batches: int) -> list[int]:
    """Return the numbers of active weights before and after every batch, by the formula."""
    stages = [round((0.1 + 0.9 * (1 - min(batch // 2 * 2, 10) / 10) ** 3) * SIZE) for batch in range(batches)]
    return [stage for stage in stages for _ in range(2)]


def counts(reported: dict[str, Any]) -> list[int]:
    return [sum(int(mask.sum()) for mask in moment["masks"].values()) for moment in reported["moments"]]


def train(processes: int, ranking: str) -> dict[str, Any]:
    sparse = gradual(ranking)
    record = Record(sparse)
    several = {"strategy": ddp(), "devices": processes} if processes > 1 else {}
    trainer(sparse, record, **several).fit(Model(), loader(BATCH // processes))
    return report(sparse, record)


@pytest.mark.parametrize("ranking", RECIPES)
def test_two_processes_prune_gradually_to_the_density_of_every_stage(tmp_path: Path, ranking: str) -> None:
    first, second = run(train, 2, tmp_path, 2, ranking)
    assert not isinstance(first, str), first
    assert differences(first, second) == []
    assert counts(first) == expected(len(first["moments"]) // 2)
    assert counts(first)[0] == SIZE
    assert counts(first)[-1] == round(0.1 * SIZE)


def train_split(processes: int, ranking: str) -> dict[str, Any]:
    sparse = gradual(ranking)
    record = Record(sparse)
    trainer(sparse, record, **strategy(processes)).fit(Sharded("momentum", torch.float64), loader())
    return report(sparse, record)


@pytest.mark.skipif(not hasattr(fsdp, "fully_shard"), reason="before PyTorch 2.6, FSDP2 needs CUDA")
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("ranking", RECIPES)
def test_split_weights_are_pruned_gradually_as_those_of_one_process(
    tmp_path: Path, ranking: str, processes: int
) -> None:
    (alone,) = run(partial(train_split, 1), 1, tmp_path, ranking)
    reports = run(partial(train_split, processes), processes, tmp_path, ranking)
    assert not any(isinstance(reported, str) for reported in (alone, *reports)), reports
    assert all(differences(reports[0], other) == [] for other in reports[1:])
    assert counts(reports[0]) == counts(alone) == expected(len(alone["moments"]) // 2)
    for one, several in zip(alone["moments"], reports[0]["moments"], strict=True):
        assert differences(one["masks"], several["masks"]) == []
        assert not any(several["weights"][name][~mask].any() for name, mask in several["masks"].items())
