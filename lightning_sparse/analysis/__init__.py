"""What happened: measurements and pictures."""

from lightning_sparse.analysis.class_specialization import ClassSpecialization
from lightning_sparse.analysis.comparison import Comparison, compare

__all__ = ["ClassSpecialization", "Comparison", "compare"]
