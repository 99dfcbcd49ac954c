"""What all tests share: property tests that draw the same examples everywhere, and a fixed global seed."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _global_seed() -> None:
    torch.manual_seed(0)
