"""Cost of a whole run through `lightning-sparse reproduce` against a bare PyTorch loop, all processes included.

    python benchmarks/reproduced_run.py --data FOLDER [--rounds 1]

LeNet-300-100 at 5 % weights on MNIST in the paper's protocol, by the command (Trainer, configuration, checkpoints
every two minutes, test, table) and by the bare loop of `training_run.py`, which has the same mathematics. Both run at
the same time, each on one thread, so that other work on the machine slows both; CPU time of the whole processes,
children included. Needs two cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import report

BARE = """
import sys, torch
from training_run import bare_run
from lightning_sparse.data import MNISTDataModule
torch.set_num_threads(1)
data = MNISTDataModule(sys.argv[1], download=False, val_fraction=0.1, split_seed=None)
data.setup("fit")
train, val = data.train_dataloader(), data.val_dataloader()
print(bare_run((train.images, train.labels), (val.images, val.labels), int(sys.argv[2])))
"""


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process, and return the CPU time of it and of its children."""
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"a process ended with status {status}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    data = str(options.data.resolve())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    seconds: dict[str, list[float]] = {"reproduce": [], "bare loop": []}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as results:
            command = ["reproduce", "table1", "--rows", "mnist_lenet300_5", "--seeds", "1", "--download", "false"]
            reproduce = [sys.executable, "-m", "lightning_sparse", *command, "--data", data, "--results", results]
            start = time.monotonic()
            processes = {
                name: subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                for name, arguments in (
                    ("reproduce", reproduce),
                    ("bare loop", [sys.executable, "-c", BARE, data, "100"]),
                )
            }
            for name, process in processes.items():
                seconds[name].append(cpu_seconds(process))
            print(f"both took {time.monotonic() - start:.0f} s", file=sys.stderr)
    report(seconds, "reproduce", "bare loop")


if __name__ == "__main__":
    main()
