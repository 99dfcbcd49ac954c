"""Forward passes of images through the module of a run, whatever form its batches have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from numbers import Integral
from typing import Any

from torch import Tensor

from lightning_sparse._compat import Callback, LightningModule, Trainer
from lightning_sparse.analysis.specialization_inputs import check_labels
from lightning_sparse.callbacks.probing.evaluation_batches import data_module
from lightning_sparse.validation.errors import InvalidTypeError
from lightning_sparse.validation.representation import ShowsOptions


class ForwardPassCallback(ShowsOptions, Callback):
    """Run forward passes of images through the module; subclasses may override how."""

    def unpack(self, batch: Any) -> tuple[Any, Tensor]:
        """Return the images of a batch, as `forward` takes them, and its labels, integers ``(batch,)`` from 0 on.

        Override it for batches that are not a pair of these.

        Raises:
            TypeError: If the batch is anything else.
        """
        if isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[1], Tensor):
            return batch[0], batch[1]
        raise InvalidTypeError(
            expected="batches of (images, labels)",
            got=_description(batch),
            cure=f"override unpack(self, batch) in a subclass of {type(self).__name__}, so that it returns these two",
        )

    def forward(self, pl_module: LightningModule, images: Any) -> Any:
        """Call the module on images. Override it for modules that are called otherwise.

        Raises:
            NotImplementedError: If the module has no `forward`.
        """
        try:
            return pl_module(images)
        except NotImplementedError as error:
            raise NotImplementedError(
                f"Expected a module with a forward method; got {type(pl_module).__name__}: {error}. Cure: define one, "
                f"or override forward(self, pl_module, images) in a subclass of {type(self).__name__}."
            ) from error

    def _unpacked(
        self, trainer: Trainer, pl_module: LightningModule, batches: Iterable[Any], limit: int | None
    ) -> Iterator[tuple[Any, Tensor]]:
        """Yield images and labels on the device, after the hooks for batches."""
        for batch in islice(batches, limit):
            images, labels = self.unpack(transfer_batch(trainer, pl_module, batch))
            check_labels(labels)
            yield images, labels

    def _run_forward(self, trainer: Trainer, pl_module: LightningModule, images: Any) -> None:
        with trainer.precision_plugin.forward_context():
            self.forward(pl_module, images)


def transfer_batch(trainer: Trainer, pl_module: LightningModule, batch: Any) -> Any:
    """Return a batch as `training_step` gets it: converted, processed by the transfer hooks, on the device."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)
    device = trainer.strategy.root_device
    return pl_module._apply_batch_transfer_handler(batch, device=device, dataloader_idx=0)


def _description(batch: object) -> str:
    if isinstance(batch, dict):
        return f"a dict of {', '.join(map(repr, batch))}"
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {', '.join(type(part).__name__ for part in batch) or 'nothing'}"
    return f"a {type(batch).__name__}"


def known_classes(trainer: Trainer, pl_module: LightningModule) -> int | None:
    """Return `num_classes` of a module's hyperparameters, the module or the data module, if one of them has it."""
    for owner in (pl_module.hparams, pl_module, data_module(trainer)):
        number = getattr(owner, "num_classes", None)
        if isinstance(number, Integral) and int(number) >= 2:
            return int(number)
    return None


def count_classes(batches: Iterable[tuple[Any, Tensor]]) -> int:
    """Return the largest label plus one, 0 if there are no labels."""
    return max((int(labels.max()) + 1 for _, labels in batches if labels.numel()), default=0)
