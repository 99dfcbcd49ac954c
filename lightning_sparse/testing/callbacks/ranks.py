"""Properties of callbacks in distributed runs: all ranks agree."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import SkipTest

import torch

from lightning_sparse._compat import DDPStrategy, LightningModule, Trainer
from lightning_sparse.callbacks import SparseTrainingCallback
from lightning_sparse.testing.callbacks.runs import BATCHES, Factory, masks_of, new, quiet
from lightning_sparse.testing.callbacks.training import At, ShufflingLoader, TinyModule, trainer
from lightning_sparse.testing.contract import expect

PROCESSES = 2
# By default, a collective that a rank doesn't join would wait for half an hour.
PATIENCE = timedelta(seconds=60)


class RankedData(TinyModule):
    """A module with different data on every rank."""

    def train_dataloader(self) -> ShufflingLoader:
        """Return this rank's data."""
        return ShufflingLoader(BATCHES, seed=self.global_rank)


def all_ranks_have_the_same_masks_and_weights(factory: Factory) -> None:
    """Ask that two processes with other seeds and data agree on masks and weights after every step and update."""
    _check_platform()
    callback = new(factory)
    with TemporaryDirectory() as folder, quiet(), _environment():
        seeding = At("setup", lambda run, _: torch.manual_seed(run.global_rank))
        spies = [At(hook, _recorder(callback, Path(folder))) for hook in ("on_train_batch_start", "on_train_batch_end")]
        strategy = DDPStrategy(start_method="fork", process_group_backend="gloo", timeout=PATIENCE)
        run = trainer(seeding, callback, *spies, strategy=strategy, devices=PROCESSES, default_root_dir=folder)
        run.fit(RankedData())
        records = [path.read_text().splitlines() for path in sorted(Path(folder).glob("rank*.txt"))]
    # Three epochs of two steps, each recorded before (after any update) and after it.
    lengths = [len(record) for record in records]
    expect(lengths == [12] * PROCESSES, f"12 records of {PROCESSES} processes", lengths, "let training continue")
    diverging = [one for one, other in zip(*records, strict=True) if one != other]
    expect(
        not diverging,
        "the same masks and weights in all processes",
        f"others at {len(diverging)} of {lengths[0]} moments, first at {diverging[:1]}",
        "draw from layer.generator only, and broadcast what differs between processes",
    )


def _check_platform() -> None:
    if "fork" not in multiprocessing.get_all_start_methods():
        raise SkipTest("this platform has no fork, by which the processes of a test start")
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # PyTorch's own
        raise SkipTest("CUDA is initialized in this process, which then can't be forked; run it in a process before")
    if not torch.distributed.is_available():
        raise SkipTest("this PyTorch has no torch.distributed")


def _recorder(callback: SparseTrainingCallback, folder: Path) -> Callable[[Trainer, LightningModule], None]:
    def record(run: Trainer, module: LightningModule) -> None:
        digest = hashlib.blake2b(digest_size=8)
        for name, mask in masks_of(callback).items():
            digest.update(name.encode() + mask.numpy().tobytes())
        for parameter in module.parameters():
            digest.update(parameter.detach().numpy().tobytes())
        with (folder / f"rank{run.global_rank}.txt").open("a") as file:
            file.write(f"step {run.global_step}: {digest.hexdigest()}\n")

    return record


@contextmanager
def _environment() -> Iterator[None]:
    """Restore the environment afterwards: Lightning leaves the port of the ranks' connection in it."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# Every callback is checked for these.
PROPERTIES = (all_ranks_have_the_same_masks_and_weights,)
