"""A figure reaches every logger by the logger's own method, or a file, and never ends a run."""

from __future__ import annotations

import inspect
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from matplotlib.figure import Figure
from tiny_training import At, fit, trainer

from lightning_sparse.callbacks.probing.figure_logging import send_figure

PNG = b"\x89PNG\r\n\x1a\n"
needs_tensorboard = pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs TensorBoard")


class Silent(Logger):
    """A logger of a user that takes no figures and has no folder."""

    name, version = "silent", 0

    def __init__(self) -> None:
        super().__init__()
        self.got: list[tuple[Any, ...]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Nothing is kept."""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing is kept."""


class LikeWandb(Silent):
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self.got += [(key, image, step) for image in images]


class LikeTensorBoard(Silent):
    @property
    def experiment(self) -> Any:
        def add_figure(
            tag: str, figure: Any, global_step: int | None = None, close: bool = True, walltime: float | None = None
        ) -> None:
            self.got.append((tag, figure, global_step))

        return SimpleNamespace(add_figure=add_figure)


class LikeMLflow(Silent):
    run_id = "run 7"

    @property
    def experiment(self) -> Any:
        def log_figure(run_id: str, figure: Any, artifact_file: str, *, save_kwargs: Any = None) -> None:
            self.got.append((run_id, figure, artifact_file))

        return SimpleNamespace(log_figure=log_figure)


class LikeComet(Silent):
    @property
    def experiment(self) -> Any:
        def log_figure(
            figure_name: str | None = None, figure: Any = None, overwrite: bool = False, step: int | None = None
        ) -> None:
            self.got.append((figure_name, figure, step))

        return SimpleNamespace(log_figure=log_figure)


TAKING = [LikeWandb, LikeTensorBoard, LikeMLflow, LikeComet]


def new_figure() -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.add_subplot().plot([0, 1])
    return figure


def refuse(*_: Any, **__: Any) -> Any:
    raise ConnectionError("no network")


@pytest.mark.parametrize("kind", TAKING)
def test_a_logger_that_takes_figures_gets_it_with_its_name_and_the_step(tmp_path: Path, kind: type[Silent]) -> None:
    logger, figure, places = kind(), new_figure(), []
    sending = At("on_train_end", lambda run, _: places.extend(send_figure(run, "a/b", figure)))
    fit(sending, logger=logger, default_root_dir=tmp_path, log_every_n_steps=1)
    expected = ("run 7", figure, "figures/a/b.png") if kind is LikeMLflow else ("a/b", figure, 9)
    assert logger.got == [expected]
    assert places == [f"{kind.__name__}: a/b"]
    assert list(tmp_path.iterdir()) == []


def test_calls_match_the_signatures_of_lightnings_loggers() -> None:
    call = {"key": "name", "images": [new_figure()], "step": 3}
    assert inspect.signature(WandbLogger.log_image).bind(None, **call)
    assert inspect.signature(LikeWandb.log_image).bind(None, **call)
    loggers = import_module("lightning.pytorch.loggers")
    assert not hasattr(loggers.MLFlowLogger, "log_image")
    assert hasattr(loggers.MLFlowLogger, "run_id")
    assert not hasattr(loggers.CometLogger, "run_id")
    assert not hasattr(loggers.CometLogger, "log_image")


def test_a_csv_logger_gets_a_file_in_its_folder_which_the_next_figure_replaces(tmp_path: Path) -> None:
    logger, sizes = CSVLogger(tmp_path), []

    def send(run: Trainer, _: Any) -> None:
        figure = Figure(figsize=(1 + run.current_epoch, 1), dpi=100)
        (place,) = send_figure(run, "sparsity/density", figure)
        sizes.append(Path(place).stat().st_size)

    fit(At("on_train_epoch_end", send), logger=logger, log_every_n_steps=1)
    files = [path for path in tmp_path.rglob("*") if path.suffix == ".png"]
    assert files == [Path(logger.log_dir, "figures", "sparsity", "density.png")]
    content = files[0].read_bytes()
    assert content.startswith(PNG)
    assert int.from_bytes(content[16:20], "big") == 300  # the width of the third
    assert len(sizes) == 3


def test_without_loggers_the_file_is_in_the_trainers_folder(tmp_path: Path) -> None:
    run = trainer(default_root_dir=tmp_path)
    assert send_figure(run, "density", new_figure()) == [str(tmp_path / "figures" / "density.png")]
    assert (tmp_path / "figures" / "density.png").read_bytes().startswith(PNG)


def test_a_logger_without_a_folder_gets_a_file_in_the_trainers(tmp_path: Path) -> None:
    run = trainer(default_root_dir=tmp_path, logger=[Silent(), Silent()])
    assert send_figure(run, "density", new_figure()) == [str(tmp_path / "figures" / "density.png")]


def test_a_logger_with_a_folder_but_none_for_each_run_gets_a_file_there(tmp_path: Path) -> None:
    class Saving(Silent):
        save_dir = str(tmp_path / "there")

    assert send_figure(trainer(logger=Saving()), "density", new_figure()) == [
        str(tmp_path / "there" / "figures" / "density.png")
    ]


def test_every_logger_gets_it_and_it_is_drawn_once(tmp_path: Path) -> None:
    taking, drawn = [kind() for kind in TAKING], []

    def draw() -> Figure:
        drawn.append(new_figure())
        return drawn[-1]

    csv = [CSVLogger(tmp_path, name="first"), CSVLogger(tmp_path, name="second")]
    places = send_figure(trainer(logger=[*csv, *taking]), "density", draw)
    assert len(drawn) == 1
    assert [logger.got[0][1] for logger in taking] == drawn * 4
    assert places[:4] == [f"{kind.__name__}: density" for kind in TAKING]
    assert places[4:] == [str(Path(logger.log_dir, "figures", "density.png")) for logger in csv]
    assert all(Path(place).is_file() for place in places[4:])


def test_a_folder_may_be_a_url() -> None:
    (place,) = send_figure(trainer(default_root_dir="memory://figures"), "a/b", new_figure())
    assert place == "memory://figures/figures/a/b.png"
    with fsspec.open(place) as file:
        assert file.read().startswith(PNG)


@needs_tensorboard
def test_tensorboard_gets_an_image(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit(At("on_train_end", lambda run, _: send_figure(run, "a/b", new_figure())), logger=logger, log_every_n_steps=1)
    reading = import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reading.EventAccumulator(logger.log_dir)
    events.Reload()
    (image,) = events.Images("a/b")
    assert image.step == 9
    assert image.encoded_image_string.startswith(PNG)


@pytest.mark.filterwarnings("ignore:.*barebones")
@pytest.mark.parametrize("options", [{"fast_dev_run": True}, {"barebones": True}], ids=str)
def test_nothing_is_drawn_in_runs_that_log_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    run = trainer(default_root_dir=tmp_path, **options)
    assert send_figure(run, "density", refuse) == []
    assert list(tmp_path.rglob("*")) == []


def test_nothing_is_sent_where_lightning_silences_a_logger(tmp_path: Path) -> None:
    run = trainer(default_root_dir=tmp_path, logger=DummyLogger())
    assert send_figure(run, "density", new_figure()) == []
    assert list(tmp_path.rglob("*")) == []


def test_only_rank_zero_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = LikeComet()
    run = trainer(default_root_dir=tmp_path, logger=logger)
    monkeypatch.setattr(type(run), "is_global_zero", False)
    assert send_figure(run, "density", refuse) == []
    assert (logger.got, list(tmp_path.rglob("*"))) == ([], [])


@pytest.mark.parametrize("kind", TAKING)
def test_a_logger_that_fails_is_warned_of_once_and_training_continues_with_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Silent]
) -> None:
    broken = SimpleNamespace(add_figure=refuse, log_figure=refuse)
    monkeypatch.setattr(*((kind, "log_image", refuse) if kind is LikeWandb else (kind, "experiment", broken)))
    places: list[str] = []
    sending = At("on_train_epoch_end", lambda run, _: places.extend(send_figure(run, "density", new_figure())))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = fit(sending, logger=kind(), default_root_dir=tmp_path, log_every_n_steps=1)
    messages = [str(each.message) for each in caught if "figure" in str(each.message)]
    assert len(messages) == 1
    assert messages[0].startswith(
        f"Expected {kind.__name__} to take the figure 'density'; got ConnectionError: no network."
    )
    assert " Cure: " in messages[0]
    assert run.current_epoch == 3
    assert places == [str(tmp_path / "figures" / "density.png")] * 3
    with pytest.warns(UserWarning, match="no network"):  # another run warns again
        send_figure(trainer(logger=kind(), default_root_dir=tmp_path), "density", new_figure())


