"""What loaders share that resume in the middle of an epoch: its order, a process' share of it, and the position."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_sparse.data.normalize import Batch
from lightning_sparse.validation.errors import InvalidValueError


class BatchPlan(NamedTuple):
    """Which images a batch has, and all that its randomness depends on.

    Attributes:
        images: int64 ``(batch,)``, the images' numbers in the data set.
        seed: A hash of the loader's seed, the epoch, the batch's number and the process; 0 <= seed < 2 ** 64.
    """

    images: Tensor
    seed: int


class ResumableLoader(ABC):
    """Yields ``(images, labels)`` batches in an order of each epoch's own, and can go on in the middle of one.

    The batches of an epoch are a pure function of ``seed``, the epoch's number and the process: neither the global
    random state nor earlier epochs have a say. An epoch begins with each ``iter``. One that was left early is not
    continued, unless its position was put back with `load_state_dict`.

    Lightning saves and restores the state by itself and announces each epoch's number through
    ``loader.sampler.set_epoch``, so that a run resumed at any step sees the batches of the uninterrupted run.

    Args:
        count: Number of images, >= 1.
        batch_size: Images per batch and process, >= 1.
        shuffle: Whether each epoch has an order of its own. Otherwise images come in the given order.
        seed: Determines the orders, and what is random in a batch. Must be the same in all processes.
        drop_last: Whether to leave out a last batch that is smaller than the others.
        rank: This process, 0 <= rank < world_size.
        world_size: Number of processes. Each gets its own equal share of each epoch's order; if the images
            cannot be divided evenly, some come twice, so that all processes make the same number of steps.
        even: Whether they do. Otherwise no image comes twice, and some processes have one image less.

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
        _check_options(batch_size, rank, world_size)
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
        self._batch = 0  # handed out in this epoch
        self._resumes = False  # whether the next iteration goes on in the middle of the epoch
        self._offset = 0  # own number of an epoch minus the announced one

    @abstractmethod
    def _fetch(self, plans: Iterator[BatchPlan]) -> Iterator[Batch]:
        """Yields the planned batches, in this order. It may look ahead."""

    def __len__(self) -> int:
        """Number of batches of an epoch, the same in every process."""
        return self._share // self.batch_size if self.drop_last else -(-self._share // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that nothing happens before the first batch is asked for: Lightning calls iter() to
        # probe the loader and once more before it restores the state and announces the epoch.
        self._begin()
        for handed_out, batch in enumerate(self._fetch(self._plans(self._epoch, self._batch)), self._batch + 1):
            self._batch = handed_out
            yield batch

    @property
    def sampler(self) -> ResumableLoader:
        """The loader itself: where Lightning looks for ``set_epoch`` at the beginning of each epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Makes the next iteration that of an epoch with this number, >= 0.

        It starts at the first batch, unless a restored state is in the middle of this very epoch.
        """
        if not self._resumes:
            self._epoch, self._batch = epoch + self._offset, 0
        elif epoch + self._offset != self._epoch:
            if self._batch > 0:  # the restored epoch is over, even if it was left before its last batch
                self._epoch, self._batch = self._epoch + 1, 0
            # With max_steps, Lightning runs an epoch without batches after a checkpoint of an epoch's end, and
            # counts one too many from then on.
            self._offset = self._epoch - epoch

    def from_start(self) -> ResumableLoader:
        """Return a loader of the same batches at the beginning of its first epoch; this one stays where it is."""
        other = copy.copy(self)
        other._epoch = other._batch = other._offset = 0
        other._resumes = False
        return other

    def state_dict(self) -> dict[str, Any]:
        """The position and all that it depends on, as plain Python values. The same in every process."""
        position = {"epoch": self._epoch, "batch": self._batch, "offset": self._offset, "seed": self.seed}
        return {**position, **self._layout()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Puts back a position: the next iteration yields what followed it, in the order of the saved seed.

        Args:
            state_dict: What `state_dict` returned, from a loader of the same data and the same options.

        Raises:
            ValueError: If keys are missing, or the state comes from another data set size, batch size, number
                of processes, or way of going through the data. The loader is then left as it was.
        """
        _check_state(state_dict, self._layout(), len(self), type(self).__name__)
        self._epoch, self._batch = state_dict["epoch"], state_dict["batch"]
        self._offset, self.seed = state_dict["offset"], state_dict["seed"]
        self._resumes = True

    def _begin(self) -> None:
        finished = self._batch == len(self)
        if finished or (self._batch > 0 and not self._resumes):
            self._epoch, self._batch = self._epoch + 1, 0
        self._resumes = False

    def _plans(self, epoch: int, first: int) -> Iterator[BatchPlan]:
        """The epoch's batches from this one on."""
        order = self._order(epoch)
        for batch in range(first, len(self)):
            images = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield BatchPlan(images, _hashed(self.seed, epoch, batch, self.rank))

    def _order(self, epoch: int) -> Tensor:
        """This process' share of the epoch's order."""
        # Every world_size-th, wrapping around at the end to fill up the last shares if these are to be even.
        places = (self.rank + torch.arange(self._share) * self.world_size) % self.count
        if self.shuffle:
            generator = torch.Generator().manual_seed(_hashed(self.seed, epoch))
            places = torch.randperm(self.count, generator=generator)[places]
        return places

    def _layout(self) -> dict[str, Any]:
        """What a position is meaningless without."""
        return {
            "images": self.count,
            "batch_size": self.batch_size,
            "world_size": self.world_size,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
        }


def _hashed(*numbers: int) -> int:
    # Not their sum: the second epoch of seed 0 would be the first of seed 1. And hashed, because PyTorch's
    # CPU generator looks only at the low 32 bits.
    text = "/".join(map(str, numbers))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _check_options(batch_size: int, rank: int, world_size: int) -> None:
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise InvalidValueError(
            expected="batch_size >= 1",
            got=repr(batch_size),
            cure="give the number of images per step",
        )
    if not 0 <= rank < world_size:
        raise InvalidValueError(
            expected="0 <= rank < world_size",
            got=f"rank={rank}, world_size={world_size}",
            cure="use trainer.global_rank and trainer.world_size",
        )


def _check_state(state: dict[str, Any], layout: dict[str, Any], batches: int, loader: str) -> None:
    missing = {"epoch", "batch", "offset", "seed", *layout} - set(state if isinstance(state, dict) else ())
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
            cure="use the same ones, or resume from a checkpoint of an epoch's end",
        )
    numbers = all(isinstance(state[key], int) for key in ("epoch", "batch", "offset", "seed"))
    if not numbers or state["epoch"] < 0 or not 0 <= state["batch"] <= batches:
        raise InvalidValueError(
            expected=f"integers, epoch >= 0 and 0 <= batch <= {batches}",
            got=(
                f"epoch={state['epoch']!r}, batch={state['batch']!r}, offset={state['offset']!r}, "
                f"seed={state['seed']!r}"
            ),
            cure="the state is damaged, resume from another checkpoint",
        )
