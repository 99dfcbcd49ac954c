"""Which of the processes that train together this one is."""

from __future__ import annotations

import torch


def is_rank_zero() -> bool:
    """Tell whether this process is the first of those that train together, or the only one."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0
