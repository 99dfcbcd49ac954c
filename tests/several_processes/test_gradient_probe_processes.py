"""Processes compute gradients on fixed batches together, also of weights that some processes' batches don't reach."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_sparse import GradientFlowCallback

from .processes import run
from .training import BATCH, Model, data, ddp, trainer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")


class Forked(Model):
    """Passes batches whose first image is marked through another layer."""

    def __init__(self) -> None:
        super().__init__(dtype=torch.float64)
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.left, self.right = (nn.Linear(5, 5, dtype=torch.float64) for _ in range(2))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        inputs, labels = batch
        last = self.left if inputs[0, 0] > 50 else self.right
        return nn.functional.cross_entropy(last(self.net(inputs.to(torch.float64))), labels)


def _batches() -> list[list[Tensor]]:
    inputs, labels = (part[:BATCH] for part in data().tensors)
    marked = inputs.clone()
    marked[0, 0] = 100
    return [[marked, labels], [inputs, labels]]


def _measured(processes: int) -> list[dict[str, Any]]:
    several = {"strategy": ddp(find_unused_parameters=True), "devices": processes} if processes > 1 else {}
    own = _batches()[int(os.environ["RANK"]) :: processes]
    flow = GradientFlowCallback(every_n_steps=1, batches=own)
    loader = DataLoader(TensorDataset(*_batches()[1]), batch_size=BATCH)
    trainer(flow, use_distributed_sampler=False, **several).fit(Forked(), loader)
    return [asdict(record) for record in flow.history]


def test_a_weight_that_the_batches_of_one_process_alone_need_has_the_mean_gradient_in_all(tmp_path: Path) -> None:
    (alone,) = run(_measured, 1, tmp_path, 1)
    assert not isinstance(alone, str), alone
    assert all(record["layers"][f"{side}.weight"]["l2"] > 0 for record in alone for side in ("left", "right"))
    for report in run(_measured, 2, tmp_path, 2):
        assert not isinstance(report, str), report  # a process that failed reports why
        assert len(report) == len(alone) > 0
        for record, expected in zip(report, alone, strict=True):
            for name, norms in expected["layers"].items():
                assert record["layers"][name] == pytest.approx(norms, rel=1e-6)
