"""The cost of Lightning and of this package: LeNet-300-100 at 5 % weights against a bare PyTorch loop.

    python benchmarks/training_run.py [--data FOLDER] [--epochs 2] [--rounds 5]

Both train on the same images with the same mathematics (batches of 100 reshuffled each epoch, cross-entropy, SGD with
Nesterov momentum and weight decay, a learning-rate schedule in steps, masks after every step, a topology update between
epochs, validation accuracy after each epoch). The first is a user's run: Trainer, ImageClassifier, data module,
SparseMomentumCallback. The second is a loop over tensors. FOLDER is the root of torchvision's MNIST; without it, random
images of the same size are used. One thread, CPU time, whole runs interleaved.
"""

from __future__ import annotations

import argparse
import logging
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from timing import paired, report
from torch import Tensor
from torch.nn import functional

from lightning_sparse import SparseMomentumCallback, SparseNetwork
from lightning_sparse.data import ArrayDataModule, MNISTDataModule
from lightning_sparse.models import ImageClassifier, LeNet300100
from lightning_sparse.topology.recipes import SPARSE_MOMENTUM
from lightning_sparse.topology.schedule import cosine

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
DECAY = partial(torch.optim.lr_scheduler.StepLR, step_size=25000, gamma=0.1)


def plugin_run(data: ArrayDataModule | MNISTDataModule, epochs: int) -> float:
    """Train with Lightning; return the last validation accuracy."""
    module = ImageClassifier(LeNet300100(), optimizer=SGD, lr_scheduler=DECAY, lr_interval="step")
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[SparseMomentumCallback(density=0.05)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data)
    return float(trainer.callback_metrics["val/accuracy"])


def bare_run(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], epochs: int) -> float:
    """Train with a loop over tensors (uint8 images, labels); return the last validation accuracy."""
    model = LeNet300100()
    optimizer = SGD(model.parameters())
    schedule = DECAY(optimizer)
    network = SparseNetwork(model, 0.05)
    network.attach(optimizer)
    accuracy = 0.0
    for epoch in range(epochs):
        if epoch:
            network.rewire(SPARSE_MOMENTUM, 0.5 * cosine((epoch - 1) / max(1, epochs - 2)))
        order = torch.randperm(len(train[0]))
        for batch in order.split(100):
            loss = functional.cross_entropy(model(_normalize(train[0][batch])), train[1][batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            batches = zip(val[0].split(1000), val[1].split(1000), strict=True)
            correct = sum((model(_normalize(images)).argmax(1) == labels).sum() for images, labels in batches)
        accuracy = float(correct) / len(val[0])
    return accuracy


def _normalize(images: Tensor) -> Tensor:
    return images.float().div_(255).sub_(0.1307).div_(0.3081)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.manual_seed(0)
    if options.data:
        data: ArrayDataModule | MNISTDataModule = MNISTDataModule(options.data, download=False)
    else:
        images = torch.randint(256, (70000, 28, 28), dtype=torch.uint8).numpy()
        labels = torch.randint(10, (70000,)).numpy()
        data = ArrayDataModule(images[:60000], labels[:60000], images[60000:], labels[60000:])
    data.setup("fit")
    train, val = data.train_dataloader(), data.val_dataloader()
    versions = {
        "lightning_sparse": lambda: plugin_run(data, options.epochs),
        "bare loop": lambda: bare_run((train.images, train.labels), (val.images, val.labels), options.epochs),
    }
    report(paired(versions, options.rounds), "lightning_sparse", "bare loop")


if __name__ == "__main__":
    main()
