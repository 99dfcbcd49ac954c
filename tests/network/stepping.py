"""Steps with given gradients, and what an average of them is then."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_sparse.network.signals import Signals

LR = 0.01
GRADIENTS = [torch.tensor([[3.0, -1.0, 0.0]]), torch.tensor([[-2.0, 0.5, 0.0]]), torch.tensor([[1.0, 4.0, 1e-3]])]
AVERAGE = 0.1 * (0.81 * GRADIENTS[0] + 0.9 * GRADIENTS[1] + GRADIENTS[2])


def weights(count: int = 1) -> list[Parameter]:
    return [Parameter(torch.ones(1, 3)) for _ in range(count)]


def follow(parameters: Sequence[Parameter], *optimizers: Optimizer) -> Signals:
    signals = Signals({f"w{index}": parameter for index, parameter in enumerate(parameters)})
    for optimizer in optimizers:
        signals.follow(optimizer, track_momentum=True, after_step=lambda names: None)
    return signals


def take_steps(*optimizers: Optimizer, gradients: Sequence[Tensor] = GRADIENTS) -> None:
    for gradient in gradients:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = gradient.clone()
            optimizer.step()
