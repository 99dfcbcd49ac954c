"""Base of the loaders that resume within an epoch: order of the images, share of each process, and position."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_sparse.data.normalize import Batch
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.numbers import check_integer
from lightning_sparse.validation.representation import ShowsOptions

# Entries of a position that every state has.
_POSITION = ("epoch", "batch", "offset", "seed")


class BatchPlan(NamedTuple):
    """Images of a batch, and the seed of its random numbers.

    Attributes:
        images: Numbers of the images in the data set, int64 ``(batch,)``.
        seed: Hash of the loader's seed, the epoch, the batch's number and the rank; 0 <= seed < 2 ** 64.
    """

    images: Tensor
    seed: int


class ResumableLoader(ShowsOptions, ABC):
    """Loader of ``(images, labels)`` batches, in another order in each epoch, that can resume within an epoch.

    The batches of an epoch are a pure function of ``seed``, the epoch's number and the process, independent of the
    global random state and of earlier epochs. Each ``iter`` begins an epoch; one that was left early is continued
    only after its position was restored with `load_state_dict`.

    Lightning saves and restores the state and passes each epoch's number to ``loader.sampler.set_epoch``, so that a run
    resumed at any step sees the batches of the uninterrupted run. Where epochs are numbered that way, another ``iter``
    within one is a further pass over the images, as Lightning makes of the shorter of several loaders (`CombinedLoader`
    with ``mode="max_size_cycle"``): each pass has an order and random numbers of its own.

    Args:
        count: Number of images, >= 1.
        batch_size: Images per batch and process, >= 1.
        shuffle: Whether to shuffle the images in each epoch. Otherwise they come in the given order.
        seed: Seed for the orders and the random numbers of batches; the same in all processes.
        drop_last: Whether to leave out a last batch that is smaller than the others.
        rank: Rank of this process, 0 <= rank < world_size.
        world_size: Number of processes. Each gets an equal share of each epoch's images.
        even: Whether to repeat some images if they can't be divided evenly, so that all processes make the same
            number of steps. Otherwise no image comes twice, and some processes have one image less.

    Raises:
        ValueError: If the options do not fit together.
    """

    batch_sampler: None = None  # Lightning reads it wherever there is a sampler

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        even: bool = True,
    ) -> None:
        _check_batch_size_and_rank(batch_size, rank, world_size)
        self.count, self.batch_size, self.shuffle, self.seed = count, batch_size, shuffle, seed
        self.drop_last, self.rank, self.world_size = drop_last, rank, world_size
        self._share = -(-count // world_size) if even else len(range(rank, count, world_size))
        if len(self) == 0:
            raise InvalidValueError(
                expected=f"at least one batch of {batch_size} images",
                got=f"{self._share} images per process and drop_last={drop_last}",
                cure="lower batch_size, set drop_last=False, or use fewer processes",
            )
        self._epoch = 0
        self._pass = 0  # number of the pass over the images within this epoch
        self._is_numbered = False  # whether the user of this loader numbers the epochs
        self._batch = 0  # batches yielded in this pass
        self._resumes = False  # whether the next iteration continues within the epoch
        self._offset = 0  # our number of an epoch minus Lightning's

    @abstractmethod
    def _fetch(self, plans: Iterator[BatchPlan]) -> Iterator[Batch]:
        """Yield the planned batches in this order. It may read ahead."""

    def __len__(self) -> int:
        """Return the number of batches of an epoch, the same in every process."""
        return self._share // self.batch_size if self.drop_last else -(-self._share // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that nothing happens before the first next(): Lightning calls iter() to probe the loader,
        # and again before it restores the state and calls set_epoch.
        if self._is_numbered and self._resumes and self._batch == len(self):
            self._resumes = False
            return  # this pass had ended, and whoever combines loaders decides whether there is another one
        self._begin()
        for count, batch in enumerate(self._fetch(self._plans(self._epoch, self._pass, self._batch)), self._batch + 1):
            self._batch = count
            yield batch

    @property
    def sampler(self) -> ResumableLoader:
        """This loader, as Lightning calls ``set_epoch`` of a loader's sampler at the beginning of each epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the number, >= 0, of the next iteration's epoch.

        The epoch starts at the first batch, unless a restored state is within this epoch.
        """
        self._is_numbered = True
        if not self._resumes:
            self._epoch, self._pass, self._batch = epoch + self._offset, 0, 0
        elif epoch + self._offset != self._epoch:
            if self._batch > 0:  # the restored epoch has ended, even if not at its last batch
                self._epoch, self._pass, self._batch = self._epoch + 1, 0, 0
            # With max_steps, Lightning runs an epoch without batches after a checkpoint from the end of an epoch, and
            # its epoch numbers are one too high from then on.
            self._offset = self._epoch - epoch

    def from_start(self) -> ResumableLoader:
        """Return a copy at the beginning of its first epoch; the position of this loader doesn't change."""
        other = copy.copy(self)
        other._epoch = other._pass = other._batch = other._offset = 0
        other._resumes = False
        return other

    def state_dict(self) -> dict[str, Any]:
        """Return the position and all that it depends on as plain Python values, the same in every process."""
        position = {"epoch": self._epoch, "batch": self._batch, "offset": self._offset, "seed": self.seed}
        further = {"pass": self._pass} if self._pass else {}
        return {**position, **further, **self._layout()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a position: the next iteration yields the batches after it, in the order of the saved seed.

        Args:
            state_dict: State that `state_dict` returned for a loader with the same data and options.

        Raises:
            ValueError: If keys are missing, or the size of the data set, batch size, number of processes,
                ``shuffle`` or ``drop_last`` differ. The loader is then unchanged.
        """
        _check_state(state_dict, self._layout(), len(self), type(self).__name__)
        self._epoch, self._batch = state_dict["epoch"], state_dict["batch"]
        self._offset, self.seed = state_dict["offset"], state_dict["seed"]
        self._pass = state_dict.get("pass", 0)
        self._resumes = True

    def _begin(self) -> None:
        finished = self._batch == len(self)
        if finished or (self._batch > 0 and not self._resumes):
            self._batch = 0
            if self._is_numbered:
                self._pass += 1
            else:
                self._epoch += 1
        self._resumes = False

    def _plans(self, epoch: int, number: int, first: int) -> Iterator[BatchPlan]:
        """Yield the plans of the batches from `first` on of a pass of an epoch, by its number from 0 on."""
        # Another seed for further passes; the first one has the numbers that it had before there were others.
        seed = _hash(self.seed, number, epoch, "pass") if number else self.seed
        order = self._order(epoch, seed)
        for batch in range(first, len(self)):
            images = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield BatchPlan(images, _hash(seed, epoch, batch, self.rank))

    def _order(self, epoch: int, seed: int) -> Tensor:
        """Return this process' share of the images of a pass, in order."""
        # Every world_size-th image, wrapping around at the end to fill up shares if these must be even.
        places = (self.rank + torch.arange(self._share) * self.world_size) % self.count
        if self.shuffle:
            generator = torch.Generator().manual_seed(_hash(seed, epoch))
            places = torch.randperm(self.count, generator=generator)[places]
        return places

    def _layout(self) -> dict[str, Any]:
        """Return the options that a position depends on."""
        return {
            "images": self.count,
            "batch_size": self.batch_size,
            "world_size": self.world_size,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
        }


def _hash(*numbers: int | str) -> int:
    # Not the sum, with which the second epoch of seed 0 would equal the first of seed 1. A hash, because PyTorch's
    # CPU generator uses only the low 32 bits.
    text = "/".join(map(str, numbers))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _check_batch_size_and_rank(batch_size: int, rank: int, world_size: int) -> None:
    check_integer(batch_size, 1, expected="batch_size >= 1", cure="give the number of images per step")
    if not 0 <= rank < world_size:
        raise InvalidValueError(
            expected="0 <= rank < world_size",
            got=f"rank={rank}, world_size={world_size}",
            cure="use trainer.global_rank and trainer.world_size",
        )


def _check_state(state: dict[str, Any], layout: dict[str, Any], batches: int, loader: str) -> None:
    missing = {*_POSITION, *layout} - set(state if isinstance(state, dict) else ())
    if missing:
        raise InvalidValueError(
            expected=f"the state of an {loader}",
            got=f"one without {sorted(missing)}",
            cure="resume with the same kind of loader that the checkpoint was saved with",
        )
    differing = [f"{key}={state[key]} (here {here})" for key, here in layout.items() if state[key] != here]
    if differing:
        raise InvalidValueError(
            expected="the state of a loader with the same data and options",
            got=f"one with {', '.join(differing)}",
            cure="use the same data and options, or resume from a checkpoint at the end of an epoch",
        )
    further = state.get("pass", 0)  # absent in states of a first pass
    numbers = all(isinstance(number, int) for number in (*(state[key] for key in _POSITION), further))
    if not numbers or state["epoch"] < 0 or further < 0 or not 0 <= state["batch"] <= batches:
        raise InvalidValueError(
            expected=f"integers, epoch >= 0 and 0 <= batch <= {batches}",
            got=(
                f"epoch={state['epoch']!r}, batch={state['batch']!r}, offset={state['offset']!r}, "
                f"seed={state['seed']!r}" + (f", pass={further!r}" if further else "")
            ),
            cure="the state is damaged, resume from another checkpoint",
        )
