"""Sparse products, convolutions and what surrounds them, in C, for each instruction set."""

from lightning_sparse.execution.kernels.library import Kernels, best_variant, kernels, sizes_of, why_unavailable

__all__ = ["Kernels", "best_variant", "kernels", "sizes_of", "why_unavailable"]
