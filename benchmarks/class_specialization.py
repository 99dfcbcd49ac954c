"""Class specialization of dense and sparse networks: LeNet-5-Caffe on MNIST, a small VGG16-like network on CIFAR-10.

    python benchmarks/class_specialization.py --data FOLDER [--epochs 10] [lenet5] [vgg16_like]

Trains each network dense and with sparse momentum at 5 % weights, with the shipped configurations but for their length,
and measures what part of each channel's activity after ReLU is due to one class, over all training images, as Dettmers
& Zettlemoyer (2019, section 5.2) do. Prints and writes, per layer, the mean of both, their difference with its standard
error and effect size, and the analysis of variance specialization ~ layer * sparse, to
`results/class_specialization_<network>.txt`, and the picture beside it. FOLDER has `mnist.npz` and `cifar10.npz`, or
torchvision's files.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from lightning_sparse import ClassSpecializationCallback
from lightning_sparse.analysis import compare
from lightning_sparse.analysis.pictures import plot_specialization
from lightning_sparse.experiments.setting import Setting
from lightning_sparse.experiments.sparse_cli import SparseCLI

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Pair:
    """A dense and a sparse configuration of one network."""

    dense: str
    sparse: str
    drops: int
    options: dict[str, str]


PAIRS = {
    "lenet5": Pair("mnist_lenet5_dense", "mnist_lenet5_5", 4, {}),
    # A quarter of the width: a small network, which two cores can train.
    "vgg16_like": Pair(
        "cifar10_vgg16_like_dense",
        "cifar10_vgg16_like_3",
        3,
        {"model.init_args.model_options.width": "0.25", "trainer.callbacks.init_args.density": "0.05"},
    ),
}


def measure(config: str, pair: Pair, data: Path, epochs: int) -> tuple[dict[str, torch.Tensor], float]:
    """Train, and return the specialization of each channel by layer, and the test accuracy."""
    given = dict(pair.options)
    if config == pair.dense:
        given.pop("trainer.callbacks.init_args.density", None)
    batch = 100 if "mnist" in config else 128
    given |= {
        "trainer.max_epochs": str(epochs),
        "trainer.logger": "false",
        "trainer.enable_checkpointing": "false",
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        "model.init_args.lr_scheduler.init_args.step_size": str(45000 // batch * epochs // pair.drops),
    }
    options = [text for name, value in given.items() for text in (f"--{name}", value)]
    places = Setting(config).data_arguments(data, download=False)
    cli = SparseCLI(["--config", config, *options, *places], run=False)
    special = ClassSpecializationCallback(layers=["Conv2d"], activation="relu")
    cli.trainer.callbacks.append(special)  # type: ignore[attr-defined]  # set in its constructor
    cli.trainer.fit(cli.model, cli.datamodule)
    accuracy = cli.trainer.test(cli.model, cli.datamodule, verbose=False)[0]["test/accuracy"]
    assert special.result is not None  # after a fit
    return {layer: found["specialization"] for layer, found in special.result.items()}, accuracy


def main() -> None:
    """Read the options, train, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(PAIRS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for name in options.networks:
        pair = PAIRS[name]
        found = {
            config: measure(config, pair, options.data.resolve(), options.epochs)
            for config in (pair.dense, pair.sparse)
        }
        (dense, dense_accuracy), (sparse, sparse_accuracy) = found.values()
        head = (
            f"{name}, {options.epochs} epochs, one seed. Test accuracy: dense {100 * dense_accuracy:.2f} %, "
            f"5 % weights {100 * sparse_accuracy:.2f} %."
        )
        text = f"{head}\n\n{compare(dense, sparse)}\n"
        (RESULTS / f"class_specialization_{name}.txt").write_text(text)
        figure = plot_specialization(dense, sparse, num_classes=10)
        figure.savefig(RESULTS / f"class_specialization_{name}.png", dpi=110)
        print(text, flush=True)


if __name__ == "__main__":
    main()
