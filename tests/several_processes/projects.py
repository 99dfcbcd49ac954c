"""Three projects that know nothing of this package: automatic and manual optimization, and a GAN."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.optim import SGD, Adam, Optimizer
from torch.utils.data import TensorDataset

SIDE, CLASSES, IMAGES, BATCH = 6, 4, 32, 8
LATENT = 5


def convolutions(outputs: int) -> nn.Sequential:
    """Return a network whose outputs don't depend on which images a batch is made of."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.GroupNorm(2, 6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * (SIDE - 4) ** 2, outputs),
    )


class Classifier(LightningModule):
    """Automatic optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.net = convolutions(CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(batch, CLASSES)``."""
        return self.net(images)  # type: ignore[no-any-return]  # nn.Module.__call__ returns Any

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor | None:
        """Return the loss."""
        images, labels = batch
        return cross_entropy(self(images), labels)

    def configure_optimizers(self) -> Any:
        """Train all parameters."""
        return SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


class ManualClassifier(Classifier):
    """Manual optimization, which steps after every second batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Accumulate by hand."""
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss / 2)
        if batch_idx % 2 == 1:
            optimizer = self.optimizers()
            optimizer.step()  # type: ignore[union-attr]  # there is one
            optimizer.zero_grad()  # type: ignore[union-attr]  # there is one


class Gan(LightningModule):
    """Two optimizers; calling it generates images, and labels are not used."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(LATENT, 20), nn.ReLU(), nn.Linear(20, SIDE * SIDE), nn.Tanh())
        self.discriminator = convolutions(1)

    def forward(self, noise: Tensor) -> Tensor:
        """Return images ``(batch, 1, SIDE, SIDE)``."""
        images: Tensor = self.generator(noise).unflatten(1, (1, SIDE, SIDE))
        return images

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Train the generator, then the discriminator."""
        real = batch[0]
        noise = real.flatten(1)[:, :LATENT]  # from the images, so that each image has the same noise in any process
        generator, discriminator = self.optimizers()  # type: ignore[misc, attr-defined]  # two of them
        one, zero = torch.ones_like(real[:, 0, 0, :1]), torch.zeros_like(real[:, 0, 0, :1])

        self.toggle_optimizer(generator)
        fooled = binary_cross_entropy_with_logits(self.discriminator(self(noise)), one)
        generator.zero_grad()
        self.manual_backward(fooled)
        generator.step()
        self.untoggle_optimizer(generator)

        self.toggle_optimizer(discriminator)
        error = binary_cross_entropy_with_logits(self.discriminator(real), one)
        error = error + binary_cross_entropy_with_logits(self.discriminator(self(noise).detach()), zero)
        discriminator.zero_grad()
        self.manual_backward(error / 2)
        discriminator.step()
        self.untoggle_optimizer(discriminator)

    def configure_optimizers(self) -> list[Optimizer]:
        """Train the two networks by an optimizer each."""
        return [Adam(net.parameters(), lr=0.01, betas=(0.5, 0.999)) for net in (self.generator, self.discriminator)]


PROJECTS: dict[str, type[LightningModule]] = {"automatic": Classifier, "manual": ManualClassifier, "gan": Gan}


def classifier_of(module: LightningModule) -> nn.Module:
    """Return the network of a project that takes images."""
    network = module.discriminator if isinstance(module, Gan) else module.net
    assert isinstance(network, nn.Module)
    return network


def images(dtype: torch.dtype = torch.float32) -> TensorDataset:
    """Return images ``(IMAGES, 1, SIDE, SIDE)``, brighter by class, and labels."""
    source = torch.Generator().manual_seed(7)
    labels = torch.arange(IMAGES) // 2 % CLASSES
    pictures = torch.randn(IMAGES, 1, SIDE, SIDE, generator=source)
    return TensorDataset((pictures + labels[:, None, None, None] / 4).to(dtype), labels)
