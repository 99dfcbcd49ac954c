"""Train LeNet-300-100 on the real MNIST as the paper does, several seeds, and print the table.

    python benchmarks/mnist_lenet300.py --data FOLDER [--densities 0.05 1] [--seeds 0 1 2] [--jobs 2] [--download]

FOLDER is the root of torchvision's MNIST. Each run is what `lightning-sparse fit --config mnist_lenet300` does, then a
test after the last epoch, on one thread; density 1 is the configuration without the callback. A finished run is a JSON
file under benchmarks/results/mnist_lenet300 and is skipped the next time. The paper's protocol: batch 100, SGD 0.1 with
Nesterov momentum 0.9, weight decay 5e-4, learning rate x0.1 every 25,000 steps, 10 % validation, 100 epochs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "mnist_lenet300"
# Test error in % and its standard error (Dettmers & Zettlemoyer 2019, Table 1).
PUBLISHED = {
    0.01: "2.36 +- 0.044",
    0.02: "1.99 +- 0.019",
    0.05: "1.53 +- 0.020",
    0.2: "1.26 +- 0.017",
    1.0: "1.34 +- 0.011",
}


def train(data: Path, density: float, seed: int, epochs: int, download: bool) -> dict[str, object]:
    """Train and test once in this process; errors in %, CPU time in seconds."""
    import torch

    from lightning_sparse.cli import SparseCLI

    torch.set_num_threads(1)
    config = "mnist_lenet300" if density < 1 else "mnist_lenet300_dense"
    arguments = [
        *("--config", config, "--seed_everything", str(seed)),
        *("--data.init_args.data_dir", str(data), "--data.init_args.download", str(download).lower()),
        *("--trainer.accelerator", "cpu", "--trainer.max_epochs", str(epochs), "--trainer.logger", "false"),
        *("--trainer.enable_checkpointing", "false", "--trainer.enable_progress_bar", "false"),
    ]
    if density < 1:
        arguments += ["--trainer.callbacks.init_args.density", str(density)]
    cli = SparseCLI(arguments, run=False)
    start = time.process_time()
    cli.trainer.fit(cli.model, cli.datamodule)
    seconds = time.process_time() - start
    tested = cli.trainer.test(cli.model, cli.datamodule, verbose=False)[0]
    weights = [parameter for parameter in cli.model.parameters() if parameter.dim() > 1]
    return {
        "density": density,
        "seed": seed,
        "epochs": epochs,
        "test_error_percent": round(100 * (1 - tested["test/accuracy"]), 4),
        "nonzero_weights": sum(int((weight != 0).sum()) for weight in weights),
        "nonzero_by_layer": [int((weight != 0).sum()) for weight in weights],
        "cpu_seconds": round(seconds, 1),
    }


def run_missing(data: Path, densities: Iterable[float], seeds: Iterable[int], jobs: int, options: list[str]) -> None:
    """Run what has no result yet, each run in a process of its own."""

    def run(job: tuple[float, int]) -> None:
        density, seed = job
        command = [sys.executable, __file__, "--data", str(data), "--one", str(density), str(seed), *options]
        subprocess.run(command, check=True)

    missing = [(density, seed) for density in densities for seed in seeds if not _file(density, seed).exists()]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, missing))


def table() -> str:
    """Return all results as Markdown."""
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    lines = ["| weights | test error, mean +- standard error | paper | per seed |", "|---|---|---|---|"]
    for density in sorted({run["density"] for run in runs}):
        errors = [run["test_error_percent"] for run in runs if run["density"] == density]
        spread = f" +- {statistics.stdev(errors) / len(errors) ** 0.5:.3f}" if len(errors) > 1 else ""
        each = ", ".join(f"{error:.2f}" for error in errors)
        lines.append(
            f"| {100 * density:g} % | {statistics.mean(errors):.3f}{spread} % | {PUBLISHED.get(density, '')} | {each} |"
        )
    return "\n".join(lines)


def _file(density: float, seed: int) -> Path:
    return RESULTS / f"density{density:g}_seed{seed}.json"


def main() -> None:
    """Read the options, run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.05])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--download", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("DENSITY", "SEED"), help="run only this and write its file")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if options.one:
        density, seed = float(options.one[0]), int(options.one[1])
        result = train(options.data, density, seed, options.epochs, options.download)
        _file(density, seed).write_text(json.dumps(result, indent=1) + "\n")
        return
    passed_on = ["--epochs", str(options.epochs), *(["--download"] if options.download else [])]
    run_missing(options.data, options.densities, options.seeds, options.jobs, passed_on)
    (RESULTS.parent / "mnist_lenet300.md").write_text(table() + "\n")
    print(table())


if __name__ == "__main__":
    main()
