"""Saving and restoring sparse training with the checkpoints of Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_sparse._compat import Callback, LightningModule, Trainer
from lightning_sparse.callbacks.probing.state_key import StateKey
from lightning_sparse.callbacks.sparse_training.averages import averages_of, mask_averages
from lightning_sparse.callbacks.sparse_training.counters import Counters
from lightning_sparse.callbacks.sparse_training.history import UpdateRecord
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.known_masks.checkpoint_file import verify_checkpoint_file
from lightning_sparse.network.state import verify_checksum, with_checksum
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.representation import ShowsOptions

_STATE = {"network", "first", "last", "step_offset", "history"}


class ResumableCallback(ShowsOptions, Callback):
    """Keeps a sparse network and the counters of its run in the checkpoints of Lightning.

    Attributes:
        network: The `SparseNetwork`, once there is one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network: SparseNetwork | None = None
        self._is_fitting = False
        # Whether the recipe decides by gradients, which a checkpoint then has to hold.
        self._holds_gradients = False
        self._reset_counters()

    def _reset_counters(self) -> None:
        """Forget an earlier run; its network stays."""
        self._counters = Counters()
        # A state that was loaded and waits for the module to be ready for it.
        self._restored: dict[str, Any] | None = None
        self._resumes_without_state = False

    @StateKey
    def state_key(self) -> str:
        """Name of the state in checkpoints: that of the class."""
        return type(self).__qualname__

    @property
    def history(self) -> list[UpdateRecord]:
        """One record per topology update of this run."""
        self._complete_update()
        return self._counters.history

    def _complete_update(self) -> None:
        """Complete a topology update that was interrupted: then masks, weights, counters and history are of after."""
        if self.network is not None:
            self.network.complete_update()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note whether the checkpoint that a fit resumes from has masks; they are never guessed from zeros.

        Raises:
            ValueError: If the file is damaged.
        """
        verify_checkpoint_file(trainer.ckpt_path)
        self._resumes_without_state = not checkpoint.get("callbacks", {}).get(self.state_key)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the module is ready for it.

        Raises:
            ValueError: If it is damaged or not this callback's.
        """
        if state_dict == {"network": None}:
            return
        verify_checksum(state_dict, _STATE, "a run with this callback")
        Counters.from_dict(state_dict)
        if not isinstance(state_dict["network"], Mapping):  # None would stand for random masks
            raise InvalidValueError(
                expected="the state of a network",
                got=f"{state_dict['network']!r}",
                cure="load another checkpoint",
            )
        self._restored = state_dict

    def state_dict(self) -> dict[str, Any]:
        """Return masks, random state, counters and history; tensors and plain Python values only."""
        if self._restored is not None:  # a tuner saves and restores once more between a resume and its use
            return self._restored
        if self.network is None:
            # Nothing to save. In a fit, only a tuner saves before there are masks, to restore before there are any.
            return {"network": None} if self._is_fitting else {}
        self._complete_update()
        return with_checksum(
            {
                "network": self.network.state_dict(gradients=self._holds_gradients),
                **self._counters.to_dict(),
            }
        )

    def _check_resumable(self, trainer: Trainer) -> None:
        # Lightning shows callbacks a checkpoint only if it has some callback's state, and holds on to it until now.
        loaded = trainer._checkpoint_connector._loaded_checkpoint
        if self._resumes_without_state or (loaded and self._restored is None):
            raise InvalidValueError(
                expected=f"the state of {self.state_key} in the checkpoint to resume from",
                got="none",
                cure=(
                    "resume from a full checkpoint of a run with this callback; or load weights into the module and "
                    "fit without ckpt_path: dense ones to start sparse training, or sparse ones with masks_from= their "
                    "full checkpoint (a weights-only one has no masks)"
                ),
            )

    def _apply_restored(self, trainer: Trainer) -> None:
        """Apply a state that was restored after the start of fit, as strategies that shard the model do."""
        self._check_resumable(trainer)
        if self.network is not None and self._restored is not None:
            self.network.load_state_dict(self._restored["network"])
            self._restore_counters(self._restored)
            mask_averages(averages_of(trainer), self.network)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply a restored state before the weights are validated."""
        self._apply_restored(trainer)

    def _load_evaluated_masks(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Outside of fit, replace the masks of the trained module by those of the evaluated checkpoint."""
        if trainer.state.fn != "fit" and self.network is not None and self._restored is not None:
            if self.network.model is pl_module:
                self.network.load_state_dict(self._restored["network"])
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
