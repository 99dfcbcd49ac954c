"""What all tests share: one thread, property tests that draw the same examples everywhere, and a fixed global seed."""

import os
from collections.abc import Iterator

import pytest

# Before PyTorch is imported, and for the processes that tests start: several test processes at once, each with as many
# threads as there are cores, would spend most of their time waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hypothesis import settings

# Fixtures of several folders: small data sets on disk, and trainings without PyTorch.
pytest_plugins = ["small_mnist", "stand_ins", "studies"]

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

# The first backward pass of a process starts a thread for each kind of device. Tracing makes PyTorch believe in one
# that isn't there; a thread for it would keep tests from forking, so that this pass comes before any tracing.
torch.zeros(1, requires_grad=True).sum().backward()


@pytest.fixture(autouse=True)
def _global_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    """Let nothing be compiled yet, and count from zero what is."""
    from torch._dynamo.utils import counters  # a second, which most tests needn't wait for

    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    counters.clear()
