"""Class specialization, slow and obvious: loops over images, channels, places and classes.

Written from Dettmers & Zettlemoyer 2019, section 5.2, and from what their code does beyond it (the least active
channels are dropped), not from the package. Nothing of the package is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Channel:
    """What is found for one channel.

    Attributes:
        specialization: Maximum proportion, NaN for a dead or dropped channel.
        proportions: For each class, or NaN.
        share: Of the activity of all channels.
        dead: Whether there was no activity.
        dropped: Whether it is among the least active, though not dead.
    """

    specialization: float
    proportions: list[float]
    share: float
    dead: bool
    dropped: bool


def slow_class_specialization(
    features: Array, labels: Sequence[int], classes: int, drop_fraction: float = 0.0, balanced: bool = False
) -> list[Channel]:
    """Return what is found for each channel of features ``(images, channels, height, width)``."""
    table = [
        [_activity(features, labels, channel, label) for label in range(classes)] for channel in _channels(features)
    ]
    if balanced:
        table = [[_mean(row[label], list(labels).count(label)) for label in range(classes)] for row in table]
    sums = [sum(row) for row in table]
    shares = [each / sum(sums) if sum(sums) > 0 else 0.0 for each in sums]
    least = _least(shares, drop_fraction)
    found = []
    for channel, row in enumerate(table):
        dead = sums[channel] == 0
        counts = not dead and channel not in least
        proportions = [value / sums[channel] if counts else nan for value in row]
        highest = max(proportions) if counts else nan
        found.append(Channel(highest, proportions, shares[channel], dead, channel in least and not dead))
    return found


def _channels(features: Array) -> range:
    return range(features.shape[1])


def _activity(features: Array, labels: Sequence[int], channel: int, label: int) -> float:
    total = 0.0
    for image in range(features.shape[0]):
        if labels[image] == label:
            for row in range(features.shape[2]):
                for column in range(features.shape[3]):
                    total += abs(float(features[image, channel, row, column]))
    return total


def _mean(total: float, count: int) -> float:
    return total / count if count else 0.0


def _least(shares: Sequence[float], fraction: float) -> set[int]:
    """Return the channels before the first, in ascending order of share, with which the sum reaches the fraction."""
    ascending = np.argsort(np.array(shares), kind="stable")
    first_kept = int(np.searchsorted(np.cumsum(np.array(shares)[ascending]), fraction))
    return {int(channel) for channel in ascending[:first_kept]}
