"""What all our data modules share: the seed of the training order, which a resumed run keeps to."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any, TypedDict

import torch

from lightning_sparse._compat import LightningDataModule
from lightning_sparse.validation.errors import InvalidStateError, InvalidValueError


class LoaderOptions(TypedDict):
    """The seed and a process' place among the others, as `ResumableLoader` takes them."""

    seed: int
    rank: int
    world_size: int


class SeededDataModule(LightningDataModule):
    """A data module whose training batches depend on one seed, settled by `settle_seed` and kept in checkpoints.

    Args:
        shuffle_seed: Determines the order of the training images and their augmentation. None: the seed of PyTorch's
            global generator at setup; no random number is drawn for it.

    Attributes:
        num_classes: Number of classes; None: not known before `setup`.

    Raises:
        ValueError: If ``shuffle_seed`` is neither an integer nor None.
    """

    num_classes: int | None = None

    def __init__(self, shuffle_seed: int | None = None) -> None:
        super().__init__()
        check_data_seed("shuffle_seed", shuffle_seed)
        self.shuffle_seed = shuffle_seed
        self._seed: int | None = None  # resolved at setup

    def settle_seed(self) -> None:
        """Settles the seed of this run, the same in all processes. To be called in `setup`, each time."""
        seed = torch.initial_seed() if self.shuffle_seed is None else self.shuffle_seed
        if self.trainer is not None and self.trainer.world_size > 1:
            # Without seed_everything every process has a seed of its own, and the shares would overlap.
            seed = self.trainer.strategy.broadcast(seed)
        self._seed = int(seed)

    def state_dict(self) -> dict[str, Any]:
        """The shuffling seed of this run. The position within an epoch is the training loader's state."""
        return {"shuffle_seed": self._seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the shuffling seed of the run that the checkpoint was saved in.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            ValueError: If there is no seed in it.
        """
        seed = state_dict.get("shuffle_seed")
        if not isinstance(seed, int):
            raise InvalidValueError(
                expected="the state of a data module, with its shuffle_seed",
                got=repr(state_dict),
                cure="resume with the same data module that the checkpoint was saved with",
            )
        self._seed = seed

    def _loader_options(self, *, loaded: bool) -> LoaderOptions:
        if self._seed is None or not loaded:
            raise InvalidStateError(
                expected="the data to be loaded",
                got="a request for batches before setup",
                cure="call prepare_data() and setup(), or let a Trainer do it",
            )
        rank, world_size = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return {"seed": self._seed, "rank": rank, "world_size": world_size}

    def _split_has_images(self, split: str, sizes: Mapping[str, int]) -> bool:
        """Whether this process has a share of a split, of which there are so many images each.

        Raises:
            ValueError: If there is no such split.
        """
        if split not in sizes:
            raise InvalidValueError(
                expected=f"a split from {', '.join(sizes)}",
                got=repr(split),
                cure="name one of these",
            )
        return sizes[split] > (0 if self.trainer is None else self.trainer.global_rank)

    def _overfits(self) -> bool:
        # Lightning's overfit_batches means the same few batches over and over.
        return bool(getattr(self.trainer, "overfit_batches", 0))


def check_data_seed(name: str, seed: int | None) -> None:
    """Raise a ValueError unless it is an integer or None."""
    if seed is not None and not isinstance(seed, Integral):
        raise InvalidValueError(
            expected=f"an integer or None as {name}",
            got=repr(seed),
            cure="the default will do",
        )


def check_batch_sizes(batch_size: int, eval_batch_size: int) -> None:
    """Raise a ValueError unless both are integers >= 1."""
    if not all(isinstance(size, Integral) and size >= 1 for size in (batch_size, eval_batch_size)):
        raise InvalidValueError(
            expected="batch_size and eval_batch_size >= 1, integers",
            got=f"{batch_size!r} and {eval_batch_size!r}",
            cure="give the number of images per batch",
        )
