"""Updates at a boundary that are interrupted by something that saves a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning_sparse._compat import Callback, LightningModule, Trainer
from lightning_sparse.callbacks import SparseTrainingCallback
from lightning_sparse.testing.callbacks.runs import BATCHES, everything, train
from lightning_sparse.testing.callbacks.training import At, Batch, ShufflingLoader
from lightning_sparse.testing.contract import expect
from lightning_sparse.testing.equality import differences, first_few


def resumes_from_every_change(factory: Callable[[], SparseTrainingCallback]) -> None:
    """Ask that runs from checkpoints of right before each change of masks at a boundary end like the uninterrupted run.

    The handler of a signal saves such ones: SLURM sends it before it stops a job.
    """
    with TemporaryDirectory() as name:
        folder, callback = Path(name), factory()
        saving = _SavingBeforeChanges(callback, folder)
        batches = _Batches()
        run = train(saving, callback, At("on_train_batch_start", saving.stop), loader=batches)
        expected = everything(run, callback)
        for path in sorted(folder.iterdir()):
            resumed = factory()
            rerun = train(resumed, loader=batches, ckpt_path=str(path))
            changed = differences(everything(rerun, resumed), expected)
            expect(
                not changed,
                f"the end of the reference run from a checkpoint of before {path.stem} in update()",
                f"other {first_few(changed)}",
                "change masks once in an update, with record=self.record, and set there what belongs to the change",
            )


class _Batches:
    """The same batches in every epoch; one that saved its position would continue after the batch of the update."""

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[Batch]:
        return iter(list(ShufflingLoader(BATCHES)))


class _SavingBeforeChanges(Callback):
    """Saves checkpoints at changes of masks that a callback after this one makes at the start of a batch.

    Args:
        callback: The callback.
        folder: Folder to save to.
    """

    def __init__(self, callback: SparseTrainingCallback, folder: Path) -> None:
        self._callback, self._folder = callback, folder
        self._is_saving = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Save at changes from here on."""
        network = self._callback.network
        for name in ("rewire", "set_masks"):
            if name not in vars(network):
                vars(network)[name] = partial(self._change, trainer, getattr(network, name))
        self._is_saving = True

    def stop(self, *_: object) -> None:
        """Save no more."""
        self._is_saving = False

    def _change(self, trainer: Trainer, change: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if self._is_saving:
            number = len(list(self._folder.iterdir())) + 1
            trainer.save_checkpoint(self._folder / f"change {number} of masks.ckpt")
        return change(*args, **options)
