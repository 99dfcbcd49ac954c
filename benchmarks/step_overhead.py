"""The callback's cost in a step of a small network: beyond that of a plain hook, as a share of a Trainer step.

    python benchmarks/step_overhead.py [--rounds 40] [--steps 300]

Three layers of about 20,000 weights (784-24-24-10), batches of 32, SGD with momentum. Compared are a Trainer without
anything, one with a callback of five lines that multiplies each weight by its mask after every optimizer step, and one
with SparseMomentumCallback. The first is a step of Lightning; the difference of the others is what following
optimizers, counting steps and looking out for changed weights cost. A larger network hides it. One thread, CPU time,
the three in turn in every round. Of a round's steps the tenth percentile counts: on a busy machine most steps are
slowed down by others. Without `--steps` and `--rounds` it takes two minutes.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_sparse import SparseMomentumCallback


class SmallNetwork(LightningModule):
    """Has three layers, and one batch for all steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(784, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 10))
        self.images, self.steps = torch.randn(32, 784), steps

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return a loss."""
        return self.net(self.images).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD with momentum."""
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9)

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Return as many batches as there are steps."""
        return DataLoader(torch.zeros(self.steps, 1), batch_size=1)  # type: ignore[arg-type]  # a tensor is a data set


class PlainHook(Callback):
    """Masks weights after every step, and does nothing else."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Register the hook."""
        weights = [module.weight for module in pl_module.modules() if isinstance(module, nn.Linear)]
        masked = [(weight, (torch.rand_like(weight) < 0.05).float()) for weight in weights]

        def mask(*_: Any) -> None:
            with torch.no_grad():
                for weight, values in masked:
                    weight.mul_(values)

        trainer.optimizers[0].register_step_post_hook(mask)


class Clock(Callback):
    """Takes the CPU time at the start of every batch."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        """Take the time."""
        self.times.append(time.process_time())


def microseconds_per_step(callback: Callback | None, steps: int) -> float:
    """Return the tenth percentile of the steps of one run, after the first tenth of them."""
    clock = Clock()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[clock] if callback is None else [clock, callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(SmallNetwork(steps))
    times = clock.times[steps // 10 :]
    return 1e6 * statistics.quantiles((after - before for before, after in pairwise(times)), n=10)[0]


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    made: dict[str, Callable[[], Callback | None]] = {
        "no callback": lambda: None,
        "plain hook": PlainHook,
        "SparseMomentumCallback": lambda: SparseMomentumCallback(density=0.05),
    }
    found: dict[str, list[float]] = {name: [] for name in made}
    for number in range(options.rounds + 1):
        for name, make in made.items():
            step = microseconds_per_step(make(), options.steps)
            found[name] += [step] if number else []  # the first round warms up
    for name, values in found.items():
        print(f"{name:<24} median {statistics.median(values):8.1f} us a step, of {options.rounds} rounds")
    bare, hook, ours = found.values()
    shares = [(own - plain) / step for own, plain, step in zip(ours, hook, bare, strict=True)]
    quarters = statistics.quantiles(shares, n=4)
    print(
        f"(SparseMomentumCallback - plain hook) / no callback: median {statistics.median(shares):.4f} "
        f"(quartiles {quarters[0]:.4f} to {quarters[2]:.4f})"
    )


if __name__ == "__main__":
    main()
