"""The callback measures the same as a manual pass over the images, in every kind of run."""

from __future__ import annotations

import csv
import pickle
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from tiny_images import CLASSES, IMAGES, Images, Network, Validated, assert_close, data, expected, fit, loader
from tiny_training import At, differences, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from lightning_sparse import ClassSpecializationCallback, SparseMomentumCallback
from lightning_sparse._compat import MisconfigurationException
from lightning_sparse.analysis import compare
from lightning_sparse.callbacks import ClassSpecializationCallback as Exported
from lightning_sparse.callbacks.class_specialization.figures import draw_specialization
from lightning_sparse.callbacks.class_specialization.measurement import Measurement
from lightning_sparse.methods.timetable import Cadence

CONVOLUTIONS = ["net.first", "net.second"]
KEYS = {"specialization", "proportions", "activity_share", "dead", "dropped"}
pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval")


def measured(callback: ClassSpecializationCallback) -> dict[str, dict[str, Tensor]]:
    assert callback.result is not None
    return callback.result


def counting(steps: list[int]) -> At:
    return At("on_train_batch_end", lambda *_: steps.append(1))


# Measurements


def test_every_number_is_that_of_all_images_at_once_in_evaluation_mode() -> None:
    callback = ClassSpecializationCallback()
    run = fit(callback)
    assert list(measured(callback)) == CONVOLUTIONS
    for layer in CONVOLUTIONS:
        assert_close(measured(callback)[layer], expected(run.lightning_module, layer))
        assert measured(callback)[layer]["specialization"].device.type == "cpu"
    train_mode = run.lightning_module.train()
    metric_like = expected(Images(), "net.first")["specialization"]
    assert not torch.allclose(measured(callback)["net.first"]["specialization"], metric_like, rtol=1e-3)
    assert train_mode.training


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (None, CONVOLUTIONS),
        ("net.f*", ["net.first"]),
        ("Conv2d", CONVOLUTIONS),
        (["*last", "net.second"], ["net.second", "net.last"]),
        (nn.ReLU, ["net.active"]),
        ([nn.BatchNorm2d, "Linear"], ["net.norm", "net.last"]),
    ],
    ids=str,
)
def test_layers_are_chosen_by_name_or_type(layers: Any, names: list[str]) -> None:
    callback = ClassSpecializationCallback(layers=layers)
    run = fit(callback)
    assert list(measured(callback)) == names
    for layer in names:
        assert_close(measured(callback)[layer], expected(run.lightning_module, layer))


def test_after_an_activation_negative_activity_does_not_count() -> None:
    before, after = (
        ClassSpecializationCallback("*norm"),
        ClassSpecializationCallback("*norm", activation="relu", name="relu"),
    )
    run = fit(before, after)
    assert_close(measured(before)["net.norm"], expected(run.lightning_module, "net.norm"))
    assert_close(measured(after)["net.norm"], expected(run.lightning_module, "net.norm", after=torch.relu))
    values = [measured(callback)["net.norm"]["specialization"] for callback in (before, after)]
    assert not torch.allclose(*values, rtol=1e-3)


def test_the_output_of_a_module_of_its_own_is_measured_as_it_is() -> None:
    own, applied = ClassSpecializationCallback("ReLU"), ClassSpecializationCallback("net.second", activation="relu")
    fit(own, applied)
    assert_close(measured(own)["net.active"], measured(applied)["net.second"])


@pytest.mark.parametrize("options", [{"drop_fraction": 0.3}, {"balanced": True}], ids=str)
def test_options_are_those_of_the_metric(options: dict[str, Any]) -> None:
    plain, callback = ClassSpecializationCallback(), ClassSpecializationCallback(**options, name="other")
    run = fit(plain, callback)
    for layer in CONVOLUTIONS:
        assert_close(measured(callback)[layer], expected(run.lightning_module, layer, **options))
    assert differences(measured(callback), measured(plain))


def test_a_limit_looks_at_the_first_batches_only() -> None:
    callback = ClassSpecializationCallback(limit_batches=3)
    run = fit(callback)
    first = TensorDataset(*(tensor[:12] for tensor in data().tensors))
    assert_close(measured(callback)["net.first"], expected(run.lightning_module, "net.first", first))


class Tokens(Images):
    """A network with linear layers whose channels come last."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 7)

    def forward(self, images: Tensor) -> Tensor:
        return self.mix(images[:, 0]).sum(1)[:, :CLASSES]  # of (batch, places, channels)


def test_channels_of_linear_layers_are_the_last_dimension() -> None:
    callback = ClassSpecializationCallback("mix")
    run = fit(callback, module=Tokens())
    assert_close(measured(callback)["mix"], expected(run.lightning_module, "mix", after=lambda out: out.movedim(2, 1)))
    assert len(measured(callback)["mix"]["specialization"]) == 7


class Shared(Images):
    """A network that calls a layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(self.twice(images) + self.twice(2 * images))


