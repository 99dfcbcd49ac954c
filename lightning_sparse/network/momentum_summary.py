"""What topology updates read of each optimizer, in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from lightning_sparse.network.momentum_observer import Finding


def momentum_lines(findings: Mapping[str, Finding], sizes: Mapping[str, int], *, averages: bool) -> list[str]:
    """Return a line for each optimizer about the momentum of the weights that it steps.

    Args:
        findings: Finding about each weight, by its name.
        sizes: Memory of each weight in bytes.
        averages: Whether averages of gradients are kept for all of them.
    """
    by_optimizer: dict[int, dict[str, Finding]] = defaultdict(dict)
    for name, finding in findings.items():
        by_optimizer[id(finding.optimizer)][name] = finding
    return [
        _kept(found, sum(sizes[name] for name in found)) if averages else _read(found)
        for found in by_optimizer.values()
    ]


def _read(found: Mapping[str, Finding]) -> str:
    return f"{_subject(found)} {', '.join(sorted({finding.formula for finding in found.values()}))} of its state"


def _kept(found: Mapping[str, Finding], size: int) -> str:
    reasons = sorted({finding.why or "not all weights have it on one scale" for finding in found.values()})
    return (
        f"{_subject(found)} 0.9 * average + 0.1 * gradient, kept by the sparse network in {size:,} bytes: "
        f"{', '.join(reasons)}"
    )


def _subject(found: Mapping[str, Finding]) -> str:
    optimizer = next(iter(found.values())).optimizer
    return f"Momentum of {type(optimizer).__name__} ({len(found)} {'weight' if len(found) == 1 else 'weights'}):"
