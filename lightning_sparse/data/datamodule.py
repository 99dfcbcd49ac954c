"""What all data modules for image data sets in memory share: the split, the statistics, and the loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch

from lightning_sparse._compat import LightningDataModule
from lightning_sparse.data.arrays import ImageArrays
from lightning_sparse.data.in_memory_loader import InMemoryLoader
from lightning_sparse.data.normalize import Batch, Normalize


class InMemoryDataModule(LightningDataModule, ABC):
    """Training, validation and test batches of a data set that fits in memory.

    A new data set is a subclass with one method, `_load`. In a distributed run each process gets its own
    share of every split; a few images come twice where a split cannot be divided evenly.

    Args:
        batch_size: Training images per step and process, >= 1.
        eval_batch_size: Images per validation, test and prediction batch and process, >= 1.
        val_fraction: Share of the training images held out for validation, in [0, 1): round(val_fraction *
            images) of them. 0: no validation.
        split_seed: Determines which images are held out, independent of all other seeds. None: the last ones of the
            data set, as the authors of sparse momentum do.
        shuffle_seed: Determines the order of the training images. None: the seed of PyTorch's global generator
            at setup, so that ``seed_everything`` varies the order; no random number is drawn for it. A run
            that is resumed keeps to the seed in the checkpoint.
        mean: Subtracted from the pixels, one value per channel, in units in which black is 0 and white is 1.
            None: the customary value of the data set, or else that of the training split.
        std: The pixels are divided by it, > 0, one value per channel; given together with ``mean``.

    Raises:
        ValueError: If an option is outside its range.
    """

    def __init__(
        self,
        *,
        batch_size: int = 100,
        eval_batch_size: int = 1000,
        val_fraction: float = 0.1,
        split_seed: int | None = 0,
        shuffle_seed: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        _check_options(batch_size, eval_batch_size, val_fraction)
        _check_seeds(split_seed, shuffle_seed)
        _check_statistics(mean, std)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.val_fraction, self.split_seed, self.shuffle_seed = val_fraction, split_seed, shuffle_seed
        self.mean, self.std = mean, std
        self._splits: dict[str, Batch] = {}
        self._normalize: Normalize | None = None
        self._seed: int | None = None  # of the shuffling, resolved at setup

    @abstractmethod
    def _load(self) -> ImageArrays:
        """Reads the data set. Called once, in `setup`, in every process."""

    def setup(self, stage: str = "fit") -> None:
        """Loads and splits the data, once, and settles the shuffling seed, each time.

        Args:
            stage: Not looked at: all stages need the statistics of the training split.
        """
        self._seed = self._resolve_seed()
        if not self._splits:
            arrays = self._load()
            self._splits = _split(arrays, self.val_fraction, self.split_seed)
            self._normalize = self._normalization(arrays)

    def train_dataloader(self) -> InMemoryLoader:
        """Shuffled training batches, whose position is kept in checkpoints."""
        # Lightning's overfit_batches means the same few batches over and over.
        shuffle = not getattr(self.trainer, "overfit_batches", 0)
        return self._loader("train", self.batch_size, shuffle=shuffle)

    def val_dataloader(self) -> InMemoryLoader | list[InMemoryLoader]:
        """Validation batches in a fixed order, or an empty list if nothing is held out."""
        if self.val_fraction == 0:
            return []
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> InMemoryLoader:
        """Test batches in the order of the data set."""
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> InMemoryLoader:
        """The test batches, labels included."""
        return self.test_dataloader()

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
            raise ValueError(
                f"Expected the state of a data module, with its shuffle_seed; got {state_dict!r}. "
                "Cure: resume with the same data module that the checkpoint was saved with."
            )
        self._seed = seed

    def _resolve_seed(self) -> int:
        seed = torch.initial_seed() if self.shuffle_seed is None else self.shuffle_seed
        if self.trainer is not None and self.trainer.world_size > 1:
            # Without seed_everything every process has a seed of its own, and the shares would overlap.
            seed = self.trainer.strategy.broadcast(seed)
        return int(seed)

    def _normalization(self, arrays: ImageArrays) -> Normalize:
        mean, std = (self.mean, self.std) if self.mean is not None else (arrays.mean, arrays.std)
        train_images = self._splits["train"][0]
        if mean is None or std is None:
            return Normalize.fit(train_images, arrays.white)
        if len(mean) not in (1, train_images.shape[1]):
            raise ValueError(
                f"Expected one mean and std per channel, {train_images.shape[1]}; got {len(mean)}. "
                "Cure: leave both out to have them computed."
            )
        return Normalize(mean, std, arrays.white)

    def _loader(self, split: str, batch_size: int, *, shuffle: bool = False) -> InMemoryLoader:
        if self._seed is None or split not in self._splits:
            raise RuntimeError(
                "Expected the data to be loaded; got a request for batches before setup. "
                "Cure: call prepare_data() and setup(), or let a Trainer do it."
            )
        images, labels = self._splits[split]
        rank, world_size = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return InMemoryLoader(
            images,
            labels,
            batch_size,
            shuffle=shuffle,
            seed=self._seed,
            transform=self._normalize,
            rank=rank,
            world_size=world_size,
        )


def _split(arrays: ImageArrays, val_fraction: float, seed: int | None) -> dict[str, Batch]:
    count = len(arrays.x_train)
    held_out = round(val_fraction * count)
    if held_out == count:
        raise ValueError(
            f"Expected val_fraction to leave images to train on; got {val_fraction} of {count} images. Cure: lower it."
        )
    if seed is None:
        order = torch.arange(count - 1, -1, -1)
    else:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    # Sorted, so that each split keeps the order of the data set.
    parts = {"val": order[:held_out].sort().values, "train": order[held_out:].sort().values}
    splits = {name: (arrays.x_train[index], arrays.y_train[index]) for name, index in parts.items()}
    return {**splits, "test": (arrays.x_test, arrays.y_test)}


def _check_options(batch_size: int, eval_batch_size: int, val_fraction: float) -> None:
    if not all(isinstance(size, Integral) and size >= 1 for size in (batch_size, eval_batch_size)):
        raise ValueError(
            f"Expected batch_size and eval_batch_size >= 1, integers; got {batch_size!r} and {eval_batch_size!r}. "
            "Cure: give the number of images per batch."
        )
    if not isinstance(val_fraction, Real) or not 0 <= val_fraction < 1:
        raise ValueError(
            f"Expected 0 <= val_fraction < 1; got {val_fraction!r}. Cure: give the share of the training images that "
            "is held out, such as 0.1."
        )


def _check_seeds(split_seed: int | None, shuffle_seed: int | None) -> None:
    for name, seed in (("split_seed", split_seed), ("shuffle_seed", shuffle_seed)):
        if seed is not None and not isinstance(seed, Integral):
            raise ValueError(f"Expected an integer or None as {name}; got {seed!r}. Cure: the default will do.")


def _check_statistics(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    if (mean is None) != (std is None):
        raise ValueError(f"Expected mean and std together; got mean={mean}, std={std}. Cure: give both or neither.")
    if mean is not None and std is not None:
        Normalize(mean, std)  # refuses lengths and values that do not fit