def test_all_calls_of_a_layer_count_and_a_single_channel_is_no_scalar() -> None:
    callback = ClassSpecializationCallback("twice")
    run = fit(callback, module=Shared())
    images, labels = data().tensors
    layer = run.lightning_module.twice
    with torch.no_grad():
        sums = (layer(images).abs() + layer(2 * images).abs()).sum((1, 2, 3)).double()
    wanted = torch.stack([sums[labels == label].sum() for label in range(CLASSES)]) / sums.sum()
    torch.testing.assert_close(measured(callback)["twice"]["proportions"], wanted[None], rtol=1e-5, atol=0)
    assert measured(callback)["twice"]["specialization"].shape == (1,)
    assert measured(callback)["twice"]["activity_share"].tolist() == [1]


# When


class Split(LightningDataModule):
    """A user's data module, with its own setup for training."""

    def setup(self, stage: str) -> None:
        self.images = data() if stage == "fit" else data(7, seed=2)

    def train_dataloader(self) -> Any:
        return DataLoader(self.images, batch_size=4, shuffle=True)

    def test_dataloader(self) -> Any:
        return DataLoader(self.images, batch_size=4)


@pytest.mark.parametrize(("when", "expected_passes"), [("fit", (1, 1)), ("test", (0, 1)), ("both", (1, 2))])
def test_it_measures_at_the_end_of_fit_or_of_test(when: Any, expected_passes: tuple[int, int]) -> None:
    callback = ClassSpecializationCallback(when=when)
    passes: list[int] = []
    measure = callback.measure
    callback.measure = lambda *run: passes.append(1) or measure(*run)  # type: ignore[method-assign]  # a spy
    run = fit(callback)
    after_fit = len(passes)
    run.test(run.lightning_module, datamodule=Split(), verbose=False)
    assert (after_fit, len(passes)) == expected_passes
    assert list(callback.history) == ([2] if when != "test" else [])
    assert measured(callback).keys() == set(CONVOLUTIONS)


