"""Time of a training step on a GPU, and the share in which the GPU is busy, by network and way of running.

    python benchmarks/gpu_steps.py [--data ROOT] [--jobs 1] [--epochs 1] [--rows 'lenet*' '* graph']

Every row is a shipped sparse configuration, trained as `lightning-sparse reproduce` does, in one of these ways:

    eager                        kernel by kernel (float32, in convolutions TF32)
    graph                        as configured: forward and backward pass are a CUDA graph
    reduce-overhead              torch.compile with this mode, whose graphs replace ours
    eager, 16 bits               kernel by kernel, with `--trainer.precision bf16-mixed`
    reduce-overhead, 16 bits     both
    graph, compiled, 16 bits     our graph of what torch.compile makes of the network, `--compile_mode default`

All rows are prepared at once, each in a process of its own, and then train one after the other: some steps to warm up,
then the timed steps of `--epochs`, with validation and a topology update, then some more in which the profiler measures
how long the GPU is busy. If it is busy nearly all of the time, steps are bound by the GPU; else by Python. With
`--jobs`, this many processes of each row train at the same time, and share the GPU. `--rows` are patterns of names such
as 'vgg16-d graph'. ROOT has `mnist.npz` and `cifar10.npz`; without it, random images of the same number and size are
used.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from lightning_sparse.experiments.setting import FULL, Experiment, Setting
from lightning_sparse.experiments.sparse_cli import SparseCLI

NETWORKS = {
    "lenet-300-100": "mnist_lenet300_5",
    "lenet-5-caffe": "mnist_lenet5_5",
    "alexnet-s": "cifar10_alexnet_s_10",
    "vgg16-d": "cifar10_vgg16_d_5",
    "wrn-28-2": "mostafa_cifar10_wrn_28_2_10",
}
_BF16 = {"precision": "bf16-mixed"}
# Options of the Trainer, of torch.compile, and whether steps are recorded.
WAYS: dict[str, tuple[dict[str, Any], str | None, bool]] = {
    "eager": ({}, None, False),
    "graph": ({}, None, True),
    "reduce-overhead": ({}, "reduce-overhead", True),
    "eager, 16 bits": (_BF16, None, False),
    "reduce-overhead, 16 bits": (_BF16, "reduce-overhead", True),
    "graph, compiled, 16 bits": (_BF16, "default", True),
}
WARM, PROFILED = 40, 25  # steps
SIZES = {"mnist": (60_000, 10_000, (28, 28)), "cifar10": (50_000, 10_000, (32, 32, 3))}


class Stopwatch(Callback):
    """Wait for a signal after the first steps, time some epochs, and end the run a little later.

    Args:
        epochs: Number of timed epochs, from the middle of one to the middle of another.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.found: dict[str, float] = {}
        self._start = self._cpu = 0.0
        has_gpu = torch.cuda.is_available()
        self._profile = profile(activities=[ProfilerActivity.CUDA if has_gpu else ProfilerActivity.CPU])

    def on_train_batch_start(self, trainer: Trainer, pl_module: object, batch: object, batch_idx: int) -> None:
        """Start and stop the clock and the profiler."""
        place = (trainer.current_epoch, batch_idx)
        if place == (0, WARM):
            _synchronize()
            print("ready", flush=True)
            if not sys.stdin.readline():  # who would give the sign is gone
                sys.exit(1)
            self._start, self._cpu = time.perf_counter(), time.process_time()
        elif place == (self.epochs, WARM):
            _synchronize()
            seconds, cpu = time.perf_counter() - self._start, time.process_time() - self._cpu
            steps = self.epochs * float(trainer.num_training_batches)
            self.found = {"ms": 1e3 * seconds / steps, "cpu_ms": 1e3 * cpu / steps, "epoch": seconds / self.epochs}
            self._profile.start()
        elif place == (self.epochs, WARM + PROFILED):
            _synchronize()
            self._profile.stop()
            if torch.cuda.is_available():
                self.found["busy_ms"] = _busy_milliseconds(self._profile) / PROFILED
            trainer.should_stop = True
            trainer.limit_val_batches = 0


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _busy_milliseconds(profiled: profile) -> float:
    """Return how long the GPU was busy: the length of the union of its activities."""
    events = [event.time_range for event in profiled.events() if event.device_type == DeviceType.CUDA]
    busy, end = 0.0, 0.0
    for span in sorted(events, key=lambda span: span.start):
        busy += max(0.0, span.end - max(span.start, end))
        end = max(end, span.end)
    return busy / 1e3


