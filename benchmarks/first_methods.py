"""Methods on MNIST: LeNet-300-100 at 5 % weights in the protocol of Dettmers & Zettlemoyer (2019), one seed each.

    python benchmarks/first_methods.py --data FOLDER [--methods snip gradual ...] [--epochs 100] [--results FILE]

All methods train with SGD (Nesterov momentum 0.9, learning rate 0.1, a tenth after 25,000 batches of 100, weight decay
5e-4) for 100 epochs on 90 % of the training images, each with the hyperparameters of its own paper where these are a
matter of pruning: so the numbers stand beside published ones of other protocols, and say that a method learns at its
exact density. Lottery tickets are trained six times, with densities 1, 0.5, ... 0.05, from the same start. FOLDER is
the root of torchvision's MNIST. A run takes a few minutes; each result goes to the file when it comes, and is skipped
then.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything

from lightning_sparse import DensitySchedule, SparseMomentumCallback, SparseNetwork, SparseTrainingCallback
from lightning_sparse.data import MNISTDataModule
from lightning_sparse.models import ImageClassifier
from lightning_sparse.rounds import Round, lottery_densities, run_rounds

DENSITY = 0.05
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
DECAY = partial(torch.optim.lr_scheduler.StepLR, step_size=25000, gamma=0.1)

METHODS: dict[str, Callable[[], SparseTrainingCallback]] = {
    "sparse momentum": lambda: SparseMomentumCallback(density=DENSITY, keep_regrown=True),
    "static": lambda: SparseTrainingCallback("static", density=DENSITY),
    "snip": lambda: SparseTrainingCallback(method="snip", density=DENSITY),
    "gradual": lambda: SparseTrainingCallback(
        "magnitude_pruning", density=DensitySchedule(DENSITY, every_n_steps=100, end=0.75)
    ),
    "rigl": lambda: SparseTrainingCallback(method="rigl_original", density=DENSITY),
    "deep rewiring": lambda: SparseTrainingCallback(method="deep_rewiring", density=DENSITY),
    "top-kast": lambda: SparseTrainingCallback(method="top_kast", density=DENSITY),
}
# Published test errors in per cent at 5 % weights, or the nearest there are, with their source.
PUBLISHED = {
    "sparse momentum": "1.47 (authors' result files, Mostafa & Wang's protocol)",
    "deep rewiring": "1.94 (the same)",
    "static": "",
    "snip": "",
    "gradual": "",
    "rigl": "",
    "top-kast": "",
    "lottery tickets": "",
}


def train(module: ImageClassifier, data: MNISTDataModule, epochs: int, callback: SparseTrainingCallback) -> float:
    """Train and return the test error in per cent."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[callback],
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **quiet,  # type: ignore[arg-type]  # three flags
    )
    trainer.fit(module, data)
    (tested,) = trainer.test(module, data, verbose=False)
    return round(100 * (1 - tested["test/accuracy"]), 3)


def classifier() -> ImageClassifier:
    """Return the network of the paper, with the weights of seed 0."""
    seed_everything(0)
    return ImageClassifier("lenet-300-100", optimizer=SGD, lr_scheduler=DECAY, lr_interval="step")


def run(name: str, data: MNISTDataModule, epochs: int) -> dict[str, Any]:
    """Return the result of a method."""
    began = time.process_time()
    if name == "lottery tickets":

        def fit(network: SparseNetwork, now: Round) -> float:
            seed_everything(0)
            module: Any = network.model
            return train(module, data, epochs, SparseTrainingCallback("static", masks_from=network))

        rounds = run_rounds(fit, classifier(), lottery_densities(DENSITY, fraction=0.5))
        result = {
            "test_error": rounds[-1].result,
            "active": rounds[-1].active,
            "rounds": [[now.active, now.result] for now in rounds],
        }
    else:
        callback = METHODS[name]()
        result = {"test_error": train(classifier(), data, epochs, callback)}
        result["active"] = sum(layer.active for layer in callback.network.layers.values())
        result["layers"] = {name: layer.active for name, layer in callback.network.layers.items()}
    return {**result, "epochs": epochs, "cpu_seconds": round(time.process_time() - began)}


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = ["| method | test error, % | active weights | published, % | CPU seconds |", "|---|---|---|---|---|"]
    for name, each in results.items():
        cells = [name, f"{each['test_error']:.2f}", f"{each['active']:,}", PUBLISHED[name] or "-"]
        lines.append(f"| {' | '.join(cells)} | {each['cpu_seconds']:,} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the options, train what has no result yet, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Root of torchvision's MNIST.")
    parser.add_argument("--methods", nargs="+", default=[*PUBLISHED], choices=[*PUBLISHED], help="Methods to train.")
    parser.add_argument("--epochs", type=int, default=100, help="Epochs of each training.")
    file = Path(__file__).parent / "results" / "first_methods.json"
    parser.add_argument("--results", type=Path, default=file, help="File of results.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data = MNISTDataModule(arguments.data, batch_size=100, val_fraction=0.1, split_seed=None)
    for name in arguments.methods:
        results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
        if name not in results:
            results[name] = run(name, data, arguments.epochs)
            latest = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
            latest[name] = results[name]  # another process may have added some meanwhile
            arguments.results.write_text(json.dumps(latest, indent=1) + "\n")
            print(name, results[name], flush=True)
    print(table(json.loads(arguments.results.read_text())))


if __name__ == "__main__":
    main()
