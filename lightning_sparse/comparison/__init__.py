"""Sparse against dense at the same capacity (SC-SDC): networks, studies of them, and their statistics."""

from lightning_sparse.comparison.command import compare
from lightning_sparse.comparison.paired_tests import Shift, SignedRankTest, hodges_lehmann, holm, signed_rank_test
from lightning_sparse.comparison.same_capacity import SameCapacity, same_capacity
from lightning_sparse.comparison.study import SameCapacityStudy

__all__ = [
    "SameCapacity",
    "SameCapacityStudy",
    "Shift",
    "SignedRankTest",
    "compare",
    "hodges_lehmann",
    "holm",
    "same_capacity",
    "signed_rank_test",
]
