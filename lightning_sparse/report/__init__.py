"""One page about a run, or two runs side by side, from what they logged."""

from lightning_sparse.report.command import report

__all__ = ["report"]
