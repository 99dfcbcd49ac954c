"""One line in the Trainer's callbacks draws where active weights are and went, and changes nothing else."""

from __future__ import annotations

import pickle
import sys
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.loggers import Logger
from lightning.pytorch.tuner.tuning import Tuner
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from tiny_training import At, ShufflingLoader, TinyModule, differences, everything, fit, masks_of, saving_at, trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_sparse import SparseMomentumCallback, SparsityPictures
from lightning_sparse._compat import MisconfigurationException
from lightning_sparse.callbacks.sparse_training.figure_data import density_curves, image_shapes, share_curves
from lightning_sparse.methods.history import UpdateRecord
from lightning_sparse.methods.timetable import Cadence
from lightning_sparse.network.budget import LayerDensity
from lightning_sparse.topology.plan import LayerChange

ALL = [f"sparsity/{name}" for name in ("density_per_layer", "redistribution", "empty_channels", "first_layer")]


class Gallery(Logger):
    """A user's logger that takes figures."""

    name, version = "gallery", 0

    def __init__(self) -> None:
        super().__init__()
        self.got: list[tuple[int | None, str, Figure]] = []

    def log_image(self, key: str, images: list[Figure], step: int | None = None) -> None:
        self.got += [(step, key, image) for image in images]

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Nothing is kept."""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing is kept."""

    def last(self, name: str) -> Figure:
        """Return the last picture of a name."""
        return [image for _, key, image in self.got if key == f"sparsity/{name}"][-1]


def train(*callbacks: Any, **options: Any) -> Gallery:
    """Train with a logger that keeps the pictures, and return it."""
    gallery = Gallery()
    fit(*callbacks, logger=gallery, log_every_n_steps=1, **options)
    return gallery


def sparse(**options: Any) -> SparseMomentumCallback:
    return SparseMomentumCallback(**{"density": 0.3, "schedule": "constant", **options})


@pytest.mark.parametrize("first", [True, False], ids=["before it", "after it"])
def test_one_line_draws_four_pictures_at_the_end(first: bool) -> None:
    callbacks = [SparsityPictures(), sparse()] if first else [sparse(), SparsityPictures()]
    assert [(step, name) for step, name, _ in train(*callbacks).got] == [(9, name) for name in ALL]


def test_without_the_line_nothing_is_drawn() -> None:
    assert train(sparse()).got == []


def test_densities_equal_a_recount_of_the_masks() -> None:
    callback, counted = sparse(), {"net.0": [], "net.3": []}  # type: ignore[var-annotated]  # lists of numbers

    def count(*_: Any) -> None:
        for name, mask in masks_of(callback).items():
            counted[name.removesuffix(".weight")].append(100 * mask.float().mean().item())

    gallery = train(callback, SparsityPictures(), At("on_train_epoch_end", count), max_epochs=4)
    (axes,) = gallery.last("density_per_layer").axes
    drawn = {str(line.get_label()): np.asarray(line.get_ydata(), float) for line in axes.lines}
    assert [list(np.asarray(line.get_xdata())) for line in axes.lines] == [[0, 1, 2, 3, 4]] * 2
    for name, expected in counted.items():
        np.testing.assert_allclose(drawn[name], [*expected, expected[-1]], rtol=1e-6)
    assert len(set(counted["net.0"])) > 1
    assert axes.get_xlabel() == "epochs completed"


def test_shares_are_those_of_the_history() -> None:
    callback = sparse()
    (axes,) = train(callback, SparsityPictures(), max_epochs=4).last("redistribution").axes
    for patch, name in zip(axes.patches, ("net.0.weight", "net.3.weight"), strict=True):
        assert isinstance(patch, StepPatch)
        tops, edges, bottoms = patch.get_data()
        expected = [100 * record.layers[name].share for record in callback.history]
        np.testing.assert_allclose(np.asarray(tops) - bottoms, expected)
        np.testing.assert_allclose(edges, [0.5, 1.5, 2.5, 3.5])


