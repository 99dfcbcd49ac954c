r"""The cost of making many tiny runs by `lightning-sparse reproduce`: their processes, and the command's own share.

    python benchmarks/runs_through_engine.py [--runs 3] [--jobs 1]
    python benchmarks/two_trees.py BEFORE . --limit 1.1 --metric 'seconds ([0-9.]+)' \
        python "$PWD/benchmarks/runs_through_engine.py"

Each run trains LeNet-300-100 for 3 epochs of 16 small batches of noise, which takes less time than the start of its
process. Prints the CPU seconds of the command with all its runs, and the seconds that passed. The second command
compares two checkouts, in turns, with 45 runs each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

COMMAND = "from lightning_sparse.cli import main; main()"


def main() -> None:
    """Make the runs and print what they cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="Number of runs.")
    parser.add_argument("--jobs", type=int, default=1, help="Number of runs at the same time.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "mnist.npz")
        rows = ["reproduce", "table1", "--scale", "small", "--rows", "mnist_lenet300_5", "--seeds", str(options.runs)]
        places = ["--data", folder, "--results", f"{folder}/results", "--jobs", str(options.jobs)]
        before, began = os.times(), time.monotonic()
        subprocess.run([sys.executable, "-c", COMMAND, *rows, *places], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        made = len(list(Path(folder, "results").rglob("seed*.json")))
        if made != options.runs:
            sys.exit(f"{made} of {options.runs} runs have a result")
    print(f"{made} runs: CPU seconds {spent:.2f}, passed {time.monotonic() - began:.2f}")


def write_images(file: Path) -> None:
    """Write images of noise in the format of MNIST."""
    source, arrays = np.random.default_rng(0), {}
    for name, count in (("train", 512), ("test", 200)):
        arrays[f"x_{name}"] = source.integers(0, 255, (count, 28, 28)).astype(np.uint8)
        arrays[f"y_{name}"] = np.arange(count) % 10
    np.savez(file, **arrays)


if __name__ == "__main__":
    main()
