"""Methods of several trainings, in any training loop: lottery tickets, rewinding, iterative pruning."""

from lightning_sparse.rounds.densities import lottery_densities
from lightning_sparse.rounds.round import Round
from lightning_sparse.rounds.run import run_rounds

__all__ = ["Round", "lottery_densities", "run_rounds"]