def test_it_also_measures_after_every_period_of_epochs() -> None:
    callback, seen = ClassSpecializationCallback(every_n_epochs=2), []
    spy = At(
        "on_train_epoch_end", lambda run, module: seen.append((list(callback.history), expected(module, "net.first")))
    )
    fit(callback, spy, max_epochs=5)
    assert [history for history, _ in seen] == [[], [2], [2], [2, 4], [2, 4]]
    assert list(callback.history) == [2, 4, 5]
    for index, epochs in ((1, 2), (3, 4)):
        recorded = callback.history[epochs]["net.first"]
        assert recorded.keys() == KEYS - {"proportions"}
        torch.testing.assert_close(recorded["specialization"], seen[index][1]["specialization"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("changes", [False, True])
def test_the_last_epoch_is_passed_once_unless_weights_change_after_it(changes: bool) -> None:
    callback, passes = ClassSpecializationCallback(every_n_epochs=1), []
    measure = callback.measure
    callback.measure = lambda *run: passes.append(1) or measure(*run)  # type: ignore[method-assign]  # a spy

    def change(run: Any, module: Any) -> None:
        module.net.norm.running_mean += changes

    run = fit(At("on_train_end", change), callback)
    assert len(passes) == 2 + changes
    measured_last = callback.history[2]["net.second"]["specialization"]
    torch.testing.assert_close(
        measured_last, expected(run.lightning_module, "net.second")["specialization"], rtol=1e-5, atol=0
    )


def test_a_second_fit_clears_the_measurements_of_the_first() -> None:
    callback = ClassSpecializationCallback(every_n_epochs=1)
    fit(callback, max_epochs=3)
    assert list(callback.history) == [1, 2, 3]
    fit(callback, max_epochs=1)
    assert list(callback.history) == [1]


def test_a_development_run_looks_at_as_few_batches_as_it_trains_with() -> None:
    callback = ClassSpecializationCallback()
    run = fit(callback, fast_dev_run=2)
    first = TensorDataset(*(tensor[:8] for tensor in data().tensors))
    assert_close(measured(callback)["net.first"], expected(run.lightning_module, "net.first", first))


# Logs and figures


def summary(values: Tensor) -> dict[str, float]:
    values = values[~values.isnan()]
    quartiles = torch.quantile(values, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    return dict(zip(("mean", "q25", "median", "q75"), [float(values.mean()), *quartiles], strict=True))


def test_every_logged_number_is_that_of_the_result(tmp_path: Path) -> None:
    module = Images()
    with torch.no_grad():
        module.net.first.weight[1] = 0
        module.net.first.bias[1] = 0
    module.net.first.requires_grad_(False)
    callback, logger = ClassSpecializationCallback(every_n_epochs=1), CSVLogger(tmp_path)
    run = fit(callback, module=module, logger=logger)
    logged = {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("specialization/")}
    wanted = {
        f"specialization/{layer}/{name}": value
        for layer in CONVOLUTIONS
        for name, value in {
            **summary(measured(callback)[layer]["specialization"]),
            "dead": float(measured(callback)[layer]["dead"]),
        }.items()
    }
    assert logged == pytest.approx(wanted)
    assert logged["specialization/net.first/dead"] == 1
    with Path(logger.log_dir, "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["specialization/net.first/mean"]]
    assert {name: float(rows[-1][name]) for name in wanted} == pytest.approx(wanted)
    assert [int(row["step"]) for row in rows] == [6, 12]
    assert float(rows[0]["specialization/net.second/mean"]) == pytest.approx(
        float(callback.history[1]["net.second"]["specialization"].mean())
    )


def test_without_the_callback_nothing_is_logged_of_specialization() -> None:
    assert not [name for name in fit().callback_metrics if name.startswith("specialization")]
    assert not [name for name in fit(ClassSpecializationCallback(), barebones=True).callback_metrics if "spec" in name]


def test_a_layer_that_is_all_dead_has_no_mean() -> None:
    module = Images()
    module.net.first.requires_grad_(False).weight.zero_()
    module.net.first.bias.requires_grad_(False).zero_()
    logged = fit(ClassSpecializationCallback(), module=module).callback_metrics
    assert [name for name in logged if name.startswith("specialization/net.first")] == ["specialization/net.first/dead"]
    assert logged["specialization/net.first/dead"] == 4


def test_a_picture_of_the_channels_is_sent_on_request_and_changes_nothing(tmp_path: Path) -> None:
    runs = []
    for pictures in (False, True):
        callback, logger = ClassSpecializationCallback(pictures=pictures), CSVLogger(tmp_path, name=str(pictures))
        runs.append(fit(callback, logger=logger))
        files = [path.relative_to(logger.log_dir).as_posix() for path in Path(logger.log_dir).rglob("*.png")]
        assert files == (["figures/specialization/layers.png"] if pictures else [])
    assert not differences(*(run.lightning_module.state_dict() for run in runs))
    (axes,) = draw_specialization(measured(callback)).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["first", "second"]
    assert axes.get_legend_handles_labels()[1][-1] == f"uniform, 1/{CLASSES}"


@pytest.mark.parametrize(
    ("layers", "pictures", "name", "clash"),
    [
        (None, False, None, "specialization/net.first, specialization/net.second"),
        ("*first", False, None, "specialization/net.first"),
        ("ReLU", False, None, None),
        ("ReLU", True, None, "specialization/layers"),
        (None, True, "val", None),
    ],
)
def test_two_may_not_log_the_same_names(
    layers: Any, pictures: bool, name: str | None, clash: str | None, tmp_path: Path
) -> None:
    first = ClassSpecializationCallback(pictures=pictures)
    other = ClassSpecializationCallback(layers, balanced=True, pictures=pictures, name=name)
    steps: list[int] = []
    message = rf"Expected each Class.* names of its own; got two for {clash}\. Cure: give one of them a name"
    with pytest.raises(MisconfigurationException, match=message) if clash else nullcontext():
        fit(first, other, counting(steps), default_root_dir=tmp_path)
    assert len(steps) == (0 if clash else 12)


class Late(Images):
    """A module whose layers are made after the setup of callbacks."""

    def __init__(self) -> None:
        super().__init__()
        del self.net

    def configure_model(self) -> None:
        self.net = Network()


def test_two_may_not_log_the_same_names_of_layers_that_are_made_later() -> None:
    with pytest.raises(MisconfigurationException, match=r"got two for specialization/\*\. Cure"):
        fit(ClassSpecializationCallback(), ClassSpecializationCallback(balanced=True), module=Late())
    named = ClassSpecializationCallback(balanced=True, name="balanced")
    fit(ClassSpecializationCallback(), named, module=Late())
    assert measured(named).keys() == set(CONVOLUTIONS)


def test_each_of_two_with_names_logs_its_own_numbers_and_pictures(tmp_path: Path) -> None:
    train = ClassSpecializationCallback(pictures=True)
    val = ClassSpecializationCallback(dataloader=loader(9, shuffle=False), pictures=True, name="val")
    logger = CSVLogger(tmp_path)
    logged = fit(train, val, logger=logger).callback_metrics
    for callback, prefix in ((train, "specialization"), (val, "specialization/val")):
        mean = measured(callback)["net.first"]["specialization"].mean()
        assert float(logged[f"{prefix}/net.first/mean"]) == pytest.approx(float(mean))
        assert Path(logger.log_dir, "figures", prefix, "layers.png").exists()
    assert differences(measured(train), measured(val))


# Checkpoints


def test_the_history_is_saved_and_resumed(tmp_path: Path) -> None:
    path = str(tmp_path / "two.ckpt")
    saving = At("on_train_epoch_end", lambda run, _: run.save_checkpoint(path) if run.current_epoch == 1 else None)

    def train(**options: Any) -> ClassSpecializationCallback:
        callback = ClassSpecializationCallback(every_n_epochs=1)
        fit(callback, saving, max_epochs=3, **options)
        return callback

    whole = train()
    saved = torch.load(path, weights_only=True)["callbacks"][whole.state_key]["history"]
    assert differences(saved, {epochs: whole.history[epochs] for epochs in (1, 2)}) == []
    resumed = train(ckpt_path=path)
    assert list(resumed.history) == [1, 2, 3]
    assert differences({epochs: resumed.history[epochs] for epochs in (1, 2)}, saved) == []


def test_a_finished_run_that_is_resumed_has_its_last_measurement_but_the_proportions(tmp_path: Path) -> None:
    whole, resumed, tested = (ClassSpecializationCallback(every_n_epochs=1) for _ in range(3))
    fit(whole).save_checkpoint(tmp_path / "end.ckpt")
    fit(resumed, ckpt_path=str(tmp_path / "end.ckpt"))
    trainer(tested).test(Images(), loader(shuffle=False), ckpt_path=tmp_path / "end.ckpt", verbose=False)
    wanted = {
        layer: {name: value for name, value in computed.items() if name != "proportions"}
        for layer, computed in measured(whole).items()
    }
    for callback in (resumed, tested):
        assert list(callback.history) == [1, 2]
        assert differences(measured(callback), wanted) == []
    assert str(compare(measured(resumed), measured(whole))) == str(compare(measured(whole), measured(whole)))


def test_a_run_without_measurements_saves_nothing(tmp_path: Path) -> None:
    callback = ClassSpecializationCallback()
    fit(callback, ModelCheckpoint(tmp_path, filename="one"), max_epochs=1)
    assert callback.state_key not in torch.load(tmp_path / "one.ckpt", weights_only=True)["callbacks"]


def test_testing_an_earlier_checkpoint_keeps_the_history(tmp_path: Path) -> None:
    callback = ClassSpecializationCallback(every_n_epochs=1, when="both")
    saving = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    run = fit(callback, saving, max_epochs=3)
    run.test(run.lightning_module, datamodule=Split(), ckpt_path=str(tmp_path / "epoch=0.ckpt"), verbose=False)
    assert list(callback.history) == [1, 2, 3]
    tested, recorded = measured(callback)["net.first"], callback.history[1]["net.first"]
    torch.testing.assert_close(tested["specialization"], recorded["specialization"], rtol=1e-6, atol=0)
    fresh = ClassSpecializationCallback(every_n_epochs=1, when="both")
    other = trainer(fresh, ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1))
    other.test(Images(), datamodule=Split(), ckpt_path=str(tmp_path / "epoch=1.ckpt"), verbose=False)
    assert list(fresh.history) == [1, 2]


def test_several_measure_side_by_side_with_states_of_their_own(tmp_path: Path) -> None:
    options: list[dict[str, Any]] = [
        {},
        {"layers": "ReLU"},
        {"layers": [nn.ReLU, "*first"], "name": "a"},
        {"drop_fraction": 0.05, "name": "b"},
        {"drop_fraction": 0.05, "name": "c"},
        {"dataloader": "val", "name": "d"},
    ]
    callbacks = [ClassSpecializationCallback(every_n_epochs=1, **each) for each in options]
    run = trainer(*callbacks, ModelCheckpoint(tmp_path, filename="one"), max_epochs=1)
    run.fit(Validated(), loader(), loader(shuffle=False))
    saved = torch.load(tmp_path / "one.ckpt", weights_only=True)["callbacks"]
    assert len({callback.state_key for callback in callbacks} & set(saved)) == 6
    assert ClassSpecializationCallback("ReLU").state_key == callbacks[1].state_key


def test_a_foreign_state_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"Expected the state of a ClassSpecializationCallback.*got \['masks'\].* Cure: "
    ):
        ClassSpecializationCallback().load_state_dict({"masks": 1})


def test_callbacks_are_copied_and_pickled() -> None:
    callback = ClassSpecializationCallback(layers=[nn.ReLU, "*first"], every_n_epochs=1)
    fit(callback)
    for copy in (deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert differences(copy.history, callback.history) == []
        fit(copy)
        assert differences(copy.history, callback.history) == []


# Classes


class Named(Images):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.save_hyperparameters()


class Attributed(Images):
    num_classes = 5


@pytest.mark.parametrize(
    ("module", "options", "classes"),
    [
        (Images, {}, CLASSES),
        (lambda: Named(4), {}, 4),
        (Attributed, {}, 5),
        (lambda: Named(4), {"num_classes": 6}, 6),
    ],
    ids=["labels", "hyperparameters", "attribute", "argument"],
)
def test_the_number_of_classes_is_found(module: Any, options: dict[str, int], classes: int) -> None:
    callback = ClassSpecializationCallback(**options)
    fit(callback, module=module())
    assert measured(callback)["net.first"]["proportions"].shape == (4, classes)


class OfFiveClasses(Split):
    num_classes = 5


def test_a_data_module_may_say_the_number_of_classes() -> None:
    for module, classes in ((Images(), 5), (Named(4), 4)):
        callback = ClassSpecializationCallback()
        trainer(callback, max_epochs=1).fit(module, OfFiveClasses())
        assert measured(callback)["net.first"]["proportions"].shape == (4, classes)


@pytest.mark.parametrize("when", ["fit", "test"])
@pytest.mark.parametrize(("shift", "classes"), [(1, 3), (-1, None), (0, 2)])
def test_labels_that_are_no_classes_are_an_error_before_the_first_step(
    shift: int, classes: int | None, when: Any
) -> None:
    images, labels = data().tensors
    batches, steps = DataLoader(TensorDataset(images, labels + shift), batch_size=4), []
    callback = ClassSpecializationCallback(num_classes=classes, when=when, dataloader=batches)
    run, module = trainer(callback, counting(steps), At("on_test_batch_end", lambda *_: steps.append(1))), Images()
    with pytest.raises(
        ValueError,
        match=r"In layer 'net.first': Expected 0 <= label < \d; got other labels for . images.* Cure: give the number",
    ):
        run.fit(module, loader()) if when == "fit" else run.test(module, loader(shuffle=False), verbose=False)
    assert steps == []


def rare(label: int) -> DataLoader[Any]:
    """Return images, the last with another label."""
    images, labels = data().tensors
    return DataLoader(TensorDataset(images, torch.cat([labels[:-1], torch.tensor([label])])), batch_size=4)


@pytest.mark.parametrize("every_n_epochs", [None, 2])
def test_a_failure_after_the_rehearsal_is_a_warning_and_training_ends_as_without_it(every_n_epochs: int | None) -> None:
    steps: list[int] = []
    callback = ClassSpecializationCallback(num_classes=3, dataloader=rare(3), every_n_epochs=every_n_epochs)
    with pytest.warns(UserWarning, match="Expected to measure class specialization after .* epochs; got") as warned:
        run = fit(callback, counting(steps), max_epochs=3)
    said = [str(each.message) for each in warned if "class specialization" in str(each.message)]
    assert [each.partition(" In layer")[0] for each in said] == [
        f"Expected to measure class specialization after {epochs} epochs; got ValueError:"
        for epochs in ([2, 3] if every_n_epochs else [3])
    ]
    assert "Expected 0 <= label < 3; got other labels for 1 images" in said[0]
    assert len(steps) == 18
    assert (callback.result, callback.history) == (None, {})
    assert differences(run.lightning_module.state_dict(), fit(max_epochs=3).lightning_module.state_dict()) == []


def test_a_failure_in_a_test_is_an_error() -> None:
    callback = ClassSpecializationCallback(num_classes=3, dataloader=rare(3), when="test")
    with pytest.raises(ValueError, match="Expected 0 <= label < 3; got other labels for 1 images"):
        trainer(callback).test(Images(), loader(shuffle=False), verbose=False)


def test_a_failed_measurement_clears_the_result_of_an_earlier_epoch() -> None:
    class Later(ClassSpecializationCallback):
        def unpack(self, batch: Any) -> tuple[Any, Tensor]:
            images, labels = super().unpack(batch)
            return images, labels + 7 * bool(self.history)

    callback = Later(num_classes=3, every_n_epochs=1)
    with pytest.warns(UserWarning, match="after 2 epochs; got ValueError"):
        fit(callback)
    assert list(callback.history) == [1]
    assert callback.result is None


def test_a_result_stays_if_a_logger_fails(tmp_path: Path) -> None:
    class Full(CSVLogger):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            if any(name.startswith("specialization") for name in metrics):
                raise OSError("the disk is full")

    callback = ClassSpecializationCallback()
    with pytest.warns(UserWarning, match="got OSError: the disk is full. Training continues"):
        fit(callback, logger=Full(tmp_path))
    assert list(callback.history) == [2]
    assert measured(callback).keys() == set(CONVOLUTIONS)


# Batches in other forms


class Rows(TensorDataset):
    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return {"image": image, "label": label, "name": str(index)}


class OfRows(Images):
    def loss(self, batch: Any) -> Tensor:
        return super().loss((batch["image"], batch["label"]))


class Unpacking(ClassSpecializationCallback):
    def unpack(self, batch: Any) -> tuple[Any, Tensor]:
        return batch["image"], batch["label"]


def test_batches_in_another_form_need_an_unpack_of_their_own() -> None:
    batches = DataLoader(Rows(*data().tensors), batch_size=4)
    with pytest.raises(
        TypeError,
        match=r"got a dict of 'image', 'label', 'name'\. Cure: override unpack.* of ClassSpecializationCallback",
    ):
        fit(ClassSpecializationCallback(), module=OfRows(), train=batches)
    callback = Unpacking()
    run = fit(callback, module=OfRows(), train=batches)
    assert_close(measured(callback)["net.first"], expected(run.lightning_module, "net.first"))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.zeros(2, 1), torch.zeros(2), torch.zeros(2)), "a tuple of Tensor, Tensor, Tensor"),
        (torch.zeros(2, 1), "a Tensor"),
        ([], "a list of nothing"),
        ((torch.zeros(2, 1), [0, 1]), "a tuple of Tensor, list"),
    ],
)
def test_the_error_describes_a_batch_in_another_form(batch: Any, message: str) -> None:
    with pytest.raises(
        TypeError, match=rf"Expected batches of \(images, labels\); got {message}\. Cure: override unpack"
    ):
        ClassSpecializationCallback().unpack(batch)