def test_a_failure_of_one_logger_does_not_affect_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LikeWandb, "log_image", refuse)
    last = LikeComet()
    run = trainer(logger=[LikeWandb(), last], default_root_dir=tmp_path)
    with pytest.warns(UserWarning, match="Expected LikeWandb to take"):
        places = send_figure(run, "density", new_figure())
    assert len(last.got) == 1
    assert places == ["LikeComet: density", str(tmp_path / "figures" / "density.png")]


def test_a_logger_that_fails_at_everything_causes_only_a_warning(tmp_path: Path) -> None:
    class Broken(Silent):
        experiment = log_dir = save_dir = property(refuse)

    run = trainer(logger=Broken(), default_root_dir=tmp_path)
    with pytest.warns(UserWarning, match="Expected Broken to take .*; got ConnectionError: no network"):
        assert send_figure(run, "density", new_figure()) == [str(tmp_path / "figures" / "density.png")]


def test_a_folder_that_cannot_be_written_to_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("a file where the folder should be")
    run = trainer(default_root_dir=tmp_path)
    with pytest.warns(UserWarning, match=r"Expected to write .*density.png; got .*Error: .* Cure: "):
        assert send_figure(run, "density", new_figure()) == []


def test_a_figure_that_cannot_be_drawn_is_warned_of(tmp_path: Path) -> None:
    run = trainer(default_root_dir=tmp_path)
    with pytest.warns(UserWarning, match=r"Expected a figure 'density'; got ConnectionError: no network.* Cure: "):
        assert send_figure(run, "density", refuse) == []
    assert list(tmp_path.rglob("*")) == []


def test_a_keyboard_interrupt_while_drawing_is_raised(tmp_path: Path) -> None:
    def interrupted() -> Figure:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        send_figure(trainer(default_root_dir=tmp_path), "density", interrupted)
