"""Saving and restoring sparse training with the checkpoints of Lightning."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from lightning_sparse._compat import Callback, LightningModule, Trainer
from lightning_sparse.callbacks.cadence import counted_per_step
from lightning_sparse.callbacks.probing.rollback import Rollback
from lightning_sparse.callbacks.probing.state_key import StateKey, hold_state_key, release_state_key
from lightning_sparse.callbacks.sparse_training.averages import averages_of, follow_weights, mask_averages
from lightning_sparse.callbacks.sparse_training.compatibility import restores_after_setup
from lightning_sparse.callbacks.sparse_training.method_calls import MethodCalls
from lightning_sparse.methods.counters import Counters
from lightning_sparse.methods.history import UpdateRecord
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.known_masks.checkpoint_file import verify_checkpoint_file
from lightning_sparse.network.state import verify_checksum, with_checksum
from lightning_sparse.selection.kernel_watch import KernelWatch
from lightning_sparse.validation.errors import InvalidValueError, MissingAttributeError
from lightning_sparse.validation.representation import ShowsOptions

_STATE = {"network", "first", "last", "step_offset", "history"}
# Of a run with a method, or in a loop of the user's own.
_OPTIONAL = frozenset({"method", "steps_begun"})


class ResumableCallback(ShowsOptions, Callback):
    """Keeps a sparse network and the counters of its run in the checkpoints of Lightning.

    Attributes:
        network: The `SparseNetwork`, from the start of fit on.
    """

    def __init__(self) -> None:
        super().__init__()
        self._network: SparseNetwork | None = None
        self._is_fitting = False
        # The state before the present fit, until it has trained something.
        self._undo: Rollback | None = None
        # Whether the recipe decides by gradients, which a checkpoint then has to hold.
        self._holds_gradients = False
        # What calls the method of a run, if it has one.
        self._calls: MethodCalls | None = None
        self._reset_counters()

    def _reset_counters(self) -> None:
        """Forget an earlier run; its network stays."""
        self._counters = Counters()
        # A state that was loaded and waits for the module to be ready for it.
        self._restored: dict[str, Any] | None = None
        # Whether a state was loaded, if only that of a run that had not begun, or of one with masks.
        self._was_given = self._is_resumed = False
        self._resumes_without_state = self._has_started = self._has_averages = False
        self._saved_checksum: str | None = None
        # Watches what layers compute with in the first batch of a fit; None before and after.
        self._kernels: KernelWatch | None = None
        # The network of the fit before, also if that was one of another module; until this fit has its own.
        self._earlier: SparseNetwork | None = None
        # Of a fit that failed before its first batch, to be saved with what it started from.
        self._unused_counters: Counters | None = None

    @StateKey
    def state_key(self) -> str:
        """Name of the state in checkpoints: that of the class."""
        return type(self).__qualname__

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: it is in no fit, and its key is its own."""
        return {name: value for name, value in self.__dict__.items() if name != "state_key"}

    @property
    def network(self) -> SparseNetwork:
        """The `SparseNetwork`, from the start of fit on.

        Raises:
            AttributeError: If no fit has begun yet.
        """
        if self._network is None:
            raise MissingAttributeError(
                expected="a network",
                got="none before fit begins",
                cure="call trainer.fit first, or read it after on_fit_start",
            )
        return self._network

    @network.setter
    def network(self, network: SparseNetwork | None) -> None:
        self._network = network

    @property
    def history(self) -> list[UpdateRecord]:
        """One record per topology update of this run."""
        self._complete_update()
        return self._counters.history

    def _complete_update(self) -> None:
        """Complete a topology update that was interrupted: then masks, weights, counters and history are of after."""
        if self._network is not None:
            self._network.complete_update()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note whether the checkpoint that a fit resumes from has masks; they are never guessed from zeros.

        Raises:
            ValueError: If the file is damaged.
        """
        verify_checkpoint_file(trainer.ckpt_path)
        # Once found, it stays so, though a tuner restores states of its own before training begins.
        self._resumes_without_state |= not checkpoint.get("callbacks", {}).get(self.state_key)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the module is ready for it.

        Raises:
            ValueError: If it is damaged or not this callback's.
        """
        self._was_given = True
        if state_dict == {"network": None} or self._is_own(state_dict):
            return
        verify_checksum(state_dict, _STATE, "a run with this callback", _OPTIONAL)
        Counters.from_dict(state_dict)
        if not isinstance(state_dict["network"], Mapping):  # None would stand for random masks
            raise InvalidValueError(
                expected="the state of a network",
                got=f"{state_dict['network']!r}",
                cure="load another checkpoint",
            )
        self._restored = state_dict
        self._is_resumed = self._is_fitting

    def _is_own(self, state: object) -> bool:
        """Tell whether this is what a tuner saved in this fit before training began: then it is all there already."""
        saved = self._saved_checksum if self._undo is not None else None
        return saved is not None and isinstance(state, Mapping) and state.get("checksum") == saved

    def state_dict(self) -> dict[str, Any]:
        """Return masks, random state, counters and history; tensors and plain Python values only."""
        if self._restored is not None:  # given and not used yet, it must not get lost
            return self._restored
        if self._network is None:
            # A fit that has no masks yet, as a tuner saves it, or that failed before it trained: it can be resumed.
            return {"network": None} if self._is_fitting else {}
        self._complete_update()
        counters = self._unused_counters or self._counters
        network = self._network.state_dict(gradients=self._holds_gradients)
        method = {} if self._calls is None else {"method": self._calls.state_dict()}
        state = with_checksum({"network": network, **counters.to_dict(), **method})
        self._saved_checksum = state["checksum"]
        return state

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let averages that have not begun be saved as the weights are; they are in the checkpoint by reference."""
        self._follow_weights(trainer)

    def _enforce(self) -> None:
        if self._network is not None and self._is_fitting:
            self._network.enforce()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mask the weights before they are validated: other callbacks may have changed them since the last step."""
        self._load_evaluated_masks(trainer, pl_module)
        self._enforce()
        self._follow_weights(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mask the weights before they are saved: other callbacks may have changed them since the last step."""
        self._enforce()
        self._follow_weights(trainer)

    def _follow_weights(self, trainer: Trainer) -> None:
        if self._has_averages and self._is_fitting and self._network is not None:
            follow_weights(averages_of(trainer), self._network)

    def _begin_fit(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the run before; its network stays if it is one of this module, which is then saved with it."""
        hold_state_key(self)
        self._earlier = self._network
        if self._network is None:
            return
        own = set(map(id, pl_module.parameters()))
        if not any(id(parameter) in own for parameter in self._network.model.parameters()):
            self._network = None
            return
        steps = trainer.global_step // counted_per_step(trainer)
        self._counters = Counters.starting(trainer.current_epoch, steps, self._network.steps)

    def _begin_batch(self, trainer: Trainer, network: SparseNetwork, options: Mapping[str, Any]) -> None:
        """Prepare for a first batch; it may show what layers compute with, which may be an error."""
        if self._kernels is None:
            network.check_weights()  # other callbacks and the module may have changed weights after ours began
            network.enforce()
            network.look(lambda: trainer.global_step)
            masked = [name for name, layer in network.layers.items() if not layer.dense]
            self._kernels = KernelWatch(network.model, masked, options["include"], options["exclude"])
        if not self._kernels.look():
            self._undo = None  # from here on, a failure is one of training

    def _release(self) -> None:
        if self._kernels is not None:
            self._kernels.stop()
            self._kernels = None
        if self._calls is not None:
            self._calls.release()
        if self._network is not None:
            self._network.detach()

    def _leave_fit(self, *, failed: bool) -> None:
        """Undo a fit that trained nothing; what a checkpoint gave stays, with the weights that came with it."""
        undo, self._undo = self._undo, None
        if undo is not None:
            self._undo_fit(undo, failed=failed)
        release_state_key(self)

    def _undo_fit(self, undo: Rollback, *, failed: bool) -> None:
        given, counters = self._restored, self._counters
        if not self._is_resumed:
            undo.undo()
            # What is saved from now on belongs to where the Trainer is: after a failure, at the start of this fit.
            self._unused_counters = counters if failed or counters.first < self._counters.last else None
        elif given is not None:
            undo.undo(weights=False)
            self._restored = given
        self._is_fitting = True

    def _check_resumable(self, trainer: Trainer) -> None:
        # Lightning shows callbacks a checkpoint only if it has some callback's state, and holds on to it until now.
        loaded = trainer._checkpoint_connector._loaded_checkpoint
        resumes = loaded or (restores_after_setup(trainer) and trainer.ckpt_path)
        if self._resumes_without_state or (resumes and not self._was_given):
            raise InvalidValueError(
                expected=f"the state of {self.state_key} in the checkpoint to resume from",
                got="none",
                cure=(
                    "resume from a full checkpoint of a run with this callback; or load weights into the module and "
                    "fit without ckpt_path: dense ones to start sparse training, or sparse ones with masks_from= their "
                    "full checkpoint (a weights-only one has no masks)"
                ),
            )

    @abstractmethod
    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bind masks to the module and its optimizers."""

    def _start_late(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start where the strategy restores a checkpoint after the start of fit: until then none is known of."""
        if not self._has_started:
            self._start(trainer, pl_module)
        self._apply_restored(trainer)

    def _apply_restored(self, trainer: Trainer) -> None:
        """Apply a state that was restored during fit, as a tuner does that is started there."""
        if self._network is not None and self._restored is not None:
            self._network.load_state_dict(self._restored["network"])
            if self._calls is not None:
                self._calls.load_state_dict(self._restored.get("method", {}))
            self._restore_counters(self._restored)
            mask_averages(averages_of(trainer), self._network)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start, if that had to wait for a checkpoint, before the weights are validated."""
        self._start_late(trainer, pl_module)

    def _load_evaluated_masks(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Outside of fit, replace the masks of the trained module by those of the evaluated checkpoint."""
        if trainer.state.fn != "fit" and self._network is not None and self._restored is not None:
            if self._network.model is pl_module:
                self._network.load_state_dict(self._restored["network"])
            self._restored = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the masks that belong to the weights of the evaluated checkpoint."""
        self._load_evaluated_masks(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the masks that belong to the weights of the evaluated checkpoint."""
        self._load_evaluated_masks(trainer, pl_module)

    def _restore_counters(self, state: Mapping[str, Any]) -> None:
        self._counters = Counters.from_dict(state)
        self._restored = None


def network_or_none(callback: ResumableCallback) -> SparseNetwork | None:
    """Return the network of a callback; None before there is one."""
    return callback._network
