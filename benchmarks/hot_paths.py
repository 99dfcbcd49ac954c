"""The CPU seconds of what must not become slower: a topology update, a training run, mask enforcement.

    python benchmarks/hot_paths.py {update,training,enforcement} [--rounds N]

- update: one update of sparse momentum in ResNet-50 at 10 % weights, after an optimizer step.
- training: LeNet-300-100 at 5 % weights with Trainer, module, data module and callback, 2 epochs of 50 steps on random
  images, validation and the update between the epochs included.
- enforcement: masks of all layers of VGG16 at 5 % weights enforced 5 times.

Prints the fastest of the rounds as `seconds 0.1234`, as whatever disturbs a round makes it slower only; one thread. It
uses public names only, so that `two_trees.py` can run it over other versions of the package:

    python benchmarks/two_trees.py OTHER . --metric 'seconds ([0-9.]+)' python "$PWD/benchmarks/hot_paths.py" update
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable

import torch
from timing import paired
from torch import nn

from lightning_sparse import SparseNetwork

# What is to be done before each round, untimed; what is timed; how many rounds take a few seconds. What else these need
# is imported where they need it, as that takes seconds, too.
HotPath = tuple[Callable[[], object], Callable[[], object], int]
IMAGES, HELD_OUT, EPOCHS, ENFORCED = 5000, 1000, 2, 5


def update() -> HotPath:
    """Return an optimizer step of ResNet-50, which has 25.5 million weights, and an update of its topology."""
    import torchvision

    with torch.device("meta"):
        model = torchvision.models.resnet50()
    model.to_empty(device="cpu")  # its own initialization takes longer than an update
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.detach().normal_(std=0.02)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 0.01
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    network = SparseNetwork(model, 0.1, seed=0)
    network.attach(optimizer)
    return optimizer.step, lambda: network.rewire("sparse_momentum", 0.5), 7


def training() -> HotPath:
    """Return nothing to do before, and a whole training run."""
    from lightning.pytorch import Trainer

    from lightning_sparse import SparseMomentumCallback
    from lightning_sparse.data import ArrayDataModule
    from lightning_sparse.models import ImageClassifier, LeNet300100

    count = IMAGES + HELD_OUT
    images = torch.randint(256, (count, 28, 28), dtype=torch.uint8)
    labels = torch.randint(10, (count,))
    data = ArrayDataModule(images, labels, images[:100], labels[:100], val_fraction=HELD_OUT / count)
    data.setup("fit")

    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)

    def train() -> None:
        torch.manual_seed(0)
        trainer = Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            callbacks=[SparseMomentumCallback(density=0.05, seed=0)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(ImageClassifier(LeNet300100()), data)

    return lambda: None, train, 7


def enforcement() -> HotPath:
    """Return nothing to do before, and the enforcement of masks in VGG16 for small images, 15 million weights."""
    import torchvision

    features = torchvision.models.vgg16_bn(init_weights=False).features
    head = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    network = SparseNetwork(nn.Sequential(features, nn.Flatten(), head), 0.05, seed=0)

    def enforce() -> None:
        for _ in range(ENFORCED):
            network.enforce()

    return lambda: None, enforce, 80


PATHS = {"update": update, "training": training, "enforcement": enforcement}


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", choices=list(PATHS))
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    prepare, run, rounds = PATHS[options.path]()
    found = paired({options.path: run}, options.rounds or rounds, prepare={options.path: prepare})
    print(f"seconds {min(found[options.path]):.6f}")


if __name__ == "__main__":
    main()
