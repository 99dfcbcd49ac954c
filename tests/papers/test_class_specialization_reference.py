"""Class specialization agrees with a slow version that is written from the paper's definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from slow_class_specialization import slow_class_specialization

from lightning_sparse import ClassSpecialization

CLASSES = 4


@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 9),
    channels=st.integers(2, 7),
    drop_fraction=st.sampled_from([0.0, 0.05, 0.3, 0.9]),
    balanced=st.booleans(),
    batch_size=st.integers(1, 9),
)
def test_every_number_is_that_of_the_slow_version(
    seed: int, images: int, channels: int, drop_fraction: float, balanced: bool, batch_size: int
) -> None:
    generator = np.random.default_rng(seed)
    # Channels of very different activity, some of them dead.
    scale = generator.choice([0.0, 0.01, 1.0, 5.0], channels)
    features = generator.standard_normal((images, channels, 3, 2)) * scale[:, None, None]
    labels = generator.integers(0, CLASSES, images)
    metric = ClassSpecialization(CLASSES, drop_fraction, balanced)
    for first in range(0, images, batch_size):
        batch = slice(first, first + batch_size)
        metric.update(torch.from_numpy(features[batch]), torch.from_numpy(labels[batch]))
    found = metric.compute()
    expected = slow_class_specialization(features, labels.tolist(), CLASSES, drop_fraction, balanced)
    for name, values in {
        "specialization": [channel.specialization for channel in expected],
        "proportions": [channel.proportions for channel in expected],
        "activity_share": [channel.share for channel in expected],
    }.items():
        np.testing.assert_allclose(found[name].numpy(), values, rtol=1e-9, atol=0, equal_nan=True)
    assert found["dead"] == sum(channel.dead for channel in expected)
    assert found["dropped"] == sum(channel.dropped for channel in expected)


def test_the_slow_version_has_the_numbers_of_a_calculation_by_hand() -> None:
    features = np.array([[1.0, -1.0, 0.1], [3.0, 0.0, 0.0], [0.0, 2.0, 0.0]]).reshape(3, 3, 1, 1)
    first, second, third = slow_class_specialization(features, [0, 1, 1], classes=2, drop_fraction=0.05)
    assert (first.proportions, first.specialization) == ([0.25, 0.75], 0.75)
    assert second.specialization == pytest.approx(2 / 3)
    assert second.share == pytest.approx(3 / 7.1)
    assert third.dropped
    assert np.isnan(third.specialization)
    balanced, *_ = slow_class_specialization(features, [0, 1, 1], classes=2, balanced=True)
    assert balanced.proportions == [0.4, 0.6]
