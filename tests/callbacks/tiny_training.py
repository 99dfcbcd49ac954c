"""Training runs of a few milliseconds, with all that a Lightning Trainer does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.data import DataLoader, IterableDataset

from lightning_sparse import SparseTrainingCallback
from lightning_sparse.topology import LayerView

Batch = tuple[Tensor, Tensor]
FEATURES, CLASSES, BATCH_SIZE, BATCHES = 6, 4, 4, 3

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda parameters: SGD(parameters, lr=0.1),
    "momentum": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9),
    "nesterov": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda parameters: Adam(parameters, lr=0.05),
    "adamw": lambda parameters: AdamW(parameters, lr=0.05, weight_decay=0.1),
}


class ShufflingLoader:
    """Batches in a new order every epoch, which go on where they were when a run resumes.

    The order is a function of the epoch's number, which Lightning tells the "sampler": it puts back the state of a
    loader only when it resumes in the middle of an epoch.
    """

    batch_sampler = None

    def __init__(self, batches: int = BATCHES) -> None:
        source = torch.Generator().manual_seed(1)
        self._inputs = torch.randn(batches * BATCH_SIZE, FEATURES, generator=source)
        self._labels = torch.randint(CLASSES, (batches * BATCH_SIZE,), generator=source)
        self._epoch = self._position = 0
        self._resumes = False

    @property
    def sampler(self) -> ShufflingLoader:
        return self

    def set_epoch(self, epoch: int) -> None:
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
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._position, self._resumes = state["position"], True


class Endless(IterableDataset[Batch]):
    """A stream without a length, of three batches an epoch."""

    def __iter__(self) -> Iterator[Batch]:
        return iter(ShufflingLoader())


def stream() -> DataLoader[Batch]:
    """Return a loader whose length Lightning can't know."""
    return DataLoader(Endless(), batch_size=None)


def classifier() -> nn.Sequential:
    """Return a small network with the same weights at every call: 80 of them can be masked."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))


class TinyModule(LightningModule):
    """A user's module: it knows nothing of sparse training."""

    def __init__(self, optimizer: str = "momentum") -> None:
        super().__init__()
        self.net = classifier()
        self.lr = 0.1
        self._optimizer = optimizer

    def loss(self, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0].to(self.dtype)).float(), batch[1])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("loss", self.loss(batch), batch_size=BATCH_SIZE)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def configure_optimizers(self) -> Optimizer:
        return OPTIMIZERS[self._optimizer](self.parameters())


class ManualModule(TinyModule):
    """Two optimizers in manual optimization, of which Lightning doesn't see the second step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        wrapped, _ = self.optimizers()
        _, raw = self.optimizers(use_pl_optimizer=False)
        for optimizer in (wrapped, raw):
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self) -> list[Optimizer]:
        return [
            SGD(self.net[0].parameters(), lr=0.1, momentum=0.9),
            Adam(self.net[3].parameters(), lr=0.05),
        ]


class EndsByItself(TinyModule):
    """Ends a run without a limit after nine batches."""

    def on_train_batch_end(self, *_: Any) -> None:
        self.trainer.should_stop = self.global_step >= 9


class At(Callback):
    """Call a function in one hook, with what every hook gets: the trainer and the module."""

    def __init__(self, hook: str, function: Callable[[Trainer, LightningModule], None]) -> None:
        setattr(self, hook, lambda trainer, module, *_: function(trainer, module))


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


def saving_at(step: int, path: Path) -> At:
    """Save one checkpoint, after a step."""
    return At("on_train_batch_end", lambda run, _: run.save_checkpoint(path) if run.global_step == step else None)


def one_checkpoint(folder: Path, *callbacks: Callback, step: int = 5) -> str:
    """Train and return the checkpoint after a step, by default between the first update and the second."""
    fit(*callbacks, saving_at(step, folder / "one.ckpt"))
    return str(folder / "one.ckpt")


def rates(callback: SparseTrainingCallback) -> list[float]:
    """Return the prune rate of each update."""
    return [record.prune_rate for record in callback.history]


def masks_of(callback: SparseTrainingCallback) -> dict[str, Tensor]:
    """Return the callback's masks."""
    assert callback.network is not None
    return callback.network.masks


def stray_weights(callback: SparseTrainingCallback, module: nn.Module) -> dict[str, int]:
    """Return, for each layer that has any, the number of inactive weights that are not zero."""
    found = {
        name: int(torch.count_nonzero(module.get_parameter(name)[~mask])) for name, mask in masks_of(callback).items()
    }
    return {name: count for name, count in found.items() if count}


def active_weights(callback: SparseTrainingCallback) -> int:
    """Return the number of active weights, counted in the masks."""
    return sum(int(torch.count_nonzero(mask)) for mask in masks_of(callback).values())


def everything(run: Trainer, callback: SparseTrainingCallback) -> dict[str, Any]:
    """Return copies of all that a resumed run must have in common with one that was not interrupted."""
    return {
        "weights": {name: values.clone() for name, values in run.lightning_module.state_dict().items()},
        "optimizers": [optimizer.state_dict()["state"] for optimizer in run.optimizers],
        "callback": callback.state_dict(),
        "progress": {"epoch": run.current_epoch, "step": run.global_step},
    }


def differences(left: object, right: object, where: str = "") -> list[str]:
    """Return the places where two nested structures are not bit for bit the same."""
    if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
        return [place for key in left for place in differences(left[key], right[key], f"{where}/{key}")]
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return [place for index, (a, b) in pairs for place in differences(a, b, f"{where}/{index}")]
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return [] if left.dtype == right.dtype and torch.equal(left, right) else [where]
    return [] if type(left) is type(right) and left == right else [where]


def by_index(layer: LayerView) -> Tensor:
    """Score by position: a rule of the user's own."""
    return torch.arange(layer.weight.numel(), dtype=torch.float32).view(layer.weight.shape)


def squared(progress: float) -> float:
    """Decay: a schedule of the user's own."""
    return (1 - progress) ** 2


def falls(values: list[float]) -> bool:
    """Tell whether each value is smaller than the one before."""
    return all(later < earlier for earlier, later in pairwise(values))
