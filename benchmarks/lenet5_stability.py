"""How far LeNet-5-Caffe at 5 % weights is from divergence: the loss after its first two topology updates.

    python benchmarks/lenet5_stability.py --library PATH --data FOLDER [--seeds 8]

Trains three epochs of the paper's protocol of 100 (learning rate 0.1, prune rate 0.5 at first) with the original
authors' library and with ours, as `parity.py` does, and prints per seed, for the second and third epoch, which begin
with an update: the highest loss of a batch among the first 60, and the mean of the last 100. A mean above 1 is a
network that has not recovered; the loss of guessing is 2.3. PATH and FOLDER are as for `parity.py`.
"""

from __future__ import annotations

import argparse
import math
from itertools import islice
from pathlib import Path
from statistics import fmean

import torch
from parity import DECAY, Ours, Theirs, mnist, use_library
from torch.nn.functional import cross_entropy

from lightning_sparse.models import LeNet5Caffe

EPOCHS, SHOWN = 100, 3


def losses_by_epoch(kind: type[Theirs | Ours], folder: Path, seed: int) -> list[list[float]]:
    """Train the first epochs, and return the loss of every batch; it ends where one is not finite."""
    torch.manual_seed(seed)
    loader = mnist(folder).train_dataloader()
    run = kind(0.05, EPOCHS * len(loader), LeNet5Caffe)
    schedule = DECAY(run.optimizer)
    found: list[list[float]] = []
    for epoch in range(1, SHOWN + 1):
        found.append([])
        for images, labels in loader:
            run.optimizer.zero_grad()
            loss = cross_entropy(run.model(images), labels)
            loss.backward()
            run.step()
            schedule.step()
            found[-1].append(loss.item())
            if not math.isfinite(found[-1][-1]):
                return found
        run.update(epoch, EPOCHS)
    return found


def main() -> None:
    """Read the options, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    use_library(options.library)
    names: dict[str, type[Theirs | Ours]] = {"theirs": Theirs, "ours": Ours}
    lost = dict.fromkeys(names, 0)
    for seed in range(options.seeds):
        for name, kind in names.items():
            after = list(islice(losses_by_epoch(kind, options.data, seed), 1, None))
            parts = [f"highest {max(epoch[:60]):10.4g}, later {fmean(epoch[-100:]):8.4g}" for epoch in after]
            lost[name] += any(not fmean(epoch[-100:]) < 1 for epoch in after)
            print(f"seed {seed}, {name:>6}: {'; '.join(parts)}", flush=True)
    print(*(f"{name}: {count} of {options.seeds} have not recovered" for name, count in lost.items()), sep="\n")


if __name__ == "__main__":
    main()
