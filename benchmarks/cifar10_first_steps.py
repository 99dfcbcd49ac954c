"""Every CIFAR-10 architecture of the paper in its first steps: falling loss, exact budget, a resumable checkpoint.

    python benchmarks/cifar10_first_steps.py --data FILE.npz [--steps 200] [--batch-size 32] [NAME ...]

Trains each shipped sparse configuration on the CPU, at its own width, for this many steps, in smaller batches and at a
smaller learning rate than the paper's, updates the topology halfway, recounts the active weights after every step, and
saves a checkpoint after nine tenths. Then a new module, trainer and callback resume from the checkpoint, and must end
with the same weights, bit for bit; the networks with dropout need RandomStateCallback for it. One row per network goes
to `results/cifar10_first_steps.csv`; finished ones are skipped.

The loss is shown before the update too: half of the weights are replaced there, and the new ones start with the
momentum that they gathered while they were inactive, so it jumps. In the paper's protocol, 352 batches of 128 lie
between two updates.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_sparse import SparseMomentumCallback
from lightning_sparse.callbacks import RandomStateCallback
from lightning_sparse.experiments.sparse_cli import SparseCLI

CONFIGS = [
    "cifar10_alexnet_s_10",
    "cifar10_alexnet_b_10",
    "cifar10_vgg16_c_5",
    "cifar10_vgg16_d_5",
    "cifar10_vgg16_like_3",
    "mostafa_cifar10_wrn_28_2_10",
    "cifar10_wrn_16_8_5",
    "cifar10_wrn_22_8_5",
    "cifar10_wrn_16_10_5",
]
LEARNING_RATE, SHOWN = 0.00625, 20
RESULTS = Path(__file__).parent / "results" / "cifar10_first_steps.csv"


@dataclass
class Watch(Callback):
    """Record the loss, and whether the number of active weights is exact."""

    density: float
    losses: list[float] = field(default_factory=list)
    wrong_counts: int = 0
    stray: int = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Count in the weights themselves."""
        self.losses.append(outputs["loss"].item())
        network, weights = _sparse(trainer).network, dict(pl_module.named_parameters())
        assert network is not None  # from the start of the fit on
        masks = network.masks
        active, size = sum(int(mask.sum()) for mask in masks.values()), sum(mask.numel() for mask in masks.values())
        self.wrong_counts += active != round(self.density * size)
        self.stray += sum(int((weights[name].detach()[~mask] != 0).sum()) for name, mask in masks.items())


def train(
    config: str, data: Path, steps: int, batch: int, folder: Path, resume: Path | None = None
) -> tuple[SparseMomentumCallback, LightningModule, Watch]:
    """Train until this many steps in total, from the start or from a checkpoint."""
    options = {
        "trainer.max_steps": steps,
        "trainer.accelerator": "cpu",
        "trainer.logger": "false",
        "trainer.enable_checkpointing": "false",
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        "trainer.limit_val_batches": 0,
        "trainer.callbacks.init_args.every_n_steps": steps // 2,
        "model.init_args.optimizer.init_args.lr": LEARNING_RATE,
        "data.init_args.batch_size": batch,
        "data.init_args.data_dir": data,
        "data.init_args.download": "false",
    }
    arguments = [text for option, value in options.items() for text in (f"--{option}", str(value))]
    cli = SparseCLI(["--config", config, *arguments], run=False)
    watch = Watch(density=int(config.rpartition("_")[2]) / 100)
    checkpoint = ModelCheckpoint(folder, "half", every_n_train_steps=steps * 9 // 10, save_top_k=-1)
    cli.trainer.callbacks.extend([watch, RandomStateCallback(), *([] if resume else [checkpoint])])  # type: ignore[attr-defined]  # set in its constructor
    cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=resume, weights_only=True)
    return _sparse(cli.trainer), cli.model, watch


def _sparse(trainer: Trainer) -> SparseMomentumCallback:
    (sparse,) = (each for each in trainer.callbacks if isinstance(each, SparseMomentumCallback))  # type: ignore[attr-defined]  # set in its constructor
    return sparse


def first_steps(config: str, data: Path, steps: int, batch: int) -> dict[str, object]:
    """Train, resume and compare one network; return its row."""
    with tempfile.TemporaryDirectory() as name:
        start = time.process_time()
        sparse, whole, watch = train(config, data, steps, batch, Path(name))
        seconds = time.process_time() - start
        _, resumed, _ = train(config, data, steps, batch, Path(name), resume=Path(name) / "half.ckpt")
    assert sparse.network is not None  # after the fit
    layers = sparse.network.layers.values()
    parts = {
        f"first {SHOWN} steps": watch.losses[:SHOWN],
        f"{SHOWN} steps before the update": watch.losses[steps // 2 - SHOWN : steps // 2],
        f"last {SHOWN} steps": watch.losses[-SHOWN:],
    }
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    return {
        "configuration": config,
        "steps": steps,
        "batch": batch,
        "learning rate": LEARNING_RATE,
        **{f"loss, {part}": round(fmean(losses), 3) for part, losses in parts.items()},
        "weights": sum(layer.size for layer in layers),
        "active": sum(layer.active for layer in layers),
        "updates": len(sparse.history),
        "moved": sum(record.grown for record in sparse.history),
        "steps with another count": watch.wrong_counts,
        "inactive weights other than zero": watch.stray,
        "resumed bit for bit": all(torch.equal(a, b) for a, b in pairs),
        "CPU seconds a step": round(seconds / steps, 3),
    }


def main() -> None:
    """Read the options, run what is missing, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=CONFIGS, metavar="NAME")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in options.names:
        done = RESULTS.read_text().splitlines() if RESULTS.exists() else []
        if any(line.startswith(f"{name},") for line in done):
            print(f"{name} is done", file=sys.stderr)
            continue
        row = first_steps(name, options.data.resolve(), options.steps, options.batch_size)
        with RESULTS.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if not done:
                writer.writeheader()
            writer.writerow(row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