def test_labels_that_are_no_class_indices_are_refused() -> None:
    batches = DataLoader(TensorDataset(data().tensors[0], torch.rand(IMAGES, CLASSES)), batch_size=4)
    with pytest.raises(TypeError, match=r"Expected a tensor of integer labels; got torch.float32\. Cure: "):
        fit(ClassSpecializationCallback(), train=batches)


class WithoutForward(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.body = Network()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.body(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Calling(ClassSpecializationCallback):
    def forward(self, pl_module: LightningModule, images: Any) -> Any:
        return pl_module.body(images)


def test_modules_without_forward_need_one_of_the_callback() -> None:
    with pytest.raises(NotImplementedError, match=r"got WithoutForward.* Cure: .*override forward\(self, pl_module"):
        fit(ClassSpecializationCallback(), module=WithoutForward())
    callback = Calling()
    fit(callback, module=WithoutForward())
    assert list(measured(callback)) == ["body.first", "body.second"]


# Layers that can't be measured


class Unused(Images):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Conv2d(1, 2, 3)


def test_layers_that_are_not_called_are_left_out_with_a_warning() -> None:
    callback = ClassSpecializationCallback()
    with pytest.warns(
        UserWarning, match="Expected layers that forward calls; got no call of spare, which are left out"
    ):
        fit(callback, module=Unused())
    assert list(measured(callback)) == CONVOLUTIONS


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("spare", "Expected data and layers that forward calls; got no call of spare. Cure: "),
        (
            "conv*",
            r"Expected layers that 'conv\*' matches in Unused; got none. Cure: choose layers from net, net.first",
        ),
        (["*first", nn.Conv1d], "Expected layers that <class 'torch.*Conv1d'> matches"),
    ],
)
def test_layers_that_are_not_there_or_not_called_are_an_error_before_the_first_step(layers: Any, message: str) -> None:
    steps: list[int] = []
    with pytest.raises(ValueError, match=message):
        fit(
            ClassSpecializationCallback(layers), At("on_train_batch_start", lambda *_: steps.append(1)), module=Unused()
        )
    assert steps == []


