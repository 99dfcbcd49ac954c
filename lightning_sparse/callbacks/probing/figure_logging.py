"""Figures for any loggers that a Trainer has."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from posixpath import join
from typing import TYPE_CHECKING, Any

from lightning_sparse._compat import Trainer, is_a
from lightning_sparse.callbacks.probing.failures import warn_of_failure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def send_figure(trainer: Trainer, name: str, figure: Figure | Callable[[], Figure]) -> list[str]:
    """Send a figure to every logger of the Trainer that takes figures, and save it as a file for the others.

    TensorBoard, Weights & Biases, MLflow and Comet take figures, and so do loggers of your own with a method
    `log_image`, or whose `experiment` has `add_figure` or `log_figure`. For others (`CSVLogger`) the file
    `figures/<name>.png` is written to their folder, for a Trainer without loggers to its `default_root_dir`; a later
    figure of the same name replaces it. Folders may be addresses, as far as Lightning's own loggers know them.

    A failure is warned of once per kind of logger, folder or figure, and never raised: a figure is not worth a run.
    A figure that a logger fails to take is saved as a file. Only rank zero draws and sends, and no rank does in a
    `fast_dev_run` or `barebones` run, or while a tuner silences the loggers.

    Args:
        trainer: Trainer whose loggers get the figure, at its present step.
        name: Name of the figure; slashes make folders.
        figure: Figure of matplotlib, or a function that draws it, called only if it is needed.

    Returns:
        Destinations: `<class of the logger>: <name>` or the path of a file; empty if there is none.
    """
    # Lightning replaces loggers by a DummyLogger to silence them.
    loggers = [logger for logger in trainer.loggers if not is_a(logger, "DummyLogger")]
    if _is_silent(trainer) or len(loggers) < len(trainer.loggers):
        return []
    try:
        drawn = figure() if callable(figure) else figure
    except Exception as error:
        warn_of_failure(
            trainer, name, f"a figure {name!r}", error, "call the function that draws it to see the traceback"
        )
        return []
    places, folders = [], [] if loggers else [str(trainer.default_root_dir)]
    for logger in loggers:
        if _send_to(trainer, logger, name, drawn):
            places.append(f"{type(logger).__name__}: {name}")
        else:
            folders.append(_folder(trainer, logger))
    return [*places, *(path for folder in dict.fromkeys(folders) for path in _save(trainer, folder, name, drawn))]


def _is_silent(trainer: Trainer) -> bool:
    dev: bool | int = trainer.fast_dev_run  # type: ignore[attr-defined]  # which Lightning doesn't declare
    return bool(dev) or trainer.barebones or not trainer.is_global_zero


def _send_to(trainer: Trainer, logger: Any, name: str, figure: Figure) -> bool:
    """Send a figure to a logger; tell whether it took it."""
    try:
        return _log_figure(logger, name, figure, trainer.fit_loop.epoch_loop._batches_that_stepped)
    except Exception as error:
        kind = type(logger).__name__
        cure = "check the logger's connection and settings; the figure is in a file"
        warn_of_failure(trainer, kind, f"{kind} to take the figure {name!r}", error, cure)
        return False


def _log_figure(logger: Any, name: str, figure: Figure, step: int) -> bool:
    """Send a figure to a logger by the method that it has; return False if it has none."""
    if callable(log_image := getattr(logger, "log_image", None)):  # Weights & Biases
        log_image(key=name, images=[figure], step=step)
        return True
    experiment = getattr(logger, "experiment", None)
    if callable(add_figure := getattr(experiment, "add_figure", None)):  # TensorBoard
        add_figure(name, figure, global_step=step)
    elif not callable(log_figure := getattr(experiment, "log_figure", None)):
        return False
    elif hasattr(logger, "run_id"):  # MLflow
        log_figure(logger.run_id, figure, f"figures/{name}.png")
    else:  # Comet
        log_figure(name, figure, step=step)
    return True


def _folder(trainer: Trainer, logger: Any) -> str:
    # Not the Trainer's log_dir, a property that all processes must read together.
    for attribute in ("log_dir", "save_dir"):
        with suppress(Exception):  # of a logger that failed already
            if folder := getattr(logger, attribute, None):
                return str(folder)
    return str(trainer.default_root_dir)


def _save(trainer: Trainer, folder: str, name: str, figure: Figure) -> list[str]:
    """Write a figure to a file and return its path; none if that fails."""
    from fsspec.core import url_to_fs  # by which Lightning's loggers write, to local and remote folders

    path = join(folder, "figures", f"{name}.png")
    try:
        files, inner = url_to_fs(path)
        files.makedirs(inner.rpartition("/")[0], exist_ok=True)
        with files.open(inner, "wb") as file:
            figure.savefig(file, format="png")
    except Exception as error:
        warn_of_failure(trainer, folder, f"to write {path}", error, "free some space, or set another folder for logs")
        return []
    return [path]
