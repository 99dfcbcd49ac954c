"""Check of the last training batch of an epoch: batch normalization can't train on a single image."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_sparse.validation.errors import InvalidValueError


def check_last_batch(trainer: Any, images: int, batch_size: int) -> None:
    """Raise or warn if the last training batch has one image and the network has batch normalization.

    ``BatchNorm1d`` on features without positions would raise an error there, at the end of the first epoch. Others
    would only for feature maps of a single position; otherwise they use the statistics of the one image.

    Args:
        trainer: Trainer of the network. None, or one without a network: nothing is checked.
        images: Number of training images of all processes together.
        batch_size: Images per batch and process.

    Raises:
        ValueError: If the error is certain.
    """
    network = getattr(trainer, "lightning_module", None)
    if network is None or not _ends_with_one(images, batch_size, trainer):
        return
    norms = {name: layer for name, layer in network.named_modules() if _normalizes(layer, trainer.world_size)}
    if not norms:
        return
    certain = [name for name, layer in norms.items() if isinstance(layer, nn.BatchNorm1d)]
    error = InvalidValueError(
        expected=(
            f"at least 2 images in the last training batch, as {(certain or list(norms))[0]} normalizes over batches"
        ),
        got=f"1, of {_share(images, trainer)} per process in batches of {batch_size}",
        cure="drop_last=True, or another batch_size",
    )
    if certain:
        raise error
    warnings.warn(str(error), stacklevel=2)


def _share(images: int, trainer: Any) -> int:
    return -(-images // int(trainer.world_size))


def _ends_with_one(images: int, batch_size: int, trainer: Any) -> bool:
    share = _share(images, trainer)
    if batch_size == 1 or share % batch_size != 1:
        return False
    batches = share // batch_size + 1
    limit = trainer.limit_train_batches  # a number of batches, or a fraction of them
    return bool((limit if isinstance(limit, int) else int(batches * limit)) >= batches)


def _normalizes(layer: nn.Module, world_size: int) -> bool:
    synchronized = isinstance(layer, nn.SyncBatchNorm) and world_size > 1  # over the batches of all processes
    return isinstance(layer, _BatchNorm) and layer.training and not synchronized
