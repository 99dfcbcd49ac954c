"""The callback's cost in a step of a small network: beyond that of a plain hook, as a share of a Trainer step.

    python benchmarks/step_overhead.py [--rounds 30] [--steps 160]

Three layers of about 20,000 weights (784-24-24-10), batches of 32, SGD with momentum. Compared are a Trainer without
anything, one with a callback of five lines that multiplies each weight by its mask after every optimizer step, and one
with SparseMomentumCallback. The first is a step of Lightning; the difference of the others is what following
optimizers, counting steps and looking out for changed weights cost. A larger network hides it.

One thread, CPU time. A round is one fit, in which the three take turns of 16 steps: so they have the same memory, and
on a busy machine the same neighbours. Whose turn it is has its callback in the Trainer's list and its hooks at the
optimizer, and nobody else has. The first turn of each doesn't count, as the process warms up, nor do the first steps
of a turn, as its hooks are new. The figure of a round is the median of each one's steps, and the result the median over
the rounds. Without `--rounds` and `--steps` it takes a
minute.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_sparse import SparseMomentumCallback

NAMES = ("no callback", "plain hook", "SparseMomentumCallback")
# Steps of a turn, and how many of them do not count as the hooks are new.
TURN, SETTLING = 16, 4


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

    def attach(self, module: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Register the hook."""
        weights = [layer.weight for layer in module.modules() if isinstance(layer, nn.Linear)]
        masked = [(weight, (torch.rand_like(weight) < 0.05).float()) for weight in weights]

        def mask(*_: Any) -> None:
            with torch.no_grad():
                for weight, values in masked:
                    weight.mul_(values)

        self._handle = optimizer.register_step_post_hook(mask)

    def detach(self) -> None:
        """Remove the hook."""
        self._handle.remove()


class Turns(Callback):
    """Lets the three take turns, and takes the CPU time at the start of every batch.

    Attributes:
        ours: The callback whose cost is asked for; it has the first turn.
        times: Seconds of each step that counts, by the name of whose turn it was.
    """

    def __init__(self) -> None:
        self.ours, self._plain = SparseMomentumCallback(density=0.05), PlainHook()
        self.times: dict[str, list[float]] = {name: [] for name in NAMES}
        self._now, self._begin = NAMES[-1], 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Take the time of the step that has ended, or begin the next turn."""
        end = time.process_time()
        turn, position = divmod(batch_idx, TURN)
        if position > SETTLING and turn >= len(NAMES):
            self.times[self._now].append(end - self._begin)
        elif position == 0:
            self._change(trainer, NAMES[turn % 3 - 1])
        self._begin = time.process_time()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let ours be in the list when the fit ends, which it then lets go of."""
        self._change(trainer, NAMES[-1])

    def _change(self, trainer: Trainer, name: str) -> None:
        before, self._now, optimizer = self._now, name, trainer.optimizers[0]
        assert self.ours.network is not None
        if before == name:
            return
        if before == "plain hook":
            self._plain.detach()
        elif before == "SparseMomentumCallback":
            self.ours.network.detach()
        callbacks: list[Callback] = [self]
        if name == "plain hook":
            self._plain.attach(trainer.lightning_module, optimizer)
            callbacks.append(self._plain)
        elif name == "SparseMomentumCallback":
            self.ours.network.attach(optimizer)
            callbacks.append(self.ours)
        trainer.callbacks = callbacks  # type: ignore[attr-defined]  # an attribute that Lightning does not declare


def measure_round(steps: int) -> dict[str, list[float]]:
    """Return the seconds of the steps that count of one fit, by name.

    Args:
        steps: Number of steps of each of the three.
    """
    turns = Turns()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[turns, turns.ours],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(SmallNetwork(len(NAMES) * (steps + TURN)))
    return turns.times


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="Number of fits.")
    parser.add_argument("--steps", type=int, default=160, help=f"Steps of each in a round, a multiple of {TURN}.")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    for number in range(options.rounds + 1):
        for name, times in measure_round(options.steps).items():
            found[name] += [1e6 * statistics.median(times)] if number else []  # the first round warms up
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
