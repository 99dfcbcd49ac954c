"""One sparse-momentum update of ResNet-50: CPU time and peak extra memory, ours against the original authors' library.

    python benchmarks/topology_update.py [--reference PATH] [--density 0.1] [--rounds 5]

PATH is a checkout of github.com/TimDettmers/sparse_learning. It runs on the CPU here: its calls of `.cuda()` return the
tensor itself. Both sides have the same weights, gradients and optimizer, and take an optimizer step before each timed
update, so that no regrown weight is still zero. One thread, CPU time, rounds interleaved.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torchvision
from timing import paired, report
from torch import nn

from lightning_sparse import SparseNetwork
from lightning_sparse.topology.recipes import SPARSE_MOMENTUM

PRUNE_RATE = 0.5


def trained_one_step(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return ResNet-50 (25.5 million weights) and SGD with a momentum buffer for each of them."""
    torch.manual_seed(seed)
    model = torchvision.models.resnet50()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 0.01
    return model, optimizer


def ours(density: float) -> tuple[Any, Any]:
    """Return a function that trains a `SparseNetwork` one step, and one that updates its topology once."""
    model, optimizer = trained_one_step()
    network = SparseNetwork(model, density, seed=0)
    network.attach(optimizer)
    return optimizer.step, lambda: network.rewire(SPARSE_MOMENTUM, PRUNE_RATE)


def reference(path: Path, density: float) -> tuple[Any, Any]:
    """Return the same two functions for the original authors' library."""
    sys.path.insert(0, str(path))
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    from sparselearning.core import CosineDecay, Masking

    model, optimizer = trained_one_step()
    mask = Masking(optimizer, CosineDecay(PRUNE_RATE, 10**9), prune_rate=PRUNE_RATE)
    with contextlib.redirect_stdout(io.StringIO()):
        mask.add_module(model, density=density)

    def update() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            mask.at_end_of_epoch()

    return mask.step, update


def print_peak_memory(density: float) -> None:
    """Print by how much the resident memory of this process grows at the peak of an update (Linux)."""
    step, update = ours(density)
    step()
    update()
    step()
    ctypes.CDLL(None).malloc_trim(0)  # else the first update reuses freed memory and nothing grows
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    update()
    extra = _status("VmHWM") - before
    largest = max(parameter.numel() * 4 for parameter in torchvision.models.resnet50().parameters())
    print(f"{extra / 2**20:.1f} MiB = {extra / largest:.2f} x the largest weight ({largest / 2**20:.1f} MiB)")


def measure_peak_memory(density: float) -> None:
    """Measure in two fresh processes: with the default malloc, and with one that returns freed blocks."""
    for label, setting in (("in use", {"MALLOC_MMAP_THRESHOLD_": "65536"}), ("with what malloc keeps", {})):
        command = [sys.executable, __file__, "--memory", "--density", str(density)]
        done = subprocess.run(command, env={**os.environ, **setting}, check=True, capture_output=True, text=True)
        print(f"peak extra memory, {label}: {done.stdout.strip()}")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="print only the peak memory, of this process")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print_peak_memory(options.density)
        return
    if sys.platform == "linux":
        measure_peak_memory(options.density)
    sides = {"lightning_sparse": ours(options.density)}
    if options.reference:
        sides["reference"] = reference(options.reference, options.density)
    steps = {name: step for name, (step, _) in sides.items()}
    seconds = paired({name: update for name, (_, update) in sides.items()}, options.rounds, prepare=steps)
    report(seconds, "reference" if options.reference else None, "lightning_sparse")


if __name__ == "__main__":
    main()
