"""Which measure of gradient flow correlates with test accuracy, over many small networks, dense and sparse.

    python benchmarks/gradient_flow_correlation.py --data FOLDER [--jobs 2]

Trains 120 multilayer perceptrons of three hidden layers on 5,000 images of MNIST for 22 epochs: widths 32 to 256,
densities 100 to 5 % (fixed random masks), SGD, SGD with momentum and Adam, with and without batch normalization. The
gradient of the mean loss over the 5,000 images is measured at the end of 11 evenly spread epochs and averaged, as by
Tessera et al. (2021), and ranked against accuracy and loss on the 10,000 test images: Kendall's tau-b, with the 95 %
interval of 2,000 bootstrap samples of the networks. One row per network goes to
`results/gradient_flow_correlation.csv`, where finished ones are skipped; the table to `.md` beside it. FOLDER has
torchvision's MNIST, or is an `.npz` file of it.
"""

from __future__ import annotations

import argparse
import csv
import logging
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer
from scipy.stats import kendalltau

from lightning_sparse import GradientFlowCallback, SparseTrainingCallback
from lightning_sparse.data import ArrayDataModule, MNISTDataModule
from lightning_sparse.models import MLP, ImageClassifier

WIDTHS, DENSITIES, NORMS = (32, 64, 128, 256), (1.0, 0.5, 0.2, 0.1, 0.05), (False, True)
OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.02, momentum=0.9),
    "adam": partial(torch.optim.Adam, lr=1e-3),
}
EPOCHS, MEASURED, IMAGES, SAMPLES = 22, 11, 5000, 2000
MEASURES = {
    "gradient_flow/l1": "norm l1",
    "gradient_flow/l2": "norm l2",
    "gradient_flow/egf_l1": "EGF l1",
    "gradient_flow/egf_l2": "EGF l2",
}
# Tessera et al. (2021), Fashion-MNIST: absolute correlations of sparse and dense networks with test loss and accuracy.
PUBLISHED = {
    "norm l1": (0.355, 0.316, 0.365, 0.354),
    "norm l2": (0.282, 0.292, 0.285, 0.329),
    "EGF l1": (0.419, 0.373, 0.365, 0.354),
    "EGF l2": (0.360, 0.323, 0.298, 0.320),
}
RESULTS = Path(__file__).parent / "results" / "gradient_flow_correlation.csv"


@dataclass(frozen=True)
class Network:
    """One of the networks."""

    width: int
    density: float
    optimizer: str
    batch_norm: bool


def train(network: Network, data: Path) -> dict[str, object]:
    """Train a network and return its row."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    images = subset(data)
    torch.manual_seed(0)
    model = MLP(784, [network.width] * 3, batch_norm=network.batch_norm)
    module = ImageClassifier(model, optimizer=OPTIMIZERS[network.optimizer])
    images.setup("fit")
    whole = images.train_dataloader()
    batch = whole.transform((whole.images, whole.labels))
    flow = GradientFlowCallback(spread_over_epochs=MEASURED, batches=[batch], per_layer=False)
    sparse = [SparseTrainingCallback("static", density=network.density, seed=1)] if network.density < 1 else []
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        callbacks=[*sparse, flow],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, images)
    found = trainer.test(module, images, verbose=False)[0]
    averages = flow.summary()
    measured = {label: averages[name] for name, label in MEASURES.items()}
    return {**asdict(network), **measured, "test loss": found["test/loss"], "test accuracy": found["test/accuracy"]}


def subset(data: Path) -> ArrayDataModule:
    """Return the first training images and all test images."""
    whole = MNISTDataModule(data, download=False, val_fraction=0.0)
    whole.setup("fit")
    whole.setup("test")
    train, test = whole.train_dataloader(), whole.test_dataloader()
    arrays = (train.images[:IMAGES, 0], train.labels[:IMAGES], test.images[:, 0], test.labels)
    return ArrayDataModule(*(array.numpy() for array in arrays), batch_size=100, val_fraction=0.0)


def interval(measure: np.ndarray, outcome: np.ndarray) -> tuple[float, float, float]:
    """Return Kendall's tau-b and its 95 % bootstrap interval."""
    source = np.random.default_rng(0)
    draws = [source.integers(0, len(measure), len(measure)) for _ in range(SAMPLES)]
    sampled = [kendalltau(measure[draw], outcome[draw]).statistic for draw in draws]
    low, high = np.nanquantile(sampled, [0.025, 0.975])
    return float(kendalltau(measure, outcome).statistic), float(low), float(high)


def table(rows: Sequence[dict[str, str]]) -> str:
    """Return the correlations as Markdown."""
    groups = {
        "sparse": [row for row in rows if float(row["density"]) < 1],
        "dense": [row for row in rows if float(row["density"]) == 1],
    }
    sizes = ", ".join(f"{len(found)} {name}" for name, found in groups.items())
    columns = [f"{group}: {outcome}" for group in groups for outcome in ("test loss", "test accuracy")]
    lines = [
        f"# Kendall's tau of gradient flow with test loss and accuracy, {sizes} networks on MNIST",
        "",
        f"| measure | {' | '.join(f'{column}, here | published' for column in columns)} |",
        f"|---|{'---|---|' * len(columns)}",
    ]
    for measure, published in PUBLISHED.items():
        cells = []
        for (group, outcome), theirs in zip(product(groups, ("test loss", "test accuracy")), published, strict=True):
            x, y = (np.array([float(row[name]) for row in groups[group]]) for name in (measure, outcome))
            tau, low, high = interval(x, y)
            cells.append(f"{tau:.2f} ({low:.2f} to {high:.2f}) | {theirs}")
        lines.append(f"| {measure} | {' | '.join(cells)} |")
    note = (
        "In brackets the 95 % bootstrap interval over networks. Published: absolute values, of Fashion-MNIST, 600 "
        "networks (Tessera et al. 2021, from the first author's slides); which correlation they are is not certain."
    )
    return "\n".join([*lines, "", note, ""])


def main() -> None:
    """Read the options, train what is missing, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    networks = [Network(*each) for each in product(WIDTHS, DENSITIES, OPTIMIZERS, NORMS)]
    done = read()
    missing = [network for network in networks if key(asdict(network)) not in {key(row) for row in done}]
    # Spawned, not forked: threads of PyTorch don't survive a fork.
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for row in pool.map(partial(train, data=options.data.resolve()), missing):
            with RESULTS.open("a", newline="") as file:
                writer = csv.DictWriter(file, row)
                if not file.tell():
                    writer.writeheader()
                writer.writerow(row)
            print(row, flush=True)
    text = table(read())
    RESULTS.with_suffix(".md").write_text(text)
    print(text)


def read() -> list[dict[str, str]]:
    """Return the rows of finished networks."""
    if not RESULTS.exists():
        return []
    with RESULTS.open() as file:
        return list(csv.DictReader(file))


def key(row: dict[str, object] | dict[str, str]) -> tuple[str, ...]:
    """Return the settings that identify a network."""
    return tuple(str(row[name]) for name in ("width", "density", "optimizer", "batch_norm"))


if __name__ == "__main__":
    main()
