"""Paired timing: versions interleaved in one process, one thread, CPU time, median over rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def paired(
    versions: dict[str, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    prepare: dict[str, Callable[[], object]] | None = None,
) -> dict[str, list[float]]:
    """Return CPU seconds of every round by version; a round runs each version once, in turn, prepared untimed."""
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {name: [] for name in versions}
    for number in range(warmup + rounds):
        for name, run in versions.items():
            if prepare:
                prepare[name]()
            start = time.process_time()
            run()
            if number >= warmup:
                seconds[name].append(time.process_time() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], numerator: str, denominator: str) -> tuple[float, float, float]:
    """Return the median, lowest and highest ratio of the rounds, each taken within its round."""
    ratios = [a / b for a, b in zip(seconds[numerator], seconds[denominator], strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def report(seconds: dict[str, list[float]], numerator: str | None, denominator: str) -> None:
    """Print medians in milliseconds and the ratio of two versions."""
    for name, values in seconds.items():
        print(f"{name:<28} median {statistics.median(values) * 1e3:10.2f} ms of {len(values)} rounds")
    if numerator is None:
        return
    middle, low, high = ratio(seconds, numerator, denominator)
    print(f"ratio {numerator} / {denominator}: {middle:.4g} (rounds: {low:.4g} to {high:.4g})")