def test_updates_in_steps_are_drawn_over_steps() -> None:
    callback = sparse(every_n_steps=2)
    gallery = train(callback, SparsityPictures())
    (axes,) = gallery.last("density_per_layer").axes
    assert list(np.asarray(axes.lines[0].get_xdata())) == [0, 2, 4, 6, 8, 9]
    assert axes.get_xlabel() == gallery.last("redistribution").axes[0].get_xlabel() == "optimizer steps"


def test_a_run_without_updates_has_no_picture_of_shares() -> None:
    gallery = train(sparse(), SparsityPictures(), max_epochs=1)
    assert [name for _, name, _ in gallery.got] == [name for name in ALL if "redistribution" not in name]
    assert list(np.asarray(gallery.last("density_per_layer").axes[0].lines[0].get_xdata())) == [0, 1]


def test_empty_channels_and_the_first_mask_are_those_at_the_end() -> None:
    callback = sparse(density=0.1)
    gallery = train(callback, SparsityPictures())
    masks = masks_of(callback)
    inputs, outputs = gallery.last("empty_channels").axes[0].containers
    for bars, dim in ((inputs, 0), (outputs, 1)):
        expected = [100 * (~mask.any(dim=dim)).float().mean().item() for mask in masks.values()]
        assert [bar.get_width() for bar in bars] == [pytest.approx(each) for each in expected]
    image = gallery.last("first_layer").axes[0].images[0].get_array()
    np.testing.assert_array_equal(np.asarray(image), masks["net.0.weight"].numpy())


