"""Filters for what Lightning itself warns of in the small runs of these tests."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
LIGHTNING_WARNINGS = (
    # Lightning 2.6 uses a spelling of PyTorch's tree utilities that PyTorch 2.15 deprecates.
    "ignore:.*LeafSpec.*:FutureWarning",
    # The loaders of these tests need no worker processes and have few batches.
    "ignore:The '.*_dataloader' does not have many workers",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            for warning in LIGHTNING_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))
