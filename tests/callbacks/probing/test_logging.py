"""Metrics reach loggers by the call that Lightning's own loop makes."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from tiny_images import fit as fit_images
from tiny_training import fit

from lightning_sparse import ClassSpecializationCallback, GradientFlowCallback, SparseMomentumCallback

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval")


class ByKeyword(Logger):
    """Takes metrics and step by their names only, as loggers may that Lightning alone calls."""

    name, version = "by_keyword", "0"

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[set[str], int | None]] = []

    @property
    @rank_zero_experiment
    def experiment(self) -> None:
        """Nothing that takes figures."""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Not noted."""

    def log_metrics(self, *, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]  # see above
        self.rows.append((set(metrics), step))

    def has(self, metric: str) -> bool:
        """Tell whether there is such a metric, with a step."""
        return any(metric in names and step is not None for names, step in self.rows)


@pytest.mark.parametrize(
    ("callback", "metric"),
    [
        (SparseMomentumCallback(density=0.3), "sparsity/density"),
        (GradientFlowCallback(every_n_steps=1), "gradient_flow/egf_l2"),
        (GradientFlowCallback(batches=1), "gradient_flow/egf_l2"),
        (ClassSpecializationCallback(), "specialization/net.first/dead"),
    ],
    ids=["sparsity", "gradients", "gradients_of_fixed_batches", "specialization"],
)
def test_a_logger_that_takes_keywords_only_gets_metrics_and_step(callback: Any, metric: str) -> None:
    logger, without = ByKeyword(), ByKeyword()
    fit_images(callback, logger=logger)
    fit(logger=without)
    assert logger.has(metric)
    assert not without.has(metric)
