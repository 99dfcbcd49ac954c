"""A checkpoint that is saved in the middle of a topology update, or after an interrupted one, is of before or after."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from interruption import Between
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from tiny_training import FEATURES, At, ShufflingLoader, TinyModule, differences, everything, fit, trainer
from torch.utils.data import DataLoader, TensorDataset
from witness import BUDGET, DENSITY

from lightning_sparse import SparseMomentumCallback
from lightning_sparse.network import rewirable_model
from lightning_sparse.testing.equality import deep_copy

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]

BATCHES = 70
STRIDE = 9  # of the instructions, from update to update


class Interrupted(SparseMomentumCallback):
    """Sparse momentum, in each update of which, one instruction later than in the one before, something is called."""

    def __init__(self, action: Any, first: int = 0, **options: Any) -> None:
        super().__init__(density=DENSITY, **options)
        self._number, self._action = first, action

    @property
    def state_key(self) -> str:
        return "SparseMomentumCallback"

    def on_train_batch_start(self, *arguments: Any) -> None:
        updates = len(self.history)
        with Between("_carry_out", self._number, self._action):
            super().on_train_batch_start(*arguments)
        self._number += STRIDE * (len(self.history) - updates)


def content(run: Trainer, weights_only: bool = False) -> dict[str, Any]:
    """Return a copy of what a checkpoint has, but for the progress of loops and other callbacks."""
    checkpoint = run._checkpoint_connector.dump_checkpoint(weights_only)
    parts = {name: checkpoint.get(name) for name in ("state_dict", "current_model_state", "optimizer_states")}
    return deep_copy({**parts, "sparse": checkpoint.get("callbacks", {}).get("SparseMomentumCallback")})


@pytest.mark.parametrize("weights_only", [False, True], ids=["whole", "weights only"])
@pytest.mark.parametrize("average", [False, True], ids=["alone", "beside an average"])
def test_a_checkpoint_saved_in_the_middle_of_an_update_is_that_of_before_or_after(
    average: bool, weights_only: bool
) -> None:
    known: dict[str, list[dict[str, Any]]] = {"before": [], "after": []}
    seen: list[tuple[int, dict[str, Any]]] = []
    averages = [EMAWeightAveraging(decay=0.5) for _ in range(2 * average)]
    options: dict[str, Any] = {"schedule": "constant", "every_n_steps": 1, "growth": "random"}

    class Reference(SparseMomentumCallback):
        state_key = Interrupted.state_key

        def on_train_batch_start(self, run: Trainer, *arguments: Any) -> None:
            known["before"].append(content(run, weights_only))
            super().on_train_batch_start(run, *arguments)
            known["after"].append(content(run, weights_only))

    reference = Reference(density=DENSITY, **options)
    fit(*averages[:1], reference, module=TinyModule("sgd"), loader=ShufflingLoader(BATCHES), max_epochs=1)
    callback = Interrupted(lambda: seen.append((run.global_step, content(run, weights_only))), **options)
    run = trainer(*averages[1:], callback, max_epochs=1)
    run.fit(TinyModule("sgd"), ShufflingLoader(BATCHES), ShufflingLoader(1))
    assert len(callback.history) == len(reference.history) == BATCHES - 1
    assert 25 < len(seen) < BATCHES - 1  # the last ones would have come after the last instruction
    found = [[when for when in known if not differences(state, known[when][step])] for step, state in seen]
    assert [place for place, same in enumerate(found) if not same] == []
    assert {same[0] for same in found} == {"before", "after"}
    assert differences(callback.state_dict(), reference.state_dict()) == []


def epochs_of_batches() -> DataLoader[Any]:
    """Return a loader without a position to save: an epoch that is resumed begins anew."""
    inputs = torch.linspace(-1, 1, 12 * FEATURES).sin().view(12, FEATURES)
    return DataLoader(TensorDataset(inputs, torch.arange(12) % 4), batch_size=4)


def stop() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("growth", ["random", "gradient"])
def test_a_run_that_ctrl_c_ended_in_an_update_resumes_as_if_it_had_not_been_ended(tmp_path: Path, growth: str) -> None:
    reference = SparseMomentumCallback(density=DENSITY, schedule="constant", growth=growth)
    expected = everything(fit(reference, loader=epochs_of_batches()), reference)
    updates = set()
    for number in range(0, 270, 30):
        callback = Interrupted(stop, first=number, growth=growth, schedule="constant")
        saving = At("on_exception", lambda run, _: run.save_checkpoint(tmp_path / "ended.ckpt"))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(callback, saving, loader=epochs_of_batches())
        updates.add(len(callback.history))
        assert callback.network is not None
        assert sum(layer.active for layer in callback.network.layers.values()) == BUDGET
        resumed = SparseMomentumCallback(density=DENSITY, schedule="constant", growth=growth)
        rerun = fit(resumed, loader=epochs_of_batches(), ckpt_path=str(tmp_path / "ended.ckpt"))
        assert differences(everything(rerun, resumed), expected) == [], number
    assert updates == {0, 1}


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGUSR1")
def test_a_run_resumes_exactly_from_what_the_handler_of_a_signal_saved_in_an_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback, seen = SparseMomentumCallback(density=DENSITY, schedule="constant"), []
    run = trainer(callback, max_epochs=3)

    def unpack(packed: torch.Tensor, shape: torch.Size, real: Any = rewirable_model.unpack_mask) -> torch.Tensor:
        if run.global_step == 3:
            seen.append(tuple(shape))
            if len(seen) == 3:  # the first layer has its mask, and of the second the survivors come
                signal.raise_signal(signal.SIGUSR1)
        return real(packed, shape)

    monkeypatch.setattr(rewirable_model, "unpack_mask", unpack)
    handler = signal.signal(signal.SIGUSR1, lambda *_: run.save_checkpoint(tmp_path / "hpc.ckpt"))
    try:
        run.fit(TinyModule(), epochs_of_batches(), ShufflingLoader(1))
    finally:
        signal.signal(signal.SIGUSR1, handler)
    assert seen[0] == seen[1] != seen[2]
    resumed = SparseMomentumCallback(density=DENSITY, schedule="constant")
    rerun = fit(resumed, loader=epochs_of_batches(), ckpt_path=str(tmp_path / "hpc.ckpt"))
    assert differences(everything(rerun, resumed), everything(run, callback)) == []
