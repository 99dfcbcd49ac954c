"""Small images, a convolutional module that draws random numbers while it trains, and its class specialization."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tiny_training import trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu
from torch.utils.data import DataLoader, TensorDataset

from lightning_sparse import ClassSpecialization

IMAGES, CLASSES, SIZE = 22, 3, 6


def data(images: int = IMAGES, seed: int = 1) -> TensorDataset:
    """Return images of one channel, and labels."""
    source = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (images,), generator=source)
    labels[:CLASSES] = torch.arange(CLASSES)[:images]
    return TensorDataset(torch.randn(images, 1, SIZE, SIZE, generator=source), labels)


def loader(images: int = IMAGES, **options: Any) -> DataLoader[Any]:
    """Return shuffled batches, whose order comes from the global random state."""
    return DataLoader(data(images), **{"batch_size": 4, "shuffle": True, **options})


class Network(nn.Module):
    """Convolutions with normalization, functional and other activations, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.first = nn.Conv2d(1, 4, 3)
            self.norm = nn.BatchNorm2d(4)
            self.second = nn.Conv2d(4, 5, 3)
            self.active = nn.ReLU()
            self.drop = nn.Dropout(0.3)
            self.last = nn.Linear(5 * 2 * 2, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        hidden = relu(self.norm(self.first(images)))
        return self.last(self.drop(self.active(self.second(hidden))).flatten(1))


class Images(LightningModule):
    """A user's module: it knows nothing of measurements."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Network()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def loss(self, batch: Any) -> Tensor:
        return cross_entropy(self(batch[0].to(self.dtype)).float(), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", self.loss(batch), batch_size=4)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Validated(Images):
    """Is validated, too."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.test_step(batch, batch_idx)


def fit(
    *callbacks: Callback, module: Any = None, train: Any = None, ckpt_path: str | None = None, **options: Any
) -> Trainer:
    """Train for two epochs and return the trainer."""
    run = trainer(*callbacks, **{"max_epochs": 2, **options})
    torch.manual_seed(0)
    run.fit(Images() if module is None else module, loader() if train is None else train, ckpt_path=ckpt_path)
    return run


def expected(
    module: nn.Module, layer: str, dataset: TensorDataset | None = None, after: Any = None, **options: Any
) -> dict[str, Tensor]:
    """Return what a layer's channels are specialized in, from all images at once."""
    images, labels = (data() if dataset is None else dataset).tensors
    heard: list[Tensor] = []
    handle = module.get_submodule(layer).register_forward_hook(lambda *call: heard.append(call[-1].clone()))
    was_training = module.training
    with torch.no_grad():
        module.eval()(images)
    handle.remove()
    module.train(was_training)
    metric = ClassSpecialization(CLASSES, **options)
    metric.update(heard[0] if after is None else after(heard[0]), labels)
    return metric.compute()


def assert_close(left: dict[str, Tensor], right: dict[str, Tensor], **tolerance: float) -> None:
    """Compare two results."""
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(
            left[name], right[name], equal_nan=True, **(tolerance or {"rtol": 1e-5, "atol": 1e-7})
        )
