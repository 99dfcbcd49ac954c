"""Base of all data modules: one seed for order and augmentation of the training data, saved in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import torch

from lightning_sparse._compat import LightningDataModule
from lightning_sparse.validation.errors import InvalidStateError, InvalidValueError
from lightning_sparse.validation.numbers import check_integer, is_integer
from lightning_sparse.validation.representation import ShowsOptions


class LoaderOptions(TypedDict):
    """Arguments of `ResumableLoader`: the seed, this process' rank and the number of processes."""

    seed: int
    rank: int
    world_size: int


class SeededDataModule(ShowsOptions, LightningDataModule):
    """Data module whose training batches depend on one seed, set by `settle_seed` and saved in checkpoints.

    Args:
        shuffle_seed: Seed for the order of the training images and their augmentation. None: the seed of PyTorch's
            global generator at setup; no random number is drawn for it.

    Attributes:
        num_classes: Number of classes; None: unknown before `setup`.

    Raises:
        ValueError: If ``shuffle_seed`` is neither an integer nor None.
    """

    num_classes: int | None = None

    def __init__(self, shuffle_seed: int | None = None) -> None:
        super().__init__()
        check_seed_or_none("shuffle_seed", shuffle_seed)
        self.shuffle_seed = shuffle_seed
        self._seed: int | None = None  # resolved at setup

    def settle_seed(self) -> None:
        """Set the seed of this run, the same in all processes. Call it in every `setup`."""
        seed = torch.initial_seed() if self.shuffle_seed is None else self.shuffle_seed
        if self.trainer is not None and self.trainer.world_size > 1:
            # Without seed_everything each process has another seed, and their shares of the images would overlap.
            seed = self.trainer.strategy.broadcast(seed)
        self._seed = int(seed)

    def state_dict(self) -> dict[str, Any]:
        """Return the shuffling seed of this run. The position within an epoch is in the training loader's state."""
        return {"shuffle_seed": self._seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the shuffling seed of the run that saved the checkpoint.

        Args:
            state_dict: State that `state_dict` returned.

        Raises:
            ValueError: If it has no seed.
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

    def _rank_has_images(self, split: str, sizes: Mapping[str, int]) -> bool:
        """Tell whether this rank has any image of a split of the given sizes.

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
        # Lightning's overfit_batches repeats the same few batches.
        return bool(getattr(self.trainer, "overfit_batches", 0))


def check_seed_or_none(name: str, seed: int | None) -> None:
    """Raise a ValueError unless a seed is an integer or None."""
    if seed is not None:
        check_integer(seed, expected=f"an integer or None as {name}", cure="the default will do")


def check_batch_sizes(batch_size: int, eval_batch_size: int) -> None:
    """Raise a ValueError unless both batch sizes are integers >= 1."""
    if not (is_integer(batch_size, 1) and is_integer(eval_batch_size, 1)):
        raise InvalidValueError(
            expected="batch_size and eval_batch_size >= 1, integers",
            got=f"{batch_size!r} and {eval_batch_size!r}",
            cure="give the number of images per batch",
        )