class Judged(Images):
    """A module with a metric that has its own network."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = MeanMetric()
        self.judge.network = nn.Conv2d(1, 1, 1)


def test_networks_of_metrics_are_no_part_of_the_model() -> None:
    callback = ClassSpecializationCallback()
    fit(callback, module=Judged())
    assert list(measured(callback)) == CONVOLUTIONS
    with pytest.raises(ValueError, match=r"Expected layers that 'judge\*' matches"):
        fit(ClassSpecializationCallback("judge*"), module=Judged())


class Recurrent(Images):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.GRU(6, 6, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(self.rows(images[:, 0])[0][:, None])


class Linear(Tokens):
    """A module without convolutions."""

    def __init__(self) -> None:
        super().__init__()
        del self.net


class Patches(Images):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.repeat(2, 1, 1, 1))[: len(images)]


@pytest.mark.parametrize(
    ("module", "layers", "kind", "message"),
    [
        (Recurrent, "rows", TypeError, "Expected a layer whose output is a tensor; got a tuple from 'rows'. Cure: "),
        (Patches, "*first", ValueError, "In layer 'net.first': Expected one label per image, shape"),
        (Linear, None, ValueError, "Expected convolutions in Linear; got none. Cure: choose layers from mix"),
    ],
)
def test_outputs_that_do_not_fit_are_an_error_that_names_the_layer(
    module: Any, layers: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        fit(ClassSpecializationCallback(layers), module=module())


class Diverging(Images):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            self.net.second.weight.fill_(float("nan"))
        return super().training_step(batch, batch_idx)


def test_a_network_that_diverges_is_a_warning_that_names_the_layer() -> None:
    callback = ClassSpecializationCallback("*second")
    with pytest.warns(
        UserWarning, match=r"In layer 'net.second': Expected finite features; got NaN .* for 22 images.* Cure: look for"
    ):
        fit(callback, module=Diverging())
    assert callback.result is None


def test_activations_that_are_not_finite_are_an_error_before_the_first_step() -> None:
    module, steps = Images(), []
    with torch.no_grad():
        module.net.second.bias.fill_(float("inf"))
    with pytest.raises(ValueError, match=r"In layer 'net.second': Expected finite features; got NaN .* for 4 images"):
        fit(ClassSpecializationCallback("*second"), counting(steps), module=module)
    assert steps == []


# A rehearsal


class Broken(Images):
    """A module that fails in evaluation."""

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            raise RuntimeError("broken")
        return super().forward(images)


@pytest.mark.parametrize(("rehearsals", "steps"), [(2, 0), (-1, 0), (0, 12)])
def test_a_forward_that_fails_is_an_error_before_training_unless_rehearsals_are_off(
    rehearsals: int, steps: int
) -> None:
    counted: list[int] = []
    with pytest.warns(UserWarning, match="broken") if steps else pytest.raises(RuntimeError, match="broken"):
        fit(
            ClassSpecializationCallback(),
            counting(counted),
            module=Broken(),
            num_sanity_val_steps=rehearsals,
        )
    assert len(counted) == steps


@pytest.mark.parametrize("when", ["test", "both"])
def test_only_what_will_be_measured_is_rehearsed(when: Any) -> None:
    callback, tested = ClassSpecializationCallback("nothing*", when=when), []
    run = trainer(callback, At("on_test_batch_start", lambda *_: tested.append(1)), max_epochs=1)
    for fitting in (True, False):
        expectation = pytest.raises(ValueError, match="nothing") if when == "both" or not fitting else nullcontext()
        with expectation:
            run.fit(Images(), Split()) if fitting else run.test(Images(), Split(), verbose=False)
    assert tested == []


def test_a_rehearsal_looks_at_one_batch_and_measures_nothing() -> None:
    callback, seen = ClassSpecializationCallback(), []
    module = Images()
    module.net.first.register_forward_hook(lambda layer, args, out: seen.append((len(out), layer.training)))
    spy = At("on_train_start", lambda *_: seen.append((callback.result, dict(callback.history))))
    fit(callback, spy, module=module, max_epochs=1)
    assert seen[:3] == [(4, False), (None, {}), (4, True)]
    assert [passed for passed in seen[2:] if passed[1] is False] == [(4, False)] * 5 + [(2, False)]


class Lazy(Images):
    def __init__(self) -> None:
        super().__init__()
        self.net.last = nn.LazyLinear(CLASSES)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.first.parameters(), lr=0.05)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.filterwarnings("ignore:The total number of parameters detected may be inaccurate:UserWarning")
def test_there_is_no_rehearsal_with_layers_that_have_no_weights_yet() -> None:
    module, lazy = Lazy(), []
    spy = At("on_train_start", lambda run, module: lazy.append(type(module.net.last)))
    callback = ClassSpecializationCallback()
    fit(callback, spy, module=module)
    assert lazy == [nn.LazyLinear]
    assert measured(callback).keys() == set(CONVOLUTIONS)


# Other runs


class Manual(Images):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


def test_modules_may_optimize_by_themselves() -> None:
    callback = ClassSpecializationCallback(every_n_epochs=1)
    run = fit(callback, module=Manual())
    assert_close(measured(callback)["net.first"], expected(run.lightning_module, "net.first"))


@pytest.mark.filterwarnings("ignore:.*bfloat16.*:UserWarning")
@pytest.mark.parametrize(("precision", "tolerance"), [("bf16-mixed", 0.03), ("bf16-true", 0.03), ("64-true", 1e-12)])
def test_images_pass_in_the_precision_of_the_run(precision: Any, tolerance: float) -> None:
    callback, dtypes = ClassSpecializationCallback(), []
    module = Images()
    module.net.second.register_forward_hook(
        lambda layer, args, out: None if layer.training else dtypes.append(out.dtype)
    )
    run = fit(callback, module=module, precision=precision)
    precisions = set(dtypes)
    assert precisions == {torch.float64 if precision == "64-true" else torch.bfloat16}
    images, labels = data().tensors
    doubled = TensorDataset(images.double(), labels)
    wanted = expected(run.lightning_module.double(), "net.second", doubled)
    assert measured(callback)["net.second"]["specialization"].dtype == torch.float64
    assert_close(measured(callback)["net.second"], wanted, rtol=tolerance, atol=tolerance)


def compiled(part: str) -> tuple[ClassSpecializationCallback, Any, list[int]]:
    """Train and validate a compiled module; return callback, module, and the number of graphs after each epoch."""
    torch._dynamo.reset()
    module: Any = Validated()
    if part == "module":
        module = torch.compile(module, backend="eager")
    elif part == "network":
        module.net = torch.compile(module.net, backend="eager")
    else:
        module.net.first = torch.compile(module.net.first, backend="eager")
    callback, graphs = ClassSpecializationCallback(every_n_epochs=1), []
    count = At("on_train_epoch_end", lambda *_: graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"]))
    run = trainer(callback, count, max_epochs=3)
    run.fit(module, loader(20), loader(20, shuffle=False))
    torch._dynamo.reset()
    return callback, run.lightning_module, graphs


@pytest.mark.parametrize("part", ["module", "network", "layer"])
def test_compiled_modules_are_measured(part: str) -> None:
    callback, module, graphs = compiled(part)
    assert list(measured(callback)) == CONVOLUTIONS
    inner = "net._orig_mod.second" if part == "network" else "net.second"
    assert_close(measured(callback)["net.second"], expected(module, inner, data(20)))
    assert graphs[0] > 0


def test_wrapped_networks_are_measured_under_the_names_of_the_user() -> None:
    module = Images()
    module.net = nn.DataParallel(module.net)  # type: ignore[assignment]  # it stands in for it
    callback = ClassSpecializationCallback(layers=["net.first", "net.s*"])
    fit(callback, module=module)
    assert list(measured(callback)) == CONVOLUTIONS


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="before PyTorch 2.6, hooks recompile code")
@pytest.mark.parametrize("part", ["module", "network", "layer"])
def test_nothing_is_compiled_for_a_measurement(part: str) -> None:
    _, _, graphs = compiled(part)
    assert graphs == [graphs[0]] * 3


def test_sparse_training_is_measured_and_not_changed() -> None:
    def train(*others: Any) -> tuple[Any, Any]:
        sparse = SparseMomentumCallback(density=0.3, growth="random")
        run = fit(sparse, *others, max_epochs=3)
        return sparse.state_dict(), {name: value.clone() for name, value in run.lightning_module.state_dict().items()}

    callback = ClassSpecializationCallback(every_n_epochs=1)
    assert differences(train(), train(callback)) == []
    assert list(callback.history) == [1, 2, 3]


def test_averages_of_weights_are_measured_where_the_callback_comes_later() -> None:
    def train(*, later: bool) -> tuple[Any, Any]:
        callback = ClassSpecializationCallback(every_n_epochs=1)
        averaging, module = StochasticWeightAveraging(0.5, swa_epoch_start=1), Images()
        module.net.norm = nn.Identity()  # batch norm would add an epoch, in which averages are set already
        fit(*((averaging, callback) if later else (callback, averaging)), module=module, max_epochs=3)
        return module, measured(callback)["net.first"]

    module, computed = train(later=True)
    assert_close(computed, expected(module, "net.first"))
    with pytest.warns(
        UserWarning, match="Expected callbacks that average weights before .* got StochasticWeightAveraging"
    ):
        module, computed = train(later=False)
    assert not torch.allclose(computed["specialization"], expected(module, "net.first")["specialization"], rtol=1e-6)


def test_it_works_under_the_other_name_of_lightning() -> None:
    other = pytest.importorskip("pytorch_lightning")

    class Module(other.LightningModule):  # type: ignore[misc, name-defined]  # one of two packages
        def __init__(self) -> None:
            super().__init__()
            self.net = Network()

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    silent = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    callback, module = ClassSpecializationCallback(every_n_epochs=1), Module()
    other.Trainer(accelerator="cpu", max_epochs=2, callbacks=callback, **silent).fit(module, loader())
    assert_close(measured(callback)["net.first"], expected(module, "net.first"))


class ModelParallelStrategy:
    """Named like Lightning's."""


