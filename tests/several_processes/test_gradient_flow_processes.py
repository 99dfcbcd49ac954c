"""Gradient flow is computed from the whole batch and whole weights, however many processes share them."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_sparse import GradientFlowCallback, SparseMomentumCallback

from .processes import run
from .test_sharded import Sharded, fsdp, strategy
from .training import BATCH, Model, data, ddp, loader, trainer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")


def measured(model: Model, flow: GradientFlowCallback, batches: Any, **options: Any) -> list[dict[str, Any]]:
    """Train, and return the history."""
    sparse = SparseMomentumCallback(density=0.3, seed=5)
    trainer(sparse, flow, **options).fit(model, batches)
    return [asdict(record) for record in flow.history]


def _ddp(processes: int, batches: bool) -> list[dict[str, Any]]:
    several = {"strategy": ddp(), "devices": processes} if processes > 1 else {}
    # Each process has half of the batch; together they compute the gradient of its mean loss.
    own = data()[int(os.environ["RANK"]) :: processes]
    rows = [part[: BATCH // processes] for part in own]
    own_batches = DataLoader(TensorDataset(*own), batch_size=BATCH // processes)
    flow = GradientFlowCallback(every_n_steps=1, batches=[rows] if batches else None)
    return measured(Model(dtype=torch.float64), flow, own_batches, use_distributed_sampler=False, **several)


def _fsdp(processes: int) -> list[dict[str, Any]]:
    flow = GradientFlowCallback(every_n_steps=1, orders=[1, 2, 3, inf])
    return measured(Sharded("momentum", torch.float64), flow, loader(), **strategy(processes))


def check(reports: list[Any], alone: list[dict[str, Any]]) -> None:
    for report in reports:
        assert not isinstance(report, str), report  # a process that failed reports why
        assert len(report) == len(alone) > 3
        for record, expected in zip(report, alone, strict=True):
            for kind in ("effective", "total"):
                assert record[kind] == pytest.approx(expected[kind], rel=1e-5)
            for name, norms in expected["layers"].items():
                assert record["layers"][name] == pytest.approx(norms, rel=1e-5)


@pytest.mark.parametrize("batches", [False, True], ids=["training batches", "fixed batches"])
def test_two_processes_measure_the_gradient_of_the_whole_batch(tmp_path: Path, batches: bool) -> None:
    (alone,) = run(_ddp, 1, tmp_path, 1, batches)
    assert not isinstance(alone, str), alone
    check(run(_ddp, 2, tmp_path, 2, batches), alone)


@pytest.mark.skipif(not hasattr(fsdp, "fully_shard"), reason="before PyTorch 2.6, FSDP2 needs CUDA")
def test_norms_of_weights_that_are_split_are_those_of_the_whole_weights(tmp_path: Path) -> None:
    (alone,) = run(_fsdp, 1, tmp_path, 1)
    assert not isinstance(alone, str), alone
    check(run(_fsdp, 2, tmp_path, 2), alone)
