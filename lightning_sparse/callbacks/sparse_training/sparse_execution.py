"""Sparse kernels for the masked layers of a run."""

from __future__ import annotations

from math import inf
from typing import Any, Literal

from rich import get_console

from lightning_sparse._compat import Callback, LightningModule, Trainer, callbacks_of, is_a
from lightning_sparse.callbacks.cadence import run_length
from lightning_sparse.callbacks.probing.state_key import StateKey
from lightning_sparse.callbacks.sparse_training.beside import sparse_callback
from lightning_sparse.callbacks.sparse_training.callback import SparseTrainingCallback
from lightning_sparse.callbacks.sparse_training.checkpointing import network_or_none
from lightning_sparse.execution.network_execution import Kernels, NetworkExecution, check_kernels, execute
from lightning_sparse.methods.dense_gradients import steps_left_in_epoch, steps_needed
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.representation import ShowsOptions

_PURPOSE = "whose network is to be computed by sparse kernels"
DenseSteps = int | Literal["auto", "always"]


class SparseExecution(ShowsOptions, Callback):
    """Compute the masked layers of sparse training by kernels that skip inactive weights, forward and backward.

    Add it to the Trainer's callbacks, before or after `SparseMomentumCallback` or another `SparseTrainingCallback`.
    Parameters, their names, checkpoints, optimizers and averages stay what they are. Linear and two-dimensional
    convolutional layers in float32 on the CPU have kernels; everything else runs as it did, and a summary after the
    first sparse batch says what and why. See `execute` in `lightning_sparse.execution.network_execution`.

    Kernels compute no gradients of inactive weights: these are zero, and so the momentum of inactive weights fades.
    Growth decides by them, so the last steps before each topology update run dense.

    Args:
        kernels: "auto" to take kernels where they were faster at the first batch, which a checkpoint remembers; or
            "always", so that rounding doesn't depend on a timing.
        dense_steps: Number of optimizer steps before each topology update that compute all gradients: "auto" for as
            many as growth and the optimizers' averages need (44 with a momentum of 0.9; Adam's second moment makes it
            4603); "always" for all steps, which is exact and as slow as dense training; or a number. Where the length
            of an epoch is unknown, all steps do.

    Attributes:
        execution: Handle of the network's execution, during a fit.

    Raises:
        ValueError: If an argument is unknown or out of range.
    """

    def __init__(self, kernels: Kernels = "auto", dense_steps: DenseSteps = "auto") -> None:
        super().__init__()
        self._kernels, self._dense_steps = check_kernels(kernels), _checked(dense_steps)
        self.execution: NetworkExecution | None = None
        self._choices: dict[str, bool] = {}
        self._needed: float = inf
        self._has_reported = False

    @StateKey
    def state_key(self) -> str:
        """Name of the state in checkpoints: that of the class."""
        return type(self).__qualname__

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look for the callback that trains sparsely.

        Raises:
            MisconfigurationException: If the Trainer has none.
        """
        if stage == "fit":
            self._undo()
            self._choices, self._has_reported = {}, False
            sparse_callback(trainer, _PURPOSE, self)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Begin at the first batch, and run a batch dense if an update will need its gradients."""
        sparse = sparse_callback(trainer, _PURPOSE, self)
        network = network_or_none(sparse)
        if network is None:
            return
        if self.execution is None or self.execution.network is not network:
            self._undo()
            self.execution = execute(network, kernels=self._kernels, choices=self._choices)
            method, given = sparse._method, self._dense_steps
            auto = steps_needed(sparse._rules, method, trainer.optimizers) if given == "auto" else inf
            self._needed = float(given) if isinstance(given, int) else auto
        self.execution.is_dense = self._needed > 0 and _steps_before_update(trainer, sparse, batch_idx) <= self._needed

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Say after the first sparse batch what runs by kernels."""
        execution = self.execution
        if execution is None or self._has_reported or (execution.is_dense and self._needed < inf):
            return
        self._has_reported = True
        if trainer.is_global_zero and any(is_a(callback, "ModelSummary") for callback in callbacks_of(trainer)):
            lines = execution.report() if self._needed < inf or execution.why_unavailable else []
            for line in [*lines, f"Gradients of inactive weights: {self._sentence()}."]:
                get_console().print(line, highlight=False, markup=False)

    def _sentence(self) -> str:
        if self._needed == inf:
            return "in all steps, so that all of them run dense; dense_steps=44, say, trades exactness for speed"
        return f"in the last {int(self._needed)} steps before each topology update" if self._needed else "in no step"

    def state_dict(self) -> dict[str, Any]:
        """Return what was chosen, so that a resumed run chooses the same."""
        if self.execution is not None:
            self._choices = self.execution.choices
        return {"choices": dict(self._choices)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was chosen."""
        self._choices = {str(name): bool(choice) for name, choice in state_dict.get("choices", {}).items()}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compute as PyTorch does again."""
        self._undo()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Compute as PyTorch does again."""
        self._undo()

    def _undo(self) -> None:
        if self.execution is not None:
            self._choices = self.execution.choices
            self.execution.undo()
            self.execution = None


def _checked(steps: DenseSteps) -> DenseSteps:
    if steps in ("auto", "always") or (type(steps) is int and steps >= 0):
        return steps
    raise InvalidValueError(
        expected="dense_steps 'auto', 'always' or a number of steps >= 0",
        got=repr(steps),
        cure="44 is enough for a momentum of 0.9",
    )


def _steps_before_update(trainer: Trainer, sparse: SparseTrainingCallback, batch_idx: int) -> float:
    """Return the number of steps before the next topology update, that of this batch included; 0 if it is unknown."""
    network, counters, timetable = sparse._network, sparse._counters, sparse._timetable
    if network is None:
        return inf
    length = run_length(trainer, trainer.max_epochs)
    now = (trainer.current_epoch, network.steps - counters.step_offset)
    # Of the position now: an update that is due at this batch may be made by a callback that comes later in the list.
    boundary = timetable.next_boundary(now)
    if not timetable.cadence.counts_epochs:
        return inf if boundary >= length.in_steps() else boundary - now[1]
    if length.steps_per_epoch == inf or not trainer.lightning_module.automatic_optimization:
        return 0
    if boundary >= length.in_epochs():
        return inf
    left = steps_left_in_epoch(trainer.num_training_batches, batch_idx, trainer.accumulate_grad_batches)
    return left + (boundary - now[0] - 1) * length.steps_per_epoch
