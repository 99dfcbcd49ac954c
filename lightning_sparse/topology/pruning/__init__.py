"""Pruning rules: which active weights to keep."""

from lightning_sparse.topology.layer import WeightScore
from lightning_sparse.topology.pruning.magnitude import magnitude
from lightning_sparse.topology.pruning.signed_magnitude import signed_magnitude

PRUNING: dict[str, WeightScore] = {"magnitude": magnitude, "signed_magnitude": signed_magnitude}

__all__ = ["PRUNING", "magnitude", "signed_magnitude"]