def measure(config: str, way: str, data: Path, epochs: int, accelerator: str) -> dict[str, float]:
    """Train a configuration and return the time of a step in milliseconds and of an epoch in seconds."""
    trainer, compile_mode, cuda_graph = WAYS[way]
    scale = FULL.with_options({**trainer, "accelerator": accelerator}, compile_mode)
    setting = Setting(config)
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    arguments = [
        *Experiment(setting, 0, scale).arguments(),
        *setting.data_arguments(data, download=False),
        *[f"--trainer.{option}=false" for option in quiet],
        f"--model.init_args.cuda_graph={str(cuda_graph).lower()}",
    ]
    cli = SparseCLI(arguments, run=False)
    watch = Stopwatch(epochs)
    cli.trainer.callbacks.append(watch)
    cli.trainer.fit(cli.model, cli.datamodule)
    return watch.found


def write_random_images(root: Path) -> None:
    """Write random data sets of the same sizes as the real ones."""
    generator = np.random.default_rng(0)
    for name, (train, test, shape) in SIZES.items():
        arrays = {}
        for split, count in (("train", train), ("test", test)):
            arrays[f"x_{split}"] = generator.integers(0, 256, (count, *shape), dtype=np.uint8)
            arrays[f"y_{split}"] = generator.integers(0, 10, count, dtype=np.uint8)
        np.savez(root / f"{name}.npz", **arrays)


def start(network: str, way: str, data: Path, options: argparse.Namespace) -> subprocess.Popen[str]:
    """Start a process that prepares to measure a row."""
    worker = ["--worker", NETWORKS[network], way]
    shared = ["--data", str(data), "--epochs", str(options.epochs), "--accelerator", options.accelerator]
    return subprocess.Popen(
        [sys.executable, __file__, *worker, *shared], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    """Wait until a process is ready, or has ended."""
    while (line := process.stdout.readline()) and line != "ready\n":  # type: ignore[union-attr]  # a pipe
        pass


def finish(together: list[subprocess.Popen[str]]) -> list[dict[str, float]]:
    """Let prepared processes train at the same time, and return their measurements."""
    for process in together:
        if process.poll() is None:
            process.stdin.write("go\n")  # type: ignore[union-attr]  # a pipe
            process.stdin.flush()  # type: ignore[union-attr]  # a pipe
    outputs = [process.communicate()[0].strip().splitlines() for process in together]
    return [json.loads(lines[-1]) for lines, process in zip(outputs, together, strict=True) if process.returncode == 0]


def show(network: str, way: str, found: list[dict[str, float]], jobs: int) -> None:
    """Print a row."""
    name = f"{network:<14} {way:<25}"
    if len(found) < jobs:
        print(f"{name} failed", flush=True)
        return
    steps = sum(1e3 / each["ms"] for each in found)
    first = found[0]
    busy = f", GPU busy {first['busy_ms']:.3f} ms, {first['busy_ms'] / first['ms']:4.0%}" if "busy_ms" in first else ""
    alone = f"{first['ms']:.3f} ms a step{busy}, CPU {first['cpu_ms']:.3f} ms, {first['epoch']:.2f} s an epoch"
    print(f"{name} {alone if jobs == 1 else f'{jobs} at once'}: {steps:,.0f} steps a second", flush=True)


def main() -> None:
    """Read the options, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rows", nargs="+", default=["*"])
    parser.add_argument("--accelerator", default="gpu")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(*options.worker, options.data, options.epochs, options.accelerator)))
        return
    pairs = [(network, way) for network in NETWORKS for way in WAYS]
    rows = [pair for pair in pairs if any(fnmatchcase(" ".join(pair), pattern) for pattern in options.rows)]
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or Path(folder)
        if options.data is None:
            write_random_images(data)
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
        print(f"{device}, PyTorch {torch.__version__}, {options.jobs} at once", flush=True)
        started = [[start(*row, data, options) for _ in range(options.jobs)] for row in rows]
        for process in [process for together in started for process in together]:
            wait_until_ready(process)  # all of them: compilation and first epochs would disturb the others' times
        for row, together in zip(rows, started, strict=True):
            show(*row, finish(together), options.jobs)


if __name__ == "__main__":
    main()
