"""A first look: a dense and a sparse network on real handwritten digits, without a download."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from lightning_sparse._compat import Callback, LightningModule, Trainer, seed_everything, without_messages
from lightning_sparse.analysis.pictures import plot_accuracy, plot_layer_densities
from lightning_sparse.callbacks import SparseMomentumCallback
from lightning_sparse.data import DigitsDataModule
from lightning_sparse.models import ImageClassifier, LeNet300100
from lightning_sparse.validation.errors import InvalidValueError


@dataclass(frozen=True)
class _Run:
    """Results of one training; accuracies and errors are in [0, 1]."""

    name: str
    accuracies: list[float]
    test_error: float
    # By layer: the number of weights, and of active ones initially and after each update.
    sizes: dict[str, int]
    active: dict[str, list[int]]
    update_epochs: list[int]

    @property
    def active_weights(self) -> int:
        return sum(counts[-1] for counts in self.active.values())

    def densities(self) -> dict[str, list[float]]:
        return {layer: [count / self.sizes[layer] for count in counts] for layer, counts in self.active.items()}


class _AccuracyCurve(Callback):
    """Keep the validation accuracy of every epoch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.values.append(float(trainer.callback_metrics["val/accuracy"]))


def demo(out: Path = Path("lightning_sparse_demo"), epochs: int = 60, density: float = 0.05, seed: int = 0) -> None:
    """Train a dense and a sparse LeNet-300-100 on scikit-learn's digits; print tables, write pictures and a CSV file.

    Computes with one thread, and prints nothing but its own lines.

    Args:
        out: Folder for the pictures and the CSV file.
        epochs: Epochs per network, at least 2.
        density: Fraction in (0, 1] of the sparse network's weights that are active.
        seed: Seed for initialization, batches and masks.
    """
    if epochs < 2:
        raise InvalidValueError(
            expected="at least 2 epochs, so that the topology changes between them",
            got=epochs,
            cure="the default takes seconds",
        )
    console, out = Console(), out.expanduser()
    sparse = SparseMomentumCallback(density=density)
    with _one_thread(), without_messages():
        runs = [_train("dense", None, epochs, seed), _train(f"{100 * density:g} % weights", sparse, epochs, seed)]
    for table in (_summary(runs), _layers(runs[-1])):
        console.print(table)
    for path in _write(runs, out):
        console.print(f"wrote {path}")


def _train(name: str, sparse: SparseMomentumCallback | None, epochs: int, seed: int) -> _Run:
    seed_everything(seed, verbose=False)
    network = LeNet300100(in_features=64)
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    decay = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=epochs)
    module = ImageClassifier(network, optimizer=sgd, lr_scheduler=decay, lr_interval="epoch")
    curve = _AccuracyCurve()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[curve] if sparse is None else [curve, sparse],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    digits = DigitsDataModule(batch_size=32)
    print(f"training: {name}")
    trainer.fit(module, digits)
    tested = trainer.test(module, digits, verbose=False)[0]
    sizes = {layer: weight.numel() for layer, weight in module.named_parameters() if weight.dim() > 1}
    active = {layer: [size] for layer, size in sizes.items()}
    history = [] if sparse is None else sparse.history
    if history:
        active = {
            layer: [change.before, *(record.layers[layer].active for record in history)]
            for layer, change in history[0].layers.items()
        }
    return _Run(
        name,
        curve.values,
        test_error=1 - tested["test/accuracy"],
        sizes=sizes,
        active=active,
        update_epochs=[0, *(record.epoch for record in history)],
    )


def _summary(runs: Sequence[_Run]) -> Table:
    table = Table(title="LeNet-300-100 on 8x8 digits")
    for heading in ("network", "test error", "active weights"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for run in runs:
        table.add_row(run.name, f"{100 * run.test_error:.2f} %", f"{run.active_weights:,}")
    return table


def _layers(run: _Run) -> Table:
    table = Table(title=f"Where the active weights went ({run.name})")
    for heading in ("layer", "weights", "active first", "active last", "density last"):
        table.add_column(heading, justify="left" if heading == "layer" else "right", no_wrap=True)
    for layer, counts in run.active.items():
        size = run.sizes[layer]
        table.add_row(layer, f"{size:,}", f"{counts[0]:,}", f"{counts[-1]:,}", f"{100 * counts[-1] / size:.1f} %")
    return table


def _write(runs: Sequence[_Run], out: Path) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    sparse = runs[-1]
    paths = [out / "density_per_layer.png", out / "accuracy.png", out / "demo.csv"]
    plot_layer_densities(sparse.update_epochs, sparse.densities()).savefig(paths[0], dpi=150)
    plot_accuracy({run.name: run.accuracies for run in runs}).savefig(paths[1], dpi=150)
    with paths[2].open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["network", "epoch", "validation_accuracy", *(f"active/{layer}" for layer in sparse.active)])
        for run in runs:
            for epoch, accuracy in enumerate(run.accuracies, start=1):
                # The topology that was validated: the update of this epoch's end comes after.
                at = sum(updated < epoch for updated in run.update_epochs) - 1
                writer.writerow([run.name, epoch, accuracy, *(counts[at] for counts in run.active.values())])
    return paths


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread inside: layers this small gain nothing by more, which wait busily for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
