"""Evaluation batches for measurements: each image of a run once, in order and without augmentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy, deepcopy
from math import inf
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from lightning_sparse._compat import LightningDataModule, LightningModule, Trainer
from lightning_sparse.callbacks.probing.drawn_samples import batch_size_of, drawn_samples, is_divided
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError

# By split: stage to set up its data for, hook that returns its loader, attribute of a Trainer that holds the loader.
_SOURCES = {
    "train": ("fit", "train_dataloader", "train_dataloader"),
    "val": ("fit", "val_dataloader", "val_dataloaders"),
    "test": ("test", "test_dataloader", "test_dataloaders"),
}
SPLITS = tuple(_SOURCES)


@contextmanager
def evaluation_batches(
    trainer: Trainer, pl_module: LightningModule, choice: str | Iterable[Any]
) -> Iterator[Iterable[Any]]:
    """Provide the batches of this process, the same at each iteration; the run's loaders keep their positions.

    A data module or LightningModule with a method `plain_dataloader(split)` provides the batches, as those of this
    package do: images that are not augmented, none of them in two processes. Otherwise the samples that a
    `DataLoader`'s sampler draws are iterated in order (in the batches of a batch sampler of the project's own, of which
    no sample is repeated), and each process takes its share: what a sampler never draws is held out. Every process
    takes all of it if the run has `use_distributed_sampler=False` and no sampler that divides it, since each process
    may then have data of its own. A subclass of `DataLoader` that changes batches as it iterates changes these, too.
    Any other iterable is iterated as it is, in every process.

    The data set is the run's own: its own state, such as random numbers, advances when it is read here, except by
    workers, which have copies.

    Args:
        trainer: Trainer of the run.
        pl_module: Module of the run.
        choice: "train", "val" or "test", or an iterable of batches.

    Raises:
        ValueError: If there is no such data, or more than one loader of it.
        TypeError: If the data can't be iterated twice, or a loader returns an iterator that it holds.
    """
    loader: Any = _loader(trainer, pl_module, choice) if isinstance(choice, str) else choice
    if isinstance(loader, DataLoader):
        plain = _in_order(loader, trainer)
        yield _of_same_class(loader, plain) if _overrides_iteration(loader) else plain
        return
    check_repeatable(loader)
    before = _position(loader)
    try:
        yield _CopiedAtEachIteration(loader)
    finally:
        if before is not None and not _are_equal(_position(loader), before):
            loader.load_state_dict(before)


def check_repeatable(loader: object) -> None:
    """Raise a TypeError if batches can't be iterated twice."""
    if not isinstance(loader, Iterable) or isinstance(loader, Iterator):
        raise InvalidTypeError(
            expected="batches that can be iterated more than once",
            got=f"a {type(loader).__name__}",
            cure=f"a DataLoader, a list of (images, labels), or one of {', '.join(SPLITS)}",
        )


def _loader(trainer: Trainer, pl_module: LightningModule, split: str) -> Any:
    purpose, hook, attribute = _SOURCES[split]
    data = data_module(trainer)
    if data is not None and trainer.state.fn != purpose:
        data = copy(data)  # the run's data module is not to be set up for another stage
        data.setup(stage=purpose)
    source: Any = pl_module if data is None else data
    if hasattr(source, "plain_dataloader"):
        return source.plain_dataloader(split)
    loader = getattr(trainer, attribute)
    if loader is None and _is_overridden(source, hook):
        loader = getattr(source, hook)()
    return _only(loader, split)


def data_module(trainer: Trainer) -> LightningDataModule | None:
    """Return the data module of this run, if it has one; the Trainer's attribute may be from an earlier run."""
    hooks = trainer._data_connector._datahook_selector
    return None if hooks is None else hooks.datamodule


def _is_overridden(source: object, hook: str) -> bool:
    return getattr(getattr(source, hook, None), "__qualname__", f"DataHooks.{hook}") != f"DataHooks.{hook}"


def _only(loaders: Any, split: str) -> Any:
    several = list(loaders.values() if isinstance(loaders, Mapping) else loaders) if _is_nested(loaders) else [loaders]
    if len(several) != 1 or several[0] is None or _is_nested(several[0]):
        raise InvalidValueError(
            expected=f"one {split} loader",
            got=f"{0 if several == [None] else len(several)}",
            cure="pass the evaluation data as dataloader: a DataLoader, a list of (images, labels), or another split",
        )
    return several[0]