def test_strategies_that_split_modules_are_refused() -> None:
    from types import SimpleNamespace

    run: Any = SimpleNamespace(strategy=ModelParallelStrategy(), world_size=2)
    with pytest.raises(MisconfigurationException, match=r"got ModelParallelStrategy\. Cure: "):
        ClassSpecializationCallback().setup(run, Images(), "fit")
    run.strategy = object()
    with pytest.raises(MisconfigurationException, match=r"torch\.distributed; got object\. Cure: "):
        ClassSpecializationCallback().setup(run, Images(), "fit")


# Arguments


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"layers": []}, ValueError, "at least one pattern"),
        ({"layers": 3}, TypeError, "a glob or a module type"),
        ({"dataloader": "predict"}, ValueError, "dataloader from train, val, test; got 'predict'"),
        ({"dataloader": iter([])}, TypeError, "iterated more than once; got a list_iterator"),
        ({"dataloader": 3}, TypeError, "iterated more than once; got a int"),
        ({"num_classes": 1}, ValueError, "num_classes >= 2"),
        ({"when": "epoch"}, ValueError, "when from fit, test, both; got 'epoch'"),
        ({"every_n_epochs": 0}, ValueError, "a period every_n_epochs of at least 1, an integer; got 0"),
        ({"every_n_epochs": 1.5}, ValueError, "a period every_n_epochs of at least 1, an integer; got 1.5"),
        ({"activation": "gelu"}, ValueError, "activation from none, relu; got 'gelu'"),
        ({"drop_fraction": 1}, ValueError, "0 <= drop_fraction < 1; got 1"),
        ({"name": " "}, ValueError, "name to be a word, or None; got ' '"),
        ({"name": 3}, ValueError, "name to be a word, or None; got 3"),
        ({"limit_batches": True}, ValueError, "limit_batches >= 1, an integer, or None; got True"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_once(
    options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=f"Expected .*{message}.* Cure: "):
        ClassSpecializationCallback(**options)


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_the_command_line_knows_all_arguments() -> None:
    from lightning_sparse.experiments.sparse_cli import SparseCLI

    wanted = {
        "layers": "[ReLU,net.*]",
        "dataloader": "val",
        "num_classes": "7",
        "when": "both",
        "every_n_epochs": "3",
        "activation": "relu",
        "drop_fraction": "0.05",
        "balanced": "true",
        "limit_batches": "9",
        "name": "held_out",
    }
    arguments = [f"--trainer.callbacks.{name}={value}" for name, value in wanted.items()]
    base = ["--config", "digits_lenet300", "--trainer.logger", "false", "--trainer.accelerator", "cpu"]
    cli = SparseCLI([*base, "--trainer.callbacks+=ClassSpecializationCallback", *arguments], run=False)
    (callback,) = [each for each in cli.trainer.callbacks if isinstance(each, ClassSpecializationCallback)]
    assert callback._measurement == Measurement(
        layers=["ReLU", "net.*"],
        data="val",
        num_classes=7,
        activation="relu",
        limit_batches=9,
        metric_options={"drop_fraction": 0.05, "balanced": True},
    )
    assert (callback._when, callback._cadence, callback._name) == ("both", Cadence(3), "held_out")


def test_it_is_exported() -> None:
    assert Exported is ClassSpecializationCallback
