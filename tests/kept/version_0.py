"""The run whose checkpoint and configuration version 0 wrote, with every option spelled as version 0 spelled it.

Written once: what is here stays as it is, so that it shows whether projects from then still work. Everything comes from
the package's public places.
"""

from __future__ import annotations

import csv
import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor

from lightning_sparse import ClassSpecializationCallback, GradientFlowCallback, SparseMomentumCallback
from lightning_sparse.callbacks import RandomStateCallback
from lightning_sparse.cli import main
from lightning_sparse.data import ArrayDataModule
from lightning_sparse.models import ImageClassifier

FOLDER = Path(__file__).parent / "v0"
CHECKPOINT, CONFIG, EXPECTED = FOLDER / "checkpoint.ckpt", FOLDER / "config.yaml", FOLDER / "expected.json"
EPOCHS, STEPS_PER_EPOCH, SAVED_AT = 4, 5, 8
NETWORK: dict[str, Any] = {"in_features": 64, "hidden": [24, 16], "num_classes": 3}
# So many weights of each tensor are written down.
SHOWN = 8


def arrays() -> dict[str, np.ndarray]:
    """Return 8 x 8 images of three classes, noise with two bright rows each, from integers only."""
    source = torch.Generator().manual_seed(2019)
    found = {}
    for part, count in (("train", 120), ("test", 30)):
        labels = torch.arange(count) % NETWORK["num_classes"]
        images = torch.randint(0, 160, (count, 8, 8), generator=source)
        for row in (0, 1):
            images[torch.arange(count), 2 * labels + row] += 90
        found |= {f"x_{part}": images.to(torch.uint8).numpy(), f"y_{part}": labels.numpy()}
    return found


def callbacks() -> list[Callback]:
    """Return sparse momentum with many options that are not the default, two measurements, and the random states."""
    return [
        SparseMomentumCallback(
            density=0.25,
            prune_rate=0.4,
            schedule="linear",
            every_n_steps=3,
            growth="random",
            distribution="erdos_renyi",
            dense=["*output"],
            minimum=2,
            seed=11,
        ),
        GradientFlowCallback(every_n_steps=2, orders=(1, 2), normalize="active"),
        ClassSpecializationCallback(layers="Linear", activation="relu", every_n_epochs=1, num_classes=3),
        RandomStateCallback(),
    ]


def run(*others: Callback, folder: Path, seed: int = 7, **fit_options: Any) -> Trainer:
    """Train, without a file but for what other callbacks write, and return the trainer.

    Args:
        others: Further callbacks.
        folder: Where the trainer may write.
        seed: Of the global random states.
        fit_options: Arguments of `Trainer.fit`.
    """
    seed_everything(seed, verbose=False)
    module = ImageClassifier(
        "mlp",
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
        lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=12, gamma=0.1),
        num_classes=3,
        model_options={name: value for name, value in NETWORK.items() if name != "num_classes"},
    )
    data = ArrayDataModule(**arrays(), batch_size=20, val_fraction=1 / 6, shuffle_seed=5)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[*callbacks(), *others],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data, **fit_options)
    return trainer


def ending(trainer: Trainer) -> dict[str, Any]:
    """Return plain values of all that a run ends with: counts, masks, weights, measurements, random numbers."""
    by_type = {type(callback).__name__: callback for callback in trainer.callbacks}
    sparse, flow = by_type["SparseMomentumCallback"], by_type["GradientFlowCallback"]
    network = sparse.network
    weights = trainer.lightning_module.state_dict()
    return {
        "steps": trainer.global_step,
        "epochs": trainer.current_epoch,
        "updates": [[record.epoch, record.step, record.pruned, record.grown] for record in sparse.history],
        "active after each update": {
            name: [record.layers[name].active for record in sparse.history] for name in sparse.history[0].layers
        },
        "active": {name: layer.active for name, layer in network.layers.items()},
        "dense": [name for name, layer in network.layers.items() if layer.dense],
        "masks": {name: packed(mask) for name, mask in network.masks.items()},
        # Of a thousand: PyTorch 2.4 draws other numbers than later versions where there are many to choose from.
        "random numbers": [torch.randint(1000, (4,)).tolist(), random.randrange(1000), int(np.random.randint(1000))],  # noqa: NPY002
        "prune rates": [record.prune_rate for record in sparse.history],
        "weights": {name: shown(values, network.masks.get(name)) for name, values in weights.items()},
        "norms": {name: values.double().norm().item() for name, values in weights.items()},
        "gradient flow": {"measurements": len(flow.history), **flow.summary()},
        "specialization": {
            str(epochs): {layer: found["specialization"].double().nanmean().item() for layer, found in layers.items()}
            for epochs, layers in by_type["ClassSpecializationCallback"].history.items()
        },
        "validation": {name: trainer.callback_metrics[f"val/{name}"].item() for name in ("loss", "accuracy")},
    }


def run_of_config(folder: Path, config: Path) -> dict[str, Any]:
    """Run `lightning-sparse fit` in a folder, which needs images.npz; return what the log says of it.

    Args:
        folder: To run in and write to.
        config: File with the options.
    """
    before = Path.cwd()
    np.savez_compressed(folder / "images.npz", **arrays())
    os.chdir(folder)
    try:
        main(["fit", "--config", str(config)])
    finally:
        os.chdir(before)
    (log,) = folder.rglob("metrics.csv")
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    logged = {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}
    return {
        "logged": sorted(logged),
        "steps": int(max(logged["step"])),
        "updates": len(logged["sparsity/pruned"]),
        "density": logged["sparsity/density"],
        "files": sorted({path.suffix for path in folder.rglob("*") if path.is_file()}),
    }


def packed(mask: Tensor) -> str:
    """Return a mask as hexadecimal digits, the first entry in the lowest bit."""
    return np.packbits(mask.flatten().numpy(), bitorder="little").tobytes().hex()


def shown(values: Tensor, mask: Tensor | None) -> list[float]:
    """Return the first values, of a masked weight the first active ones."""
    return (values.flatten() if mask is None else values[mask])[:SHOWN].tolist()
