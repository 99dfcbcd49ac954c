"""Several processes that share the images have the class specialization of one."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection

from lightning_sparse import ClassSpecialization, ClassSpecializationCallback
from lightning_sparse.data import ArrayDataModule
from lightning_sparse.testing.equality import differences

from .processes import run
from .training import ddp, trainer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
CLASSES, IMAGES = 3, 11


def features(images: int = IMAGES, seed: int = 1) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(images, 4, 3, 3, generator=source), torch.arange(images) % CLASSES


def alone(values: Tensor, labels: Tensor, **options: Any) -> dict[str, Tensor]:
    metric = ClassSpecialization(CLASSES, **options)
    metric.update(values, labels)
    return metric.compute()


def join() -> int:
    """Join the processes of a test, and return the rank."""
    torch.distributed.init_process_group("gloo")
    return torch.distributed.get_rank()


# The metric


def _metric(first: list[int]) -> list[dict[str, Tensor]]:
    rank = join()
    values, labels = features()
    share = slice(first[rank], first[rank + 1])
    metric = ClassSpecialization(CLASSES, balanced=True, drop_fraction=0.3)
    if first[rank] < first[rank + 1]:
        metric.update(values[share], labels[share])
    else:
        metric._update_count = 1  # torchmetrics warns of a metric without an update
    synced = metric.compute()
    own = metric.activity.clone()
    metric.sync()
    explicit = {"activity": metric.activity.clone()}
    metric.unsync()
    assert torch.equal(metric.activity, own)
    metric.update(values, labels)  # updates continue after a synchronization
    return [synced, explicit, metric.compute()]


@pytest.mark.parametrize("first", [[0, 5, 11], [0, 11, 11], [0, 0, 11]], ids=str)
def test_a_metric_is_summed_over_processes_also_where_one_has_no_data(tmp_path: Path, first: list[int]) -> None:
    reports = run(_metric, 2, tmp_path, first)
    assert differences(*reports) == []
    values, labels = features()
    synced, explicit, again = reports[0]
    torch.testing.assert_close(synced, alone(values, labels, balanced=True, drop_fraction=0.3), equal_nan=True)
    whole = ClassSpecialization(CLASSES)
    whole.update(values, labels)
    torch.testing.assert_close(explicit["activity"], whole.activity)
    torch.testing.assert_close(again, synced, equal_nan=True)  # every image three times: proportions stay


def _collection() -> dict[str, Tensor]:
    rank = join()
    values, labels = features()
    metrics = MetricCollection({"a": ClassSpecialization(CLASSES), "b": ClassSpecialization(CLASSES, balanced=True)})
    for seed in range(2):
        metrics.update(values[rank::2] * (seed + 1), labels[rank::2])
    results: dict[str, Tensor] = metrics.compute()
    return results


def test_a_collection_is_summed_over_processes(tmp_path: Path) -> None:
    reports = run(_collection, 2, tmp_path)
    assert differences(*reports) == []
    for name, options in (("a", {}), ("b", {"balanced": True})):
        wanted = alone(*features(), **options)
        torch.testing.assert_close({key: reports[0][f"{name}_{key}"] for key in wanted}, wanted)


def _unlike(channels: list[int], values: list[float]) -> None:
    rank = join()
    metric = ClassSpecialization(CLASSES)
    metric.update(torch.full((3, channels[rank]), values[rank]), torch.arange(3))
    metric.compute()


@pytest.mark.parametrize(
    ("channels", "values", "message"),
    [
        ([4, 5], [1.0, 1.0], "Expected states of the same shape in all processes; got [(4, 3), (5, 3)]"),
        ([1, 5], [1.0, 1.0], "Expected states of the same shape in all processes; got [(1, 3), (5, 3)]"),
        ([4, 4], [1.0, float("nan")], "Expected finite features; got NaN or infinity for 3 images"),
    ],
)
def test_data_that_are_wrong_in_one_process_are_the_same_error_in_all(
    tmp_path: Path, channels: list[int], values: list[float], message: str
) -> None:
    for report in run(_unlike, 2, tmp_path, channels, values):
        assert isinstance(report, str)
        assert message in report


# The callback


class Module(LightningModule):
    """Has other batch statistics in each process, as DDP leaves them after training."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten())
            self.sometimes = nn.Conv2d(1, 3, 3)
            self.last = nn.Linear(5 * 4, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        if not self.training and images.sum() > 100:  # one image only, of a batch of its own
            self.sometimes(images)
        return self.last(self.net(images))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([*self.net.parameters(), *self.last.parameters()], lr=0.05, momentum=0.9)


def images(count: int = IMAGES) -> TensorDataset:
    source = torch.Generator().manual_seed(7)
    pictures = torch.randn(count, 1, 6, 6, generator=source)
    pictures[count // 2] += 5
    return TensorDataset(pictures, torch.arange(count) % CLASSES)


class Memory(Logger):
    name, version = "memory", 0  # type: ignore[assignment]  # properties of the base class

    def __init__(self) -> None:
        super().__init__()
        self.logged = 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged += "specialization/net.0/mean" in metrics

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing is stored."""


def several(processes: int) -> dict[str, Any]:
    strategy = ddp(find_unused_parameters=True)
    return {"strategy": strategy, "devices": processes} if processes > 1 else {}


class Validated(Module):
    """Has empty validation and test steps."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing is computed."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing is computed."""


# By whether data come from this package. Other data have an image for which one process calls a further layer.
LAYERS = {False: None, True: "net.[03]"}


def _data(count: int, own: bool) -> Any:
    """Return a user's loader, or a data module of this package, which augments and has a validation set."""
    pictures, labels = images(count).tensors
    if not own:
        return DataLoader(images(count), batch_size=1, shuffle=True, drop_last=True)
    pixels = (40 * pictures[:, 0] + 100).clamp(0, 255).to(torch.uint8).numpy()
    options: dict[str, Any] = {"batch_size": 2, "eval_batch_size": 1, "flip": True, "val_fraction": 0.2}
    return ArrayDataModule(pixels, labels.numpy(), pixels, labels.numpy(), **options)


def _callback(count: int, own: bool, **options: Any) -> ClassSpecializationCallback:
    # A single image is of one class, and in one process.
    return ClassSpecializationCallback(LAYERS[own], num_classes=CLASSES if count == 1 else None, **options)


def _trained(count: int, own: bool, path: str) -> dict[str, Any]:
    callback, memory = _callback(count, own, every_n_epochs=2), Memory()
    options = {**several(2), "max_epochs": 3, "logger": memory, "log_every_n_steps": 1}
    run_, module = trainer(callback, **options), Validated() if own else Module()
    run_.fit(module, _data(count, own))
    statistics = module.net[1].running_mean.clone()
    run_.save_checkpoint(path)
    return {"result": callback.result, "history": callback.history, "logged": memory.logged, "statistics": statistics}


def _measured(path: str, count: int, own: bool) -> Any:
    """Measure the module of a checkpoint in one process."""
    data, module = _data(count, own), Validated()
    callback = _callback(count, own, dataloader="train" if own else data, when="test")
    module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    trainer(callback).test(module, data if own else DataLoader(images(count)), verbose=False)
    return callback.result


@pytest.mark.filterwarnings("ignore:Expected at least 2 images in the last training batch")
@pytest.mark.parametrize(("count", "own"), [(IMAGES, False), (3, False), (1, False), (IMAGES, True)])
def test_two_processes_measure_what_one_does(tmp_path: Path, count: int, own: bool) -> None:
    path = str(tmp_path / "trained.ckpt")
    first, second = run(_trained, 2, tmp_path, count, own, path)
    assert not isinstance(first, str), first
    assert differences(first["result"], second["result"]) == []
    assert differences(first["history"], second["history"]) == []
    assert list(first["history"]) == [2, 3]
    assert (
        own or count == 1 or not torch.equal(first["statistics"], second["statistics"])
    )  # else the broadcast from rank zero is not tested
    (wanted,) = run(_measured, 1, tmp_path, path, count, own)
    assert not isinstance(wanted, str), wanted
    assert list(first["result"]) == list(wanted) == ["net.0", "net.3", "sometimes"][: 2 if own else 3]
    torch.testing.assert_close(first["result"], wanted, rtol=1e-5, atol=1e-7, equal_nan=True)
    assert [first["logged"], second["logged"]] == [2, 0]


class Unpacking(ClassSpecializationCallback):
    """Fails in one process, in the rehearsal or after it."""

    steps, fails_after = 0, 0

    def unpack(self, batch: Any) -> Any:
        if torch.distributed.get_rank() == 1 and self.steps == self.fails_after:
            raise TypeError("what is this?")
        return super().unpack(batch)

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps += 1


def _failing(fails_after: int) -> Any:
    callback = Unpacking()
    callback.fails_after = fails_after
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        run_ = trainer(callback, max_epochs=1, **several(2))
        run_.fit(Module(), DataLoader(images(), batch_size=4))
    messages = [str(each.message) for each in warned if "class specialization" in str(each.message)]
    return {"messages": messages, "steps": run_.global_step, "measured": callback.result is not None}


def test_a_failure_in_one_process_is_an_error_in_all(tmp_path: Path) -> None:
    first, second = run(_failing, 2, tmp_path, 0)
    assert "Expected all ranks to finish; got an error on rank 1, TypeError: what is this?" in first
    assert "TypeError: what is this?" in second
    assert "Expected all ranks" not in second


def test_a_failure_in_one_process_after_training_is_a_warning_and_all_end(tmp_path: Path) -> None:
    first, second = run(_failing, 2, tmp_path, 2)
    assert "got an error on rank 1, TypeError: what is this?" in first.pop("messages")[0]
    assert second.pop("messages") == []
    assert first == second == {"steps": 2, "measured": False}


def _weights(measures: bool) -> dict[str, Any]:
    callbacks = [ClassSpecializationCallback(every_n_epochs=1)] if measures else []
    module = Module()
    trainer(*callbacks, **several(2)).fit(module, DataLoader(images(), batch_size=2, shuffle=True))
    return {"weights": dict(module.state_dict()), "random": torch.get_rng_state()}


def test_a_run_is_the_same_with_and_without_the_callback(tmp_path: Path) -> None:
    with_it, without_it = (run(_weights, 2, tmp_path, measures) for measures in (True, False))
    assert not isinstance(with_it[0], str), with_it[0]
    assert differences(with_it, without_it) == []
