"""Reductions of a whole weight to a few numbers that stay on its device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def widest_float(device: torch.device) -> torch.dtype:
    """Return the dtype for sums whose rounding must not decide: double, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def mean_magnitude(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of `|values|` where the mask is True, 0 where it never is; zero-dimensional.

    Summed in double precision, so that the order of the sum, which differs between devices, doesn't decide.

    >>> mean_magnitude(torch.tensor([1.0, -3.0, 5.0]), torch.tensor([True, True, False]))
    tensor(2., dtype=torch.float64)
    """
    wide = widest_float(values.device)
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        # Gathering the few active values first is several times faster than summing all.
        active = np.compress(mask.numpy().reshape(-1), values.detach().numpy().reshape(-1))
        return torch.tensor(np.abs(active).mean(dtype=np.float64) if active.size else 0.0, dtype=wide)
    return torch.where(mask, values, 0).abs_().sum(dtype=wide) / torch.count_nonzero(mask).clamp_min(1)


def extremes(values: Tensor) -> Tensor:
    """Return minimum and maximum, shape `(2,)`: NaN if any value is; one reading pass, no temporary."""
    return torch.stack(torch.aminmax(values))
