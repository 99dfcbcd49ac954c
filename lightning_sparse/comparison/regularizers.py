"""The regularizers of same-capacity studies, alone and together: what each changes in a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.optim import Optimizer

from lightning_sparse._compat import Callback, LightningModule, Trainer
from lightning_sparse.validation.errors import InvalidValueError

NONE = "none"
# Batch normalization, skip connections, data augmentation, L2 and decoupled weight decay.
PARTS = ("bn", "sc", "da", "l2", "wd")


@dataclass(frozen=True)
class Regularizer:
    """A regularizer or several, by name: "none", "bn", "da_l2_sc_bn".

    Attributes:
        name: Names among "bn" (batch normalization), "sc" (skip connections), "da" (data augmentation), "l2" (the
            penalty, as the optimizer's weight decay) and "wd" (decoupled weight decay), joined by "_"; or "none".

    Raises:
        ValueError: If a name is unknown or comes twice.
    """

    name: str

    def __post_init__(self) -> None:
        if not set(self.parts) <= set(PARTS) or len(set(self.parts)) < len(self.parts):
            raise InvalidValueError(
                expected=f"a regularizer of {', '.join(PARTS)}, or several joined by _, or {NONE}",
                got=repr(self.name),
                cure="da_bn, for instance",
            )

    @property
    def parts(self) -> list[str]:
        """Names of its parts."""
        return [] if self.name == NONE else self.name.split("_")

    @property
    def batch_norm(self) -> bool:
        """Whether hidden layers have batch normalization."""
        return "bn" in self.parts

    @property
    def skip(self) -> bool:
        """Whether there are skip connections."""
        return "sc" in self.parts

    @property
    def augments(self) -> bool:
        """Whether training images are augmented."""
        return "da" in self.parts

    @property
    def penalizes(self) -> bool:
        """Whether half the squared norm of all parameters is added to the loss, by the optimizer's weight decay."""
        return "l2" in self.parts

    @property
    def decays(self) -> bool:
        """Whether parameters decay apart from the gradient."""
        return "wd" in self.parts


class DecoupledWeightDecay(Callback):
    """Multiplies all parameters by ``1 - learning rate * rate`` before each step, when gradients are there.

    For Adam this is AdamW (Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2), and the
    same for any optimizer.

    Args:
        rate: Weight decay, >= 0.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Let the parameters of an optimizer decay."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.mul_(1 - float(group["lr"]) * self.rate)
