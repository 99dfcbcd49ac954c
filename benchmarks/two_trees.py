r"""Is this checkout slower than that one? Runs a command over both in turn, and compares pairs of neighbours.

    python benchmarks/two_trees.py A B [--pairs 15] [--limit 1.05] [--metric REGEX] COMMAND ...

A and B are checkouts; COMMAND runs in the one that is measured, with its package before any installed one, on one
thread. Its processes alternate (A B, B A, A B, ...), after one of each that isn't counted. What is compared is the CPU
time of a whole process with all that it starts, or, so that its start-up hides nothing, a number that it prints:
--metric is a regular expression with one group, of which the last match in the output counts.

    python benchmarks/two_trees.py ../before . --metric 'seconds ([0-9.]+)' \
        python "$PWD/benchmarks/hot_paths.py" update

Prints each side's medians and the median of the ratios B / A with a 95 % interval (percentile bootstrap of the pairs).
The exit status is 0 if the whole interval lies below the limit, 1 if not, and 2 if nothing could be measured.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

# Fewer say little of the interval.
FEWEST_PAIRS = 15
RESAMPLES = 10_000
# What is shown of the output of a command that failed.
SHOWN = 4000


class CommandError(Exception):
    """A command that failed, or didn't print what was to be compared."""


@dataclass(frozen=True)
class Cost:
    """What a process took: CPU and wall seconds, and the number that it printed, where one was asked for."""

    cpu: float
    wall: float
    printed: float | None = None

    @property
    def compared(self) -> float:
        """What is compared."""
        return self.cpu if self.printed is None else self.printed


def measure(tree: Path, command: Sequence[str], metric: re.Pattern[str] | None) -> Cost:
    """Return the cost of a command in a checkout.

    Args:
        tree: Folder of the checkout.
        command: Program and its arguments.
        metric: Pattern that finds the number to compare in its output; None: CPU time is compared.

    Raises:
        CommandError: If it can't be started, fails, or prints no such number.
    """
    settings = {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as file:
        start = time.perf_counter()
        try:
            process = subprocess.Popen(
                command, cwd=tree, env={**os.environ, **settings}, stdout=file, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise CommandError(f"Expected a command to run; got {error}. Cure: check {command[0]!r}.") from error
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        file.seek(0)
        output = file.read().decode(errors="replace")
    if process.returncode:
        raise CommandError(
            f"Expected exit status 0 of {' '.join(command)} in {tree}; got {process.returncode}. Cure: run it there by "
            f"itself. It printed:\n{output[-SHOWN:]}"
        )
    return Cost(used.ru_utime + used.ru_stime, wall, None if metric is None else _printed(metric, output))


def _printed(metric: re.Pattern[str], output: str) -> float:
    found = metric.findall(output)
    try:
        number = float(found[-1])
    except (IndexError, ValueError):
        number = 0.0
    if not 0 < number < inf:
        raise CommandError(
            f"Expected a number > 0 as the group of {metric.pattern!r} in what the command prints; got "
            f"{repr(found[-1]) if found else 'no match'}. Cure: another --metric. It printed:\n{output[-SHOWN:]}"
        )
    return number


def measure_pairs(
    trees: tuple[Path, Path], command: Sequence[str], pairs: int, metric: re.Pattern[str] | None = None
) -> list[tuple[Cost, Cost]]:
    """Return the costs of this many pairs, A's first, and print each as it comes; every other pair begins with B."""
    for tree in trees:  # compiles what is imported, and shows early what fails
        measure(tree, command, metric)
    found = []
    for number in range(pairs):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        costs = {side: measure(trees[side], command, metric) for side in order}
        found.append((costs[0], costs[1]))
        a, b = (cost.compared for cost in found[-1])
        print(f"pair {number + 1:>2}: A {a:.5g}, B {b:.5g}", flush=True)
    return found


def interval(ratios: Sequence[float], resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the median, by percentile bootstrap.

    Args:
        ratios: Ratio of each pair.
        resamples: Number of bootstrap samples, each of as many ratios.
        seed: Seed for drawing the samples.
    """
    source = random.Random(seed)
    medians = sorted(statistics.median(source.choices(ratios, k=len(ratios))) for _ in range(resamples))
    cut = round(0.025 * resamples)
    return medians[cut], medians[-cut - 1]


def report(pairs: Sequence[tuple[Cost, Cost]], limit: float) -> bool:
    """Print medians, ratio and verdict; return whether the whole interval of B / A lies below the limit."""
    for name, side in zip("AB", zip(*pairs, strict=True), strict=True):
        printed = [cost.printed for cost in side if cost.printed is not None]
        shown = f"printed {statistics.median(printed):.5g}, " if printed else ""
        cpu, wall = statistics.median(cost.cpu for cost in side), statistics.median(cost.wall for cost in side)
        print(f"{name}: median {shown}CPU {cpu:.3f} s, wall {wall:.3f} s of {len(side)} processes")
    ratios = [b.compared / a.compared for a, b in pairs]
    low, high = interval(ratios)
    below = high < limit
    print(f"B / A: median {statistics.median(ratios):.4f}, 95 % interval {low:.4f} to {high:.4f}")
    print(f"{'below' if below else 'NOT below'} {limit:g}")
    return below


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("trees", nargs=2, type=Path, metavar="CHECKOUT")
    parser.add_argument("--pairs", type=int, default=FEWEST_PAIRS)
    parser.add_argument("--limit", type=float, default=1.05)
    parser.add_argument("--metric")
    # From the first word on, whatever it looks like.
    parser.add_argument("command", nargs=argparse.PARSER, metavar="COMMAND")
    options = parser.parse_args(arguments)
    if options.pairs < FEWEST_PAIRS:
        parser.error(
            f"Expected at least {FEWEST_PAIRS} pairs; got {options.pairs}. Cure: leave --pairs out; a few pairs can't "
            "tell 5 % from noise."
        )
    for tree in options.trees:
        if not (tree / "lightning_sparse" / "__init__.py").is_file():
            parser.error(f"Expected a checkout with the package lightning_sparse; got {tree}. Cure: check the path.")
    options.trees = tuple(tree.resolve() for tree in options.trees)
    if options.metric is not None:
        options.metric = _pattern(parser, options.metric)
    return options


def _pattern(parser: argparse.ArgumentParser, text: str) -> re.Pattern[str]:
    cure = "Cure: 'seconds ([0-9.]+)', for instance."
    try:
        pattern = re.compile(text)
    except re.error as error:
        parser.error(f"Expected a regular expression; got {text!r} ({error}). {cure}")
    if pattern.groups != 1:
        parser.error(f"Expected a regular expression with one group; got {text!r} with {pattern.groups}. {cure}")
    return pattern


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options, measure, print; return the exit status."""
    options = _parsed(arguments)
    try:
        pairs = measure_pairs(options.trees, options.command, options.pairs, options.metric)
    except CommandError as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if report(pairs, options.limit) else 1


if __name__ == "__main__":
    sys.exit(main())