class OfImages(TinyModule):
    """Gets images of 4 x 4 pixels and two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(32, 5), nn.ReLU(), nn.Linear(5, 4))


def images(*shape: int) -> DataLoader[Any]:
    source = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(8, *shape, generator=source), torch.arange(8) % 4), batch_size=4)


WITHOUT_VALIDATION = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


def train_on(loader: Any, *callbacks: Any, **options: Any) -> Gallery:
    """Train a network of images and return the pictures."""
    gallery = Gallery()
    trainer(*callbacks, logger=gallery, log_every_n_steps=1, **options).fit(OfImages(), loader)
    return gallery


@WITHOUT_VALIDATION
def test_pixels_of_square_images_are_drawn_as_pixels() -> None:
    callback = sparse()
    gallery = train_on(images(2, 4, 4), callback, SparsityPictures())
    axes, bar = gallery.last("first_layer").axes
    counts = masks_of(callback)["net.1.weight"].sum(dim=0).view(2, 4, 4).sum(dim=0)
    np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), counts.numpy())
    assert "connections" in bar.get_ylabel()


@WITHOUT_VALIDATION
def test_other_inputs_are_not_taken_for_images() -> None:
    gallery = train_on(images(32), sparse(), SparsityPictures())
    assert np.asarray(gallery.last("first_layer").axes[0].images[0].get_array()).shape == (5, 32)


@pytest.mark.parametrize(
    ("batch", "shapes"),
    [
        (torch.zeros(7, 1, 28, 28), [(1, 28, 28)]),
        ([torch.zeros(7, 28, 28), torch.zeros(7)], [(28, 28)]),
        ({"x": (torch.zeros(7, 3, 8, 8), {"y": torch.zeros(7, 3, 4, 4)})}, [(3, 8, 8), (3, 4, 4)]),
        (torch.zeros(7, 28, 28, 1), []),
        (torch.zeros(7, 1, 20, 28), []),
        (torch.zeros(7, 64), []),
        (torch.zeros(7, 5, 1, 1), []),
        ("text", []),
        (None, []),
    ],
)
def test_square_images_are_found_in_batches(batch: object, shapes: list[tuple[int, ...]]) -> None:
    assert image_shapes(batch) == shapes


@pytest.mark.parametrize(("period", "epochs"), [(None, [5]), (1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_pictures_are_drawn_every_so_many_epochs_and_once_at_the_end(period: int | None, epochs: list[int]) -> None:
    got = train(sparse(), SparsityPictures(every_n_epochs=period), max_epochs=5).got
    expected = [(3 * epoch, name) for epoch in epochs for name in ALL if epoch > 1 or "redistribution" not in name]
    assert [(step, name) for step, name, _ in got] == expected


def test_the_last_epoch_may_be_cut_short() -> None:
    gallery = train(sparse(), SparsityPictures(1), max_epochs=-1, max_steps=5)
    assert [step for step, name, _ in gallery.got if name == ALL[0]] == [3, 5]


@pytest.mark.parametrize("first", [True, False], ids=["before it", "after it"])
def test_the_epoch_that_weight_averaging_adds_is_not_drawn(first: bool) -> None:
    swa, pictures = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1), SparsityPictures(1)
    module = TinyModule()
    gallery = train(*([pictures, swa] if first else [swa, pictures]), sparse(), module=module, max_epochs=3)
    assert sum(name == ALL[0] for _, name, _ in gallery.got) == 3
    assert np.asarray(gallery.last("density_per_layer").axes[0].lines[0].get_xdata()).max() == 3


def test_a_resumed_run_draws_all_of_it(tmp_path: Path) -> None:
    fit(sparse(), saving_at(5, tmp_path / "one.ckpt"))
    gallery = train(sparse(), SparsityPictures(), ckpt_path=str(tmp_path / "one.ckpt"), max_epochs=4)
    assert list(np.asarray(gallery.last("density_per_layer").axes[0].lines[0].get_xdata())) == [0, 1, 2, 3, 4]


@WITHOUT_VALIDATION
def test_one_callback_serves_several_fits() -> None:
    pictures = SparsityPictures()
    for loader, pixels in ((images(2, 4, 4), True), (images(32), False)):
        gallery = train_on(loader, sparse(), pictures)
        assert [name for _, name, _ in gallery.got] == ALL
        assert ("connections" in gallery.last("first_layer").axes[0].get_title()) is pixels


def test_a_run_with_pictures_is_the_same_run() -> None:
    def end(*more: SparsityPictures) -> dict[str, Any]:
        torch.manual_seed(7)
        callback = sparse(growth="random")
        run = fit(callback, *more, logger=Gallery(), log_every_n_steps=1)
        return {**everything(run, callback), "random": torch.get_rng_state()}

    assert differences(end(), end(SparsityPictures(1))) == []


def test_a_picture_that_fails_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise ArithmeticError("no picture of this")

    monkeypatch.setattr("lightning_sparse.callbacks.sparse_training.figures.density_curves", fail)
    monkeypatch.setattr("lightning_sparse.callbacks.sparse_training.figures._masks", fail)
    with pytest.warns(UserWarning, match="no picture of this") as caught:
        gallery = train(sparse(), SparsityPictures(1))
    assert [name for _, name, _ in gallery.got] == ["sparsity/redistribution"] * 2
    # Each of the other three once, not after every epoch.
    assert sum("no picture of this" in str(each.message) for each in caught) == 3


def test_without_sparse_training_the_error_names_the_cure() -> None:
    with pytest.raises(
        MisconfigurationException, match=r"Expected a callback for sparse training.*; got none.* Cure: "
    ):
        fit(SparsityPictures())


def test_without_matplotlib_the_error_comes_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("lightning_sparse.analysis.pictures")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    module = TinyModule()
    before = deepcopy(module.state_dict())
    with pytest.raises(ModuleNotFoundError, match=r"Expected the package matplotlib.*; got none. Cure: pip install"):
        fit(sparse(), SparsityPictures(), module=module)
    assert differences(before, module.state_dict()) == []


@pytest.mark.filterwarnings("ignore:.*barebones")
@pytest.mark.parametrize("options", [{"fast_dev_run": True}, {"barebones": True, "limit_val_batches": 0}], ids=str)
def test_runs_that_log_nothing_draw_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    fit(sparse(), SparsityPictures(1), default_root_dir=tmp_path, **options)
    assert list(tmp_path.rglob("*.png")) == []


def test_evaluation_draws_nothing_and_asks_for_no_sparse_training(tmp_path: Path) -> None:
    run = trainer(SparsityPictures(), default_root_dir=tmp_path)
    run.validate(TinyModule(), ShufflingLoader(1), verbose=False)
    assert list(tmp_path.rglob("*.png")) == []


def test_a_tuner_draws_nothing(tmp_path: Path) -> None:
    run = trainer(sparse(), SparsityPictures(1), default_root_dir=tmp_path)
    Tuner(run).lr_find(TinyModule(), ShufflingLoader(), ShufflingLoader(1), num_training=3, early_stop_threshold=None)
    assert list(tmp_path.rglob("*.png")) == []


def test_it_can_be_copied_and_pickled_in_every_run() -> None:
    pictures = SparsityPictures(2)

    def look(*_: Any) -> None:
        assert pickle.loads(pickle.dumps(pictures))._cadence == deepcopy(pictures)._cadence == Cadence(2)

    fit(sparse(), pictures, At("on_train_batch_end", look), logger=Gallery(), log_every_n_steps=1)


@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
def test_it_is_a_callback_of_either_package(name: str) -> None:
    assert isinstance(SparsityPictures(), pytest.importorskip(name).Callback)


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_the_command_line_knows_it_by_name() -> None:
    cli = import_module("lightning.pytorch.cli").LightningCLI
    arguments = ["--trainer.callbacks+=SparsityPictures", "--trainer.callbacks.every_n_epochs=2"]
    silent = ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    built = cli(TinyModule, run=False, args=[*silent, *arguments], save_config_callback=None, seed_everything_default=0)
    (found,) = [each for each in built.trainer.callbacks if isinstance(each, SparsityPictures)]
    assert found._cadence == Cadence(2)


@pytest.mark.parametrize("period", [0, -1, 1.5, True, "2"])
def test_a_period_that_is_none_is_refused(period: Any) -> None:
    with pytest.raises(ValueError, match=r"Expected a period every_n_epochs of at least 1.*; got .*\. Cure: "):
        SparsityPictures(every_n_epochs=period)


def test_layers_that_are_kept_dense_are_not_drawn() -> None:
    gallery = train(sparse(dense="net.0", density=0.8), SparsityPictures())
    assert [line.get_label() for line in gallery.last("density_per_layer").axes[0].lines] == ["net.3"]
    assert [label.get_text() for label in gallery.last("empty_channels").axes[0].get_yticklabels()] == ["net.3"]
    assert np.asarray(gallery.last("first_layer").axes[0].images[0].get_array()).shape == (4, 8)


def record(epoch: int, *changes: LayerChange) -> UpdateRecord:
    return UpdateRecord(epoch, 10 * epoch, 0.5, {change.name: change for change in changes})


def change(name: str, before: int, grown: int, share: float) -> LayerChange:
    return LayerChange(name, size=10, before=before, pruned=2, grown=grown, share=share)


LAYERS = {
    "a": LayerDensity((2, 5), 10, 6, dense=False),
    "b": LayerDensity((2, 5), 10, 3, dense=False),
    "c": LayerDensity((2, 5), 10, 10, dense=True),
}
HISTORY = [
    record(1, change("a", 4, 3, 0.7), change("b", 4, 1, 0.3)),
    record(2, change("a", 5, 3, 1.0)),  # b is frozen
    record(3, change("a", 6, 2, 0.5), change("b", 3, 2, 0.5)),
]


def test_a_layer_that_is_left_out_of_an_update_keeps_its_density_and_has_no_share() -> None:
    epochs, densities = density_curves(HISTORY, LAYERS, "epoch", (0, 5))
    assert epochs == [0, 1, 2, 3, 5]
    assert densities == {"a": [0.4, 0.5, 0.6, 0.6, 0.6], "b": [0.4, 0.3, 0.3, 0.3, 0.3]}
    steps, shares = share_curves(HISTORY, LAYERS, "step")
    assert steps == [10, 20, 30]
    np.testing.assert_array_equal(shares["a"], [0.7, 1.0, 0.5])
    np.testing.assert_array_equal(shares["b"], [0.3, np.nan, 0.5])


@pytest.mark.parametrize(("now", "epochs"), [(3, [0, 1, 2, 3]), (2, [0, 1, 2, 3]), (4, [0, 1, 2, 3, 4])])
def test_the_curve_ends_where_the_run_is(now: int, epochs: list[int]) -> None:
    assert density_curves(HISTORY, LAYERS, "epoch", (0, now))[0] == epochs


def test_without_updates_the_density_is_that_of_the_layers() -> None:
    assert density_curves([], LAYERS, "step", (7, 9)) == ([7, 9], {"a": [0.6, 0.6], "b": [0.3, 0.3]})
