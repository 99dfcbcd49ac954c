"""Measurements of sparse networks, and pictures of them."""

from lightning_sparse.analysis.class_specialization import ClassSpecialization
from lightning_sparse.analysis.gradient_flow import effective_gradient_flow, gradient_norm
from lightning_sparse.analysis.size import count_bytes, count_flops
from lightning_sparse.analysis.specialization_comparison import Comparison, compare
from lightning_sparse.analysis.speedup import estimate_speedup

__all__ = [
    "ClassSpecialization",
    "Comparison",
    "compare",
    "count_bytes",
    "count_flops",
    "effective_gradient_flow",
    "estimate_speedup",
    "gradient_norm",
]
