"""Sparse against dense at the same capacity (SC-SDC): networks, studies of them, and their statistics."""

from lightning_sparse.comparison.paired_tests import Shift, SignedRankTest, hodges_lehmann, holm, signed_rank_test
from lightning_sparse.comparison.same_capacity import SameCapacity, same_capacity

__all__ = [
    "SameCapacity",
    "Shift",
    "SignedRankTest",
    "hodges_lehmann",
    "holm",
    "same_capacity",
    "signed_rank_test",
]