def _is_nested(loaders: object) -> bool:
    return isinstance(loaders, (Mapping, list, tuple))


def _in_order(loader: DataLoader[Any], trainer: Trainer) -> DataLoader[Any]:
    """Return a loader of this process's share of the samples that another one draws, each once and in order."""
    batch_size = batch_size_of(loader)
    options: dict[str, Any] = {
        name: getattr(loader, name)
        for name in ("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "prefetch_factor")
    }
    options["multiprocessing_context"] = loader.multiprocessing_context
    if isinstance(loader.dataset, IterableDataset):  # the user divides it among processes, as in training
        return DataLoader(copy(loader.dataset), batch_size=batch_size, **options)
    drawn = drawn_samples(loader)
    divides = trainer._accelerator_connector.use_distributed_sampler or is_divided(loader)
    own = slice(trainer.global_rank, None, trainer.world_size) if divides and not drawn.is_share else slice(None)
    if drawn.batches is not None:
        return DataLoader(loader.dataset, batch_sampler=drawn.batches[own], **options)
    return DataLoader(loader.dataset, batch_size=batch_size, sampler=drawn.keys[own], **options)


def _overrides_iteration(loader: DataLoader[Any]) -> bool:
    kind = type(loader)
    return kind.__iter__ is not DataLoader.__iter__ or kind._get_iterator is not DataLoader._get_iterator


def _of_same_class(loader: DataLoader[Any], plain: DataLoader[Any]) -> DataLoader[Any]:
    """Return a loader of the subclass that reads the same samples as a plain one."""
    added = {name: value for name, value in vars(loader).items() if name not in vars(plain)}
    iterators = [name for name, value in added.items() if isinstance(value, Iterator)]
    if iterators:  # as loaders with persistent workers have: training would miss the batches taken from it
        raise InvalidTypeError(
            expected="a loader that starts from the beginning at each iteration",
            got=f"a {type(loader).__name__}, which holds an iterator, {iterators[0]}",
            cure="pass the evaluation data as dataloader: a plain DataLoader of the same data set",
        )
    ordered = copy(loader)
    vars(ordered).update(vars(plain))
    return ordered


def is_one_stream(batches: Iterable[Any]) -> bool:
    """Tell whether data are a single iterator, so that batches that are read here are lost to later readers.

    Args:
        batches: Batches that `evaluation_batches` provides.
    """
    if not isinstance(batches, DataLoader) or not isinstance(batches.dataset, IterableDataset) or batches.num_workers:
        return False  # workers have a copy of the stream
    return iter(batches.dataset) is iter(batches.dataset)


class _CopiedAtEachIteration:
    """Iterates over a new copy of a loader each time, so that the loader keeps its position."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(copy(self._loader))

    def __len__(self) -> int:
        return len(self._loader)


def _position(loader: Any) -> Any:
    if hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict"):
        return deepcopy(loader.state_dict())
    return None


def _are_equal(left: Any, right: Any) -> bool:
    try:
        return bool(left == right)
    except RuntimeError:  # of tensors with more than one number
        return False


def limit_of(trainer: Trainer, batches: Iterable[Any], limit: int | None) -> int | None:
    """Return the number of batches to evaluate on, None for all of them.

    At most the number of batches of a development run; for a stream without a length, at most an epoch's batches.

    Args:
        trainer: Trainer of the run.
        batches: Batches to evaluate on.
        limit: Upper limit that the user set, if any.
    """
    limits = [limit, int(trainer.fast_dev_run) or None]  # type: ignore[attr-defined]  # which Lightning doesn't declare
    if trainer.state.fn == "fit" and not _has_length(batches) and trainer.num_training_batches != inf:
        limits.append(int(trainer.num_training_batches))
    return min((number for number in limits if number is not None), default=None)


def _has_length(batches: Iterable[Any]) -> bool:
    try:
        len(batches)  # type: ignore[arg-type]  # it may have no length
    except TypeError:
        return False
    return True
