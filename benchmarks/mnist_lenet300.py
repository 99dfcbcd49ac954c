"""Train LeNet-300-100 on the real MNIST as the paper does, several seeds, and print the table.

    python benchmarks/mnist_lenet300.py --data FOLDER [--densities 0.05 1] [--regrown kept zero] [--seeds 0 1 2]
        [--jobs 2] [--download]

FOLDER is the root of torchvision's MNIST. Each run is what `lightning-sparse fit --config mnist_lenet300` does, then a
test after the last epoch, on one thread; density 1 is the configuration without the callback. A finished run is a JSON
file under benchmarks/results/mnist_lenet300 and is skipped the next time. The paper's protocol: batch 100, SGD 0.1 with
Nesterov momentum 0.9, weight decay 5e-4, learning rate x0.1 every 25,000 steps, 10 % validation, 100 epochs.
"kept" and "zero" say what a weight that is pruned and regrown in one update starts from: its value (the authors' code,
and the configuration) or zero (their text, and the callback's default).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lightning_sparse.data import MNISTDataModule

RESULTS = Path(__file__).parent / "results" / "mnist_lenet300"
Job = tuple[float, str, int]  # density, regrown, seed
# Test error in % and its standard error (Dettmers & Zettlemoyer 2019, Table 1).
PUBLISHED = {
    0.01: "2.36 +- 0.044",
    0.02: "1.99 +- 0.019",
    0.05: "1.53 +- 0.020",
    0.2: "1.26 +- 0.017",
    1.0: "1.34 +- 0.011",
}


def train(data: Path, density: float, regrown: str, seed: int) -> dict[str, object]:
    """Train and test once in this process; errors in %, CPU time in seconds."""
    import torch

    from lightning_sparse.cli import SparseCLI

    torch.set_num_threads(1)
    config = "mnist_lenet300" if density < 1 else "mnist_lenet300_dense"
    arguments = [
        *("--config", config, "--seed_everything", str(seed)),
        *("--data.init_args.data_dir", str(data), "--data.init_args.download", "false"),
        *("--trainer.accelerator", "cpu", "--trainer.logger", "false"),
        *("--trainer.enable_checkpointing", "false", "--trainer.enable_progress_bar", "false"),
    ]
    if density < 1:
        arguments += ["--trainer.callbacks.init_args.density", str(density)]
        arguments += ["--trainer.callbacks.init_args.keep_regrown", str(regrown == "kept").lower()]
    cli = SparseCLI(arguments, run=False)
    start = time.process_time()
    cli.trainer.fit(cli.model, cli.datamodule)
    seconds = time.process_time() - start
    tested = cli.trainer.test(cli.model, cli.datamodule, verbose=False)[0]
    weights = [parameter for parameter in cli.model.parameters() if parameter.dim() > 1]
    return {
        "density": density,
        "regrown": regrown,
        "seed": seed,
        "epochs": cli.trainer.current_epoch,
        "test_error_percent": round(100 * (1 - tested["test/accuracy"]), 4),
        "nonzero_weights": sum(int((weight != 0).sum()) for weight in weights),
        "nonzero_by_layer": [int((weight != 0).sum()) for weight in weights],
        "cpu_seconds": round(seconds, 1),
    }


def run_missing(jobs: list[Job], processes: int, options: list[str]) -> None:
    """Run what has no result yet, each run in a process of its own."""

    def run(job: Job) -> None:
        subprocess.run([sys.executable, __file__, "--one", *map(str, job), *options], check=True)

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(run, [job for job in jobs if not _file(job).exists()]))


def table() -> str:
    """Return all results as Markdown."""
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    lines = [
        "| weights | pruned and regrown | test error, mean +- standard error | paper | per seed |",
        "|---|---|---|---|---|",
    ]
    for density, regrown in sorted({(run["density"], run["regrown"]) for run in runs}):
        chosen = [run for run in runs if (run["density"], run["regrown"]) == (density, regrown)]
        errors = [run["test_error_percent"] for run in sorted(chosen, key=lambda run: run["seed"])]
        spread = f" +- {statistics.stdev(errors) / len(errors) ** 0.5:.3f}" if len(errors) > 1 else ""
        each = ", ".join(f"{error:.2f}" for error in errors)
        ours = f"{statistics.mean(errors):.3f}{spread} %"
        lines.append(f"| {100 * density:g} % | {regrown} | {ours} | {PUBLISHED.get(density, '')} | {each} |")
    return "\n".join(lines)


def _file(job: Job) -> Path:
    density, regrown, seed = job
    return RESULTS / f"density{density:g}_{regrown}_seed{seed}.json"


def main() -> None:
    """Read the options, run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.05])
    parser.add_argument("--regrown", choices=["kept", "zero"], nargs="+", default=["kept", "zero"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--download", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("DENSITY", "REGROWN", "SEED"), help="run only this one, here")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if options.one:
        job = (float(options.one[0]), options.one[1], int(options.one[2]))
        result = train(options.data, *job)
        _file(job).write_text(json.dumps(result, indent=1) + "\n")
        return
    if options.download:  # once, not in every process
        MNISTDataModule(options.data).prepare_data()
    # A dense network regrows nothing.
    kinds = [(d, "-") if d == 1 else (d, kind) for d in options.densities for kind in options.regrown]
    jobs = [(density, kind, seed) for density, kind in dict.fromkeys(kinds) for seed in options.seeds]
    run_missing(jobs, options.jobs, ["--data", str(options.data)])
    (RESULTS.parent / "mnist_lenet300.md").write_text(table() + "\n")
    print(table())


if __name__ == "__main__":
    main()
