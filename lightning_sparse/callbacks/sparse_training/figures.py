"""Pictures of where a sparse network's weights are, sent to the loggers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from math import prod
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_sparse._compat import (
    Callback,
    LightningModule,
    Trainer,
)
from lightning_sparse.callbacks.probing.figure_logging import send_figure
from lightning_sparse.callbacks.sparse_training.beside import sparse_callback
from lightning_sparse.callbacks.sparse_training.callback import SparseTrainingCallback
from lightning_sparse.callbacks.sparse_training.checkpointing import network_or_none
from lightning_sparse.callbacks.sparse_training.figure_data import Unit, density_curves, image_shapes, share_curves
from lightning_sparse.methods.timetable import Cadence
from lightning_sparse.network import SparseNetwork
from lightning_sparse.validation.representation import ShowsOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_PURPOSE = "whose pictures are to be drawn"


class SparsityPictures(ShowsOptions, Callback):
    """Draw where the active weights of sparse training are and went, and send the pictures to the Trainer's loggers.

    Add it to the Trainer's callbacks, before or after `SparseMomentumCallback` or another `SparseTrainingCallback`.
    Loggers that take no figures, and a Trainer without loggers, get PNG files in the folder `figures`
    (`lightning_sparse.callbacks.probing.figure_logging.send_figure`). The pictures, by name:

    - `sparsity/density_per_layer`: over epochs, or over steps if updates come after steps;
    - `sparsity/redistribution`: which part of the regrown weights each layer was to get, at each update;
    - `sparsity/empty_channels`: the part of each layer's channels that has no active weight;
    - `sparsity/first_layer`: how many connections each pixel has, if the first masked layer is a linear one that gets
      square images; else its mask.

    The run is not changed: nothing is drawn from random numbers, and a picture that fails is a warning.

    Args:
        every_n_epochs: Period of drawing in epochs. Default: draw at the end of training only.

    Raises:
        ValueError: If the period is not a positive integer.
    """

    _options_in = ("_cadence",)

    def __init__(self, every_n_epochs: int | None = None) -> None:
        super().__init__()
        self._cadence = None if every_n_epochs is None else Cadence(every_n_epochs)
        self._reset()

    def _reset(self) -> None:
        # Shapes of the images in the first batch of a fit, by which the first layer's inputs are known as pixels.
        self._images: list[tuple[int, ...]] | None = None
        self._drawn_at = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier fit, and check for a sparse callback and for matplotlib.

        Raises:
            MisconfigurationException: If the Trainer has no callback for sparse training.
            ModuleNotFoundError: If matplotlib is not installed.
        """
        if stage == "fit":
            import lightning_sparse.analysis.pictures  # noqa: F401  # before training, not days later

            self._reset()
            sparse_callback(trainer, _PURPOSE, self)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Note the shapes of the first batch's images."""
        if self._images is None:
            self._images = image_shapes(batch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw at the end of a period."""
        completed = trainer.current_epoch + 1
        if self._cadence is not None and self._cadence.is_due(completed):
            self._draw(trainer, completed)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw at the end, unless that was done after the last epoch."""
        self._draw(trainer, trainer.current_epoch)

    def _draw(self, trainer: Trainer, completed: int) -> None:
        sparse = sparse_callback(trainer, _PURPOSE, self)
        # Weight averaging adds an epoch of its own, in which nothing is trained.
        completed = completed if sparse._max_epochs in (None, -1) else min(completed, sparse._max_epochs or 0)
        network = network_or_none(sparse)
        if network is None or completed == self._drawn_at:
            return
        self._drawn_at = completed
        masks = cache(partial(_masks, network))
        if network.is_sharded:  # then every process has to ask for them; else no failure gets past send_figure
            masks()
        for name, draw in {
            "density_per_layer": partial(_densities, sparse, network, completed),
            "redistribution": partial(_redistribution, sparse, network),
            "empty_channels": partial(_empty_channels, masks),
            "first_layer": partial(_first_layer, masks, self._images or []),
        }.items():
            if name != "redistribution" or sparse.history:
                send_figure(trainer, f"sparsity/{name}", draw)


def _masks(network: SparseNetwork) -> dict[str, Tensor]:
    masks = network.masks
    return {name: masks[name] for name, layer in network.layers.items() if not layer.dense}


def _unit(sparse: SparseTrainingCallback) -> tuple[Unit, str]:
    """Return what the run's updates are counted in, and its name."""
    return ("epoch", "epochs completed") if sparse._cadence.counts_epochs else ("step", "optimizer steps")


def _densities(sparse: SparseTrainingCallback, network: SparseNetwork, completed: int) -> Figure:
    from lightning_sparse.analysis.pictures import plot_layer_densities

    (unit, name), counters = _unit(sparse), sparse._counters
    now = completed if unit == "epoch" else network.steps - counters.step_offset
    first = counters.first[0] if unit == "epoch" else counters.first[1]
    return plot_layer_densities(*density_curves(sparse.history, network.layers, unit, (first, now)), xlabel=name)


def _redistribution(sparse: SparseTrainingCallback, network: SparseNetwork) -> Figure:
    from lightning_sparse.analysis.pictures import plot_redistribution

    unit, name = _unit(sparse)
    return plot_redistribution(*share_curves(sparse.history, network.layers, unit), xlabel=name)


def _empty_channels(masks: Callable[[], dict[str, Tensor]]) -> Figure:
    from lightning_sparse.analysis.pictures import plot_empty_channels

    return plot_empty_channels(masks())


def _first_layer(masks: Callable[[], dict[str, Tensor]], images: list[tuple[int, ...]]) -> Figure:
    from lightning_sparse.analysis.pictures import plot_input_connectivity, plot_mask

    mask = next(iter(masks().values()))
    fitting = [shape for shape in images if mask.dim() == 2 and prod(shape) == mask.shape[1]]
    return plot_input_connectivity(mask, fitting[0]) if fitting else plot_mask(mask)
