"""Measuring and logging gradient flow: its share of a training step of VGG16 on CIFAR-sized images.

    python benchmarks/gradient_flow.py [--batch 128] [--rounds 5]

Trains in a Trainer, with sparse training and a CSV log, and prints the CPU time of `GradientFlowCallback` per step when
it measures and logs every step, relative to the whole step without it (forward, backward, SGD with momentum, masks), in
one run on one thread. Then the same when it measures every 50th step, as the mean over 50.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from mask_enforcement import vgg16
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_sparse import GradientFlowCallback, SparseMomentumCallback


class Module(LightningModule):
    """VGG16 with SGD."""

    def __init__(self) -> None:
        super().__init__()
        self.model = vgg16()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the cross-entropy."""
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD with momentum."""
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


class Clock:
    """Add up the CPU time of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.process_time() - start

        return timed


def shares(every: int, batch: int, steps: int, folder: str) -> float:
    """Return the CPU time of the callback, relative to that of the steps without it."""
    flow, clock = GradientFlowCallback(every_n_steps=every), Clock()
    for hook in ("on_before_optimizer_step", "on_train_batch_end", "on_train_epoch_end"):
        setattr(flow, hook, clock.around(getattr(flow, hook)))
    images = TensorDataset(torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,)))
    repeated = torch.utils.data.ConcatDataset([images] * steps)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[SparseMomentumCallback(density=0.05), flow],
        logger=CSVLogger(folder, flush_logs_every_n_steps=10),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    start = time.process_time()
    trainer.fit(Module(), DataLoader(repeated, batch_size=batch))
    return clock.seconds / (time.process_time() - start - clock.seconds)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        # The start of a fit is no step, and the timed hooks of the callback take no part in it.
        always = [shares(1, options.batch, 10, folder) for _ in range(options.rounds)]
        seldom = [shares(5, options.batch, 10, folder) / 10 for _ in range(options.rounds)]
    for name, found in (("every step", always), ("every 50th step", seldom)):
        rounds = f"rounds {min(found):.5f} to {max(found):.5f}"
        print(f"gradient flow {name} / step without it: {statistics.median(found):.5f}, {rounds}")


if __name__ == "__main__":
    main()
