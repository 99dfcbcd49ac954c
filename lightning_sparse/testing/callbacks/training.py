"""Training runs of a few milliseconds with a real Lightning Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparse._compat import Callback, LightningModule, Trainer
from lightning_sparse.testing.small_networks import OPTIMIZERS

Batch = tuple[Tensor, Tensor]
FEATURES, CLASSES, BATCH_SIZE, BATCHES = 6, 4, 4, 3


class ShufflingLoader:
    """Batches in a new order every epoch, restored to their position when a run resumes.

    The order is a function of the epoch's number, which Lightning passes to the "sampler": it restores the state of a
    loader only if it resumes in the middle of an epoch.

    Args:
        batches: Number of batches per epoch.
        seed: Seed for the data.
    """

    batch_sampler = None

    def __init__(self, batches: int = BATCHES, seed: int = 1) -> None:
        source = torch.Generator().manual_seed(seed)
        self._inputs = torch.randn(batches * BATCH_SIZE, FEATURES, generator=source)
        self._labels = torch.randint(CLASSES, (batches * BATCH_SIZE,), generator=source)
        self._epoch = self._position = 0
        self._resumes = False

    @property
    def sampler(self) -> ShufflingLoader:
        """The loader itself, to whose `set_epoch` Lightning passes the epoch's number."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._labels) // BATCH_SIZE

    def __iter__(self) -> Iterator[Batch]:
        # Lightning drops an iterator after its last batch without exhausting it: an epoch starts here, not at the end.
        if not self._resumes or self._position == len(self):
            self._position = 0
        self._resumes = False
        order = torch.randperm(len(self._labels), generator=torch.Generator().manual_seed(self._epoch)).tolist()
        while self._position < len(self):
            self._position += 1
            rows = order[(self._position - 1) * BATCH_SIZE : self._position * BATCH_SIZE]
            yield self._inputs[rows], self._labels[rows]

    def state_dict(self) -> dict[str, int]:
        """Return the number of yielded batches."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume at this position when the next epoch starts."""
        self._position, self._resumes = state["position"], True


def classifier() -> nn.Sequential:
    """Return a small network with the same weights at every call: 80 of them can be masked."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))


class TinyModule(LightningModule):
    """A user's module: it has nothing to do with sparse training.

    Args:
        optimizer: A name in `OPTIMIZERS`.
    """

    def __init__(self, optimizer: str = "momentum") -> None:
        super().__init__()
        self.net = classifier()
        self.lr = 0.1
        self._optimizer = optimizer

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy."""
        return nn.functional.cross_entropy(self.net(batch[0].to(self.dtype)).float(), batch[1])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Return the loss."""
        return self.loss(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss."""
        self.log("loss", self.loss(batch), batch_size=BATCH_SIZE)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss."""
        self.validation_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        """Return the optimizer."""
        optimizer: Optimizer = OPTIMIZERS[self._optimizer](self.parameters())
        return optimizer


class At(Callback):
    """Calls a function in one hook, with the trainer and the module."""

    def __init__(self, hook: str, function: Callable[[Trainer, LightningModule], object]) -> None:
        setattr(self, hook, lambda trainer, module, *_, **__: function(trainer, module))


def trainer(*callbacks: Callback, **options: Any) -> Trainer:
    """Return a silent trainer on the CPU, of three epochs if not told otherwise."""
    silent: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any("ModelCheckpoint" in type(callback).__name__ for callback in callbacks),
        "max_epochs": 3,
    }
    return Trainer(callbacks=list(callbacks), **{**silent, **options})


def fit(
    *callbacks: Callback,
    module: LightningModule | None = None,
    loader: Any = None,
    ckpt_path: str | None = None,
    **options: Any,
) -> Trainer:
    """Train, by default for three epochs of three steps with validation, and return the trainer."""
    run = trainer(*callbacks, **options)
    module = TinyModule() if module is None else module
    run.fit(module, ShufflingLoader() if loader is None else loader, ShufflingLoader(1), ckpt_path=ckpt_path)
    return run
