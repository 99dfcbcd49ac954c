"""How often LeNet-5-Caffe at 5 % weights diverges in its first epochs, with the original authors' library and ours.

    python benchmarks/lenet5_stability.py --library PATH --data FOLDER [--epochs 5] [--seeds 8] [KIND ...]

Trains the first epochs of the paper's protocol of 100 (learning rate 0.1, prune rate 0.5 at first), as `parity.py`
does. Every epoch but the first begins with a topology update. Prints per seed and epoch the highest loss of a batch
among the first 60 and the mean of the last 100. A network whose mean loss is that of guessing, 2.3, or not finite, is
lost, and its training ends. KIND: `theirs`, `ours`, or `clipped`, which is ours with gradients scaled down to a norm of
at most 1. PATH and FOLDER are as for `parity.py`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import torch
from parity import DECAY, Network, Ours, Theirs, mnist, use_library
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from lightning_sparse.models import LeNet5Caffe


class Clipped(Ours):
    """Our network, with the norm of all gradients limited to 1."""

    def __init__(self, density: float, steps: int, network: Network) -> None:
        super().__init__(density, steps, network)
        self.step = self._clipped_step

    def _clipped_step(self) -> None:
        clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


KINDS: dict[str, type[Theirs | Ours]] = {"theirs": Theirs, "ours": Ours, "clipped": Clipped}
WHOLE, GUESSING = 100, 2.29


def first_epochs(kind: type[Theirs | Ours], folder: Path, seed: int, epochs: int) -> Iterator[tuple[float, float]]:
    """Train, and yield the highest loss at the start and the mean loss at the end of every epoch."""
    torch.manual_seed(seed)
    loader = mnist(folder).train_dataloader()
    run = kind(0.05, WHOLE * len(loader), LeNet5Caffe)
    schedule = DECAY(run.optimizer)
    for epoch in range(1, epochs + 1):
        losses = []
        for images, labels in loader:
            run.optimizer.zero_grad()
            loss = cross_entropy(run.model(images), labels)
            loss.backward()
            run.step()
            schedule.step()
            losses.append(loss.item())
        yield max(math.inf if math.isnan(loss) else loss for loss in losses[:60]), fmean(losses[-100:])
        run.update(epoch, WHOLE)


def is_lost(loss: float) -> bool:
    """Tell whether a mean loss is that of guessing, or not finite."""
    return not math.isfinite(loss) or loss > GUESSING


def main() -> None:
    """Read the options, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), metavar="theirs | ours | clipped")
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    use_library(options.library)
    for name in options.kinds:
        lost = 0
        for seed in range(options.seeds):
            parts = []
            for highest, later in first_epochs(KINDS[name], options.data, seed, options.epochs):
                parts.append(f"{highest:.3g} -> {later:.3g}")
                if is_lost(later):
                    parts.append("lost")
                    lost += 1
                    break
            print(f"{name}, seed {seed}: {'; '.join(parts)}", flush=True)
        print(f"{name}: {lost} of {options.seeds} lost", flush=True)


if __name__ == "__main__":
    main()
