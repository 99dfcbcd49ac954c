"""A small network with layers of odd sizes, and the report of each process that trains it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.utils.data import DataLoader, TensorDataset

from lightning_sparse import SparseTrainingCallback

# 42 rows in batches of 8: the last one is smaller, and no number of processes divides it.
ROWS, FEATURES, CLASSES, BATCH = 42, 7, 5, 8


class Model(LightningModule):
    """Knows nothing of sparse training."""

    def __init__(self, optimizer: str = "momentum", dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.net = nn.Sequential(
                nn.Linear(FEATURES, 9), nn.LayerNorm(9), nn.ReLU(), nn.Linear(9, CLASSES), nn.Linear(CLASSES, CLASSES)
            ).to(dtype)
        self._optimizer = optimizer

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        inputs, labels = batch
        return nn.functional.cross_entropy(self.net(inputs.to(self.net[0].weight.dtype)), labels)

    def configure_optimizers(self) -> Optimizer:
        if self._optimizer == "adam":
            return Adam(self.parameters(), lr=0.05)
        return SGD(self.parameters(), lr=0.1, momentum=0.9 if self._optimizer == "momentum" else 0.0)


class Record(Callback):
    """Records masks and weights after every batch, and right after the topology update that may come before it."""

    def __init__(self, sparse: SparseTrainingCallback) -> None:
        self.sparse = sparse
        self.moments: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._take(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._take(pl_module)

    def _take(self, pl_module: LightningModule) -> None:
        assert self.sparse.network is not None
        weights = {name: whole(parameter) for name, parameter in pl_module.named_parameters()}
        self.moments.append({"masks": self.sparse.network.masks, "weights": weights})


def whole(parameter: Tensor) -> Tensor:
    """Return a copy of all of a parameter, wherever its parts are."""
    gathered: Tensor = parameter.full_tensor() if type(parameter).__name__ == "DTensor" else parameter
    return gathered.detach().clone()


def data() -> TensorDataset:
    """Return the rows to train on."""
    source = torch.Generator().manual_seed(1)
    return TensorDataset(
        torch.randn(ROWS, FEATURES, generator=source), torch.randint(CLASSES, (ROWS,), generator=source)
    )


def loader(batch_size: int = BATCH) -> DataLoader[Any]:
    """Return batches in a fixed order."""
    return DataLoader(data(), batch_size=batch_size)


def trainer(*callbacks: Callback, **options: Any) -> Trainer:
    """Return a silent Trainer of three epochs on the CPU."""
    silent: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "max_epochs": 3,
    }
    return Trainer(callbacks=list(callbacks), **{**silent, **options})


def ddp(**options: Any) -> DDPStrategy:
    """Return DDP for processes that exist already."""
    return DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=60), **options)


def report(sparse: SparseTrainingCallback, record: Record) -> dict[str, Any]:
    """Return the state that all processes must agree on."""
    assert sparse.network is not None
    return {
        "moments": record.moments,
        "history": [update.to_dict() for update in sparse.history],
        "state": sparse.state_dict(),
    }
