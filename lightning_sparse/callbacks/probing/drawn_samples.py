"""The samples that a loader draws, which are those that a run is trained on."""

from __future__ import annotations

import copy
import operator
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from lightning_sparse._compat import is_a
from lightning_sparse.callbacks.probing.random_state import host_states, set_host_states
from lightning_sparse.validation.errors import InvalidTypeError


@dataclass(frozen=True)
class DrawnSamples:
    """Samples that a loader draws, by the keys that its data set has for them.

    Attributes:
        keys: The keys, each once; in order if they are numbers.
        batches: The same keys in the batches of the project's own batch sampler, which may not go together otherwise;
            None if any samples can be in one batch.
        is_share: Whether these are the share of this process alone.
    """

    keys: Sequence[Any]
    batches: list[list[Any]] | None
    is_share: bool


def drawn_samples(loader: DataLoader[Any]) -> DrawnSamples:
    """Return the samples that a loader draws from, without advancing its samplers or any random state.

    Of PyTorch's own samplers these are all that they can draw: those of `SubsetRandomSampler` and
    `WeightedRandomSampler` leave out samples that are held out, or have weight zero. A project's own sampler, list of
    keys or list of batches is iterated once, in a copy, from a fixed random state.

    Args:
        loader: Loader of a data set that is no iterable one.

    Raises:
        TypeError: If the sampler is an iterator that can't be copied.
    """
    sampler, batch_sampler = _sampler(loader), loader.batch_sampler
    is_share = _divides_itself(sampler)
    if batch_sampler is not None and not _iterates_like(batch_sampler, BatchSampler):
        batches = _each_once([_as_keys(batch) for batch in _iterated(batch_sampler, loader)])
        return DrawnSamples([key for batch in batches for key in batch], batches, is_share)
    return DrawnSamples(_keys(sampler, loader), None, is_share)


def batch_size_of(loader: DataLoader[Any]) -> int | None:
    """Return the number of samples of a batch; None if the data set has whole batches instead of samples."""
    if loader.batch_size is None and loader.batch_sampler is not None:
        return getattr(loader.batch_sampler, "batch_size", None) or 1
    return loader.batch_size


def is_divided(loader: DataLoader[Any]) -> bool:
    """Tell whether a loader's sampler divides the samples among processes."""
    return hasattr(_outer_sampler(loader), "num_replicas")


def _outer_sampler(loader: DataLoader[Any]) -> Any:
    return getattr(loader.batch_sampler, "sampler", loader.sampler)


def _sampler(loader: DataLoader[Any]) -> Any:
    sampler = _outer_sampler(loader)
    # Lightning wraps a project's own sampler, to divide its keys among processes.
    return sampler.dataset._sampler if is_a(sampler, "DistributedSamplerWrapper") else sampler


def _divides_itself(sampler: Any) -> bool:
    """Tell whether a sampler draws the share of one process, in a way of its own."""
    ours = _iterates_like(sampler, DistributedSampler) or is_a(sampler, "UnrepeatedDistributedSampler")
    return hasattr(sampler, "num_replicas") and not ours


def _iterates_like(sampler: Any, kind: type) -> bool:
    return getattr(type(sampler), "__iter__", None) is kind.__iter__  # type: ignore[attr-defined]  # a class of iterables


def _keys(sampler: Any, loader: DataLoader[Any]) -> Sequence[Any]:
    if _iterates_like(sampler, SequentialSampler) or _iterates_like(sampler, RandomSampler):
        return range(len(sampler.data_source))
    if _iterates_like(sampler, DistributedSampler) or is_a(sampler, "UnrepeatedDistributedSampler"):
        return range(len(sampler.dataset))
    if _iterates_like(sampler, SubsetRandomSampler):  # by which a validation set may be held out
        return sorted(sampler.indices)
    if _iterates_like(sampler, WeightedRandomSampler):
        weights = torch.as_tensor(sampler.weights)
        return weights.nonzero().flatten().tolist()
    return _in_order(_as_keys(_iterated(sampler, loader)))


def _as_keys(keys: Any) -> list[Any]:
    """Return keys as a list; numbers of any type, also tensors, as Python's."""
    listed = list(keys) if isinstance(keys, Iterable) and not isinstance(keys, str) else [keys]
    try:
        return [operator.index(key) for key in listed]
    except TypeError:  # keys that are no numbers
        return listed


def _each_once(batches: list[list[Any]]) -> list[list[Any]]:
    """Return the batches without keys that were in an earlier one or earlier in the same one."""
    seen: set[Any] = set()
    kept = []
    for batch in batches:
        new = [key for key in dict.fromkeys(batch) if key not in seen]
        seen.update(new)
        kept += [new] if new else []
    return kept


def _in_order(keys: list[Any]) -> list[Any]:
    """Return each key once, numbers in order."""
    unique = list(dict.fromkeys(keys))
    return sorted(unique) if all(isinstance(key, int) for key in unique) else unique


def _iterated(sampler: Any, loader: DataLoader[Any]) -> list[Any]:
    """Return what a sampler yields in one epoch, from a copy of it and a fixed random state."""
    duplicate = _copied(sampler, loader)
    try:
        limit = len(sampler)
    except TypeError:  # it may never end
        limit = len(loader.dataset)  # type: ignore[arg-type]  # of a data set that is no iterable one
    with _fixed_random_states():
        return list(islice(duplicate, limit))


def _copied(sampler: Any, loader: DataLoader[Any]) -> Any:
    """Return a copy of a sampler with random states and counters of its own, but the same data and modules."""
    shared: dict[int, Any] = {id(loader.dataset): loader.dataset}
    _share(sampler, shared)
    try:
        return copy.deepcopy(sampler, dict(shared))
    except Exception:  # of a part that can't be copied, which it may only refer to
        if isinstance(sampler, Iterator):
            raise InvalidTypeError(
                expected="a sampler that starts from the beginning at each iteration",
                got=f"a {type(sampler).__name__}: training would miss what is drawn from it",
                cure="a list or a Sampler; or pass the evaluation data as dataloader, or the batches themselves",
            ) from None
        return _copied_by_part(sampler, shared)


def _copied_by_part(sampler: Any, shared: dict[int, Any]) -> Any:
    """Return a copy of a sampler that shares the parts that can't be copied."""
    duplicate = copy.copy(sampler)
    for name, value in list(getattr(duplicate, "__dict__", {}).items()):
        with suppress(Exception):
            # Methods of the sampler become those of the copy.
            vars(duplicate)[name] = copy.deepcopy(value, {**shared, id(sampler): duplicate})
    return duplicate


def _share(owner: Any, shared: dict[int, Any], depth: int = 3) -> None:
    """Note the data and modules that a sampler refers to, also through others: copies share them."""
    for value in getattr(owner, "__dict__", {}).values():
        if isinstance(value, (Dataset, DataLoader, nn.Module)):
            shared[id(value)] = value
        elif depth and hasattr(value, "__dict__") and not isinstance(value, type):
            _share(value, shared, depth - 1)


@contextmanager
def _fixed_random_states() -> Iterator[None]:
    """Set the random states of the host, for draws that are the same in all processes and runs; restore them."""
    states = host_states()
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # the state that the project's sampler draws from
    torch.default_generator.manual_seed(0)  # of the CPU alone
    try:
        yield
    finally:
        set_host_states(states)
