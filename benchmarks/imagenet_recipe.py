"""The ImageNet recipe end to end: ResNet-50 at 10 and 20 % weights, two processes, upscaled CIFAR-10 images.

    python benchmarks/imagenet_recipe.py --cifar10 FILE.npz [--images 40] [--epochs 3] [--width 0.25]

Writes an ImageFolder of 10 classes as ImageNet has it (`train` and `val`, 256 x 256 pixels, in a temporary folder), and
runs `lightning-sparse fit` with the shipped configurations in two processes (DDP, gloo), shorter and narrower than they
are. It shows that the whole recipe works, not how accurate a network gets.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_sparse.data.npz import read_npz


def write_folders(cifar10: Path, root: Path, images: int) -> None:
    """Write this many images of each class into `train` and `val`."""
    x_train, y_train, x_test, y_test = (np.asarray(array) for array in read_npz(cifar10))
    for split, pixels, labels in (("train", x_train, y_train), ("val", x_test, y_test)):
        for label in range(10):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for index, image in enumerate(pixels[labels == label][:images]):
                Image.fromarray(image).resize((256, 256), Image.Resampling.BICUBIC).save(folder / f"{index}.jpg")


def train(weights: int, root: Path, epochs: int, width: float) -> dict[str, str]:
    """Train in two processes and return the last number of each column of the log."""
    logs = root / f"logs{weights}"
    command = [
        *(sys.executable, "-m", "lightning_sparse", "fit"),
        *("--config", f"imagenet_resnet50_{weights}", "--data", "ImageFolderDataModule"),
        *("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"),
        *("--trainer.max_epochs", str(epochs), "--trainer.enable_progress_bar", "false"),
        *("--trainer.logger.init_args.save_dir", str(logs), "--trainer.log_every_n_steps", "1"),
        *(
            "--data.init_args.data_dir",
            str(root),
            "--data.init_args.batch_size",
            "20",
            "--data.init_args.eval_batch_size",
            "50",
        ),
        *("--data.init_args.num_workers", "0", "--model.init_args.model_options", f'{{"width": {width}}}'),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=root)
    (metrics,) = logs.rglob("metrics.csv")
    last: dict[str, str] = {}
    with metrics.open() as file:
        for row in csv.DictReader(file):
            last |= {name: value for name, value in row.items() if value}
    return last


def main() -> None:
    """Read the options, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--width", type=float, default=0.25)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_folders(options.cifar10, root, options.images)
        print(f"ResNet-50, width {options.width:g}, {10 * options.images} training images, 2 processes:")
        for weights in (10, 20):
            found = train(weights, root, options.epochs, options.width)
            shown = {name: found[name] for name in ("train/loss", "val/accuracy", "val/accuracy_top5")}
            numbers = ", ".join(f"{name} {float(value):.4f}" for name, value in shown.items())
            updates = f"last update moved {float(found['sparsity/grown']):.0f} weights"
            print(f"  {weights} %: density {float(found['sparsity/density']):.6f}, {numbers}, {updates}", flush=True)


if __name__ == "__main__":
    main()
