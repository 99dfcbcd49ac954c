"""The pruning of sparse evolutionary training."""

import torch
from torch import Tensor

from lightning_sparse.topology.layer import LayerView, uses


@uses()
def signed_magnitude(layer: LayerView) -> Tensor:
    """Score each active weight by its rank in magnitude among those of its sign, in (0, 1].

    Pruning a fraction then removes that fraction of the positive weights closest to zero and the same fraction of
    the negative ones (Mocanu et al. 2018, algorithm 1). Active weights that are exactly zero score 0: they go first.
    """
    scores = torch.zeros_like(layer.weight, dtype=torch.float32)
    for sign in (1, -1):
        values = (layer.weight * sign).clamp_min(0)
        # Descending, so that of equal magnitudes the one with the lower index ranks higher.
        order = values.reshape(-1).argsort(stable=True, descending=True)
        ranks = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), 0, -1, device=order.device))
        members = values > 0
        count = torch.count_nonzero(members)
        group = (ranks.view_as(values) - (order.numel() - count)).float() / count.clamp_min(1)
        scores = torch.where(members, group, scores)
    return scores
