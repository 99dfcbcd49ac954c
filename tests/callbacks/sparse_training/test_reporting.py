"""What a run says about its sparsity is what a recount of its masks and weights gives at that moment."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from tiny_training import At, ShufflingLoader, TinyModule, fit, masks_of, trainer
from torch import nn
from witness import BUDGET, DENSITY

from lightning_sparse import SparseMomentumCallback

# Lightning warns of an interval that is longer than the run, which is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval")

LAYERS = ("net.0.weight", "net.3.weight")
AT_START = {"sparsity/density", "sparsity/overall_density", *(f"sparsity/layer_density/{name}" for name in LAYERS)}
AT_UPDATES = {
    *AT_START,
    "sparsity/prune_rate",
    "sparsity/pruned",
    "sparsity/grown",
    *(f"sparsity/layer_share/{name}" for name in LAYERS),
}
needs_tensorboard = pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs TensorBoard")


class Memory(Logger):
    """A user's logger."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    name, version = "memory", 0  # type: ignore[assignment]  # properties of the base class

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing is kept."""

    @property
    def ours(self) -> list[tuple[int | None, dict[str, float]]]:
        """Rows about sparsity, without those of the trainer."""
        return [(step, row) for step, row in self.rows if "sparsity/density" in row]


class Recount(At):
    """Counts masks and weights before and after each update, by itself."""

    def __init__(self, sparse: SparseMomentumCallback) -> None:
        super().__init__("on_train_batch_start", self._count)
        self.before: dict[str, Any] = {}
        self.found: list[dict[str, float]] = []
        self.shown: list[dict[str, float]] = []
        self._sparse, self._updates = sparse, 0

    def _count(self, run: Trainer, module: LightningModule) -> None:
        masks = masks_of(self._sparse)
        weights = {name: module.get_parameter(name).detach().clone() for name in masks}
        counts = {name: int(mask.sum()) for name, mask in masks.items()}
        row = {f"sparsity/layer_density/{name}": counts[name] / mask.numel() for name, mask in masks.items()}
        row["sparsity/density"] = sum(counts.values()) / sum(mask.numel() for mask in masks.values())
        matrices = {name: weight for name, weight in module.named_parameters() if weight.dim() > 1}
        left = sum(int(masks[name].sum()) if name in masks else weight.numel() for name, weight in matrices.items())
        row["sparsity/overall_density"] = left / sum(weight.numel() for weight in matrices.values())
        if len(self._sparse.history) > self._updates:
            self._updates += 1
            record = self._sparse.history[-1]
            old_masks, old = self.before["masks"], self.before["weights"]
            # A weight that is pruned and grown again starts from zero: it counts as both.
            lost = {name: old_masks[name] & (old[name] != 0) & (weights[name] == 0) for name in masks}
            row["sparsity/pruned"] = sum(int(each.sum()) for each in lost.values())
            row["sparsity/grown"] = sum(
                int((mask & (~old_masks[name] | lost[name])).sum()) for name, mask in masks.items()
            )
            row["sparsity/prune_rate"] = record.prune_rate
            row |= {f"sparsity/layer_share/{name}": record.layers[name].share for name in masks}
            self.found.append(row)
        elif not self.found:
            self.found.append(row)
        self.shown.append({name: float(value) for name, value in run.callback_metrics.items()})

    def remember(self) -> At:
        """Return a callback that keeps masks and weights as they are at the end of a batch."""

        def keep(run: Trainer, module: LightningModule) -> None:
            self.before = {
                "masks": masks_of(self._sparse),
                "weights": {name: module.get_parameter(name).detach().clone() for name in LAYERS},
            }

        return At("on_train_batch_end", keep)


@pytest.mark.parametrize("options", [{"log_every_n_steps": 1}, {"log_every_n_steps": 1000}], ids=str)
@pytest.mark.parametrize("period", [{"every_n_epochs": 1}, {"every_n_steps": 2}], ids=str)
def test_every_logged_number_equals_a_recount(period: dict[str, int], options: dict[str, Any]) -> None:
    callback, memory = SparseMomentumCallback(density=DENSITY, schedule="linear", **period), Memory()
    recount = Recount(callback)
    fit(callback, recount, recount.remember(), logger=memory, max_epochs=4, **options)
    rows = [{name: value for name, value in row.items() if name in AT_UPDATES} for _, row in memory.ours[:]]
    rows = [row for (_, full), row in zip(memory.ours, rows, strict=True) if full.keys() >= AT_START]
    assert rows == [pytest.approx(row) for row in recount.found]
    assert [set(row) for row in rows] == [AT_START, *[AT_UPDATES] * len(callback.history)]
    assert sum(row["sparsity/grown"] for row in rows[1:]) > 0
    assert all(sum(row[f"sparsity/layer_share/{name}"] for name in LAYERS) == pytest.approx(1) for row in rows[1:-1])
    assert [step for step, _ in memory.ours] == [0, *(record.step for record in callback.history)]


def test_callback_metrics_have_every_number_at_every_batch() -> None:
    callback = SparseMomentumCallback(density=DENSITY, schedule="constant")
    recount = Recount(callback)
    run = fit(callback, recount, recount.remember())
    assert [set(shown) & AT_UPDATES for shown in recount.shown] == [AT_START] * 3 + [AT_UPDATES] * 6
    assert {name: recount.shown[-1][name] for name in AT_UPDATES} == pytest.approx(recount.found[-1])
    assert set(run.callback_metrics) >= AT_UPDATES


def test_both_densities_are_in_the_progress_bar() -> None:
    callback, seen = SparseMomentumCallback(density=DENSITY, exclude="net.3"), []
    spy = At("on_train_batch_end", lambda run, _: seen.append({**run.progress_bar_metrics}))
    fit(callback, spy)
    # 14 of the 48 weights of the one layer, and all 32 of the other.
    expected = {"sparsity/density": 14 / 48, "sparsity/overall_density": (14 + 32) / 80}
    assert [{name: shown.get(name) for name in expected} for shown in seen] == [pytest.approx(expected)] * 9


def test_no_step_waits_for_a_number_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[str] = []
    item = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: waits.append("item") or item(tensor))
    steps = At("on_train_batch_start", lambda *_: waits.append("step"))
    fit(SparseMomentumCallback(density=DENSITY, every_n_epochs=5), steps, max_epochs=1)
    first, *others = " ".join(waits).split("step")[1:]
    assert len(others) == 2
    assert not any("item" in each for each in others[:-1])  # after the last step, the epoch's numbers are made
    assert "item" not in first


def test_without_the_callback_nothing_is_said_of_sparsity() -> None:
    memory = Memory()
    run = fit(logger=memory)
    assert memory.ours == []
    assert not [name for name in run.callback_metrics if name.startswith("sparsity")]


@pytest.mark.parametrize(
    "monitored", ["sparsity/density", "sparsity/layer_density/net.0.weight", "sparsity/prune_rate"]
)
def test_checkpoints_can_be_named_and_chosen_by_what_is_logged(tmp_path: Path, monitored: str) -> None:
    callback = SparseMomentumCallback(density=DENSITY, schedule="linear")
    saving = ModelCheckpoint(
        tmp_path, filename="{sparsity/density:.2f}", monitor="sparsity/density", auto_insert_metric_name=False
    )
    # There is a prune rate from the first update on only.
    stopping = EarlyStopping(monitored, patience=50, check_on_train_epoch_end=True, strict=False)
    fit(callback, saving, stopping, max_epochs=3)
    assert [path.stem for path in tmp_path.rglob("*.ckpt")] == ["0.30"]
    assert torch.isfinite(stopping.best_score)


def test_a_csv_logger_gets_all_keys(tmp_path: Path) -> None:
    callback = SparseMomentumCallback(density=DENSITY)
    logger = CSVLogger(tmp_path)
    fit(callback, logger=logger, log_every_n_steps=1000)
    with Path(logger.log_dir, "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("sparsity/density")]
    assert set(rows[0]) >= AT_UPDATES
    assert [float(row["sparsity/density"]) for row in rows] == [pytest.approx(BUDGET / 80)] * len(rows)
    assert len(rows) >= 3


@needs_tensorboard
def test_tensorboard_gets_all_keys(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    fit(SparseMomentumCallback(density=DENSITY), logger=logger, log_every_n_steps=1000)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert set(events.Tags()["scalars"]) >= AT_UPDATES


class Mixed(TinyModule):
    """Has parameters that stay dense for several reasons."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.table = nn.Embedding(5, 7)
        self.left_out = nn.Linear(3, 5)


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("printed", [True, False], ids=["printed", "silent"])
def test_the_summary_lists_masked_weights_and_why_others_are_dense(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, printed: bool, compiled: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    callback = SparseMomentumCallback(density=0.5, exclude="left_out", dense="net.3")
    module = Mixed()
    module.left_out = torch.compile(module.left_out, backend="eager") if compiled else module.left_out
    fit(callback, module=module, enable_model_summary=printed)
    output = capsys.readouterr().out
    assert callback.network is not None
    wanted = {
        *callback.network.layers,
        *callback.network.why_unmasked.values(),
        "Sparse training: 40 of 80 weights active, density 0.5, overall density 0.692",
        # Besides these 40, the 15 weights of the excluded layer and the 35 of the embedding.
        "Overall density: 0.692, 90 of the 130 trainable weights",
        "net.0.weight 8 x 6 48",
        "excluded on request left_out.weight 15",
    }
    assert {"frozen", "excluded on request", "kept dense on request"} <= set(callback.network.why_unmasked.values())
    folded = " ".join(output.split())
    assert {text for text in wanted if text not in folded} == (set() if printed else wanted)
    assert ("Dense parameters" in output) is printed


def test_nothing_is_printed_of_a_run_that_does_not_train(capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer(SparseMomentumCallback(density=DENSITY), enable_model_summary=True)
    run.validate(TinyModule(), ShufflingLoader(1), verbose=False)
    assert "Sparse training" not in capsys.readouterr().out
