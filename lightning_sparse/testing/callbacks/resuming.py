"""Properties of callbacks with checkpoints, reuse and copies."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from lightning_sparse._compat import Trainer
from lightning_sparse.callbacks import SparseTrainingCallback
from lightning_sparse.testing.callbacks.runs import Factory, everything, new, quiet, saved, saving_everywhere, train
from lightning_sparse.testing.callbacks.training import At, ShufflingLoader, TinyModule
from lightning_sparse.testing.contract import expect
from lightning_sparse.testing.equality import differences, first_few

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
}


def resumes_bit_for_bit_from_every_checkpoint(factory: Factory) -> None:
    """Ask that runs from the checkpoints of all steps, validations and epochs end like the uninterrupted run.

    Weights, optimizers, the callback's state and the counters are compared. Each resumed run has new objects and
    another global seed. SGD keeps no momentum, so that the callback's own averages must be restored, too.
    """
    for optimizer in ("sgd", "nesterov"):
        with TemporaryDirectory() as folder:
            callback = new(factory)
            run = train(callback, *saving_everywhere(Path(folder)), module=TinyModule(optimizer))
            expected = everything(run, callback)
            checkpoints = saved(Path(folder))
            number = run.global_step + 2 * run.current_epoch
            expect(len(checkpoints) == number, f"{number} checkpoints", list(checkpoints), "let training continue")
            for moment, path in checkpoints.items():
                resumed = new(factory)
                reseed = At("setup", lambda *_: torch.manual_seed(99))
                rerun = train(reseed, resumed, module=TinyModule(optimizer), ckpt_path=path)
                _check_same(rerun, resumed, expected, f"resumed with {optimizer} from {moment}")


def _check_same(run: Trainer, callback: SparseTrainingCallback, expected: dict[str, Any], which: str) -> None:
    changed = differences(everything(run, callback), expected)
    expect(
        not changed,
        f"the end of the reference run from the run {which}",
        f"other {first_few(changed)}",
        "put every counter into state_dict, restore it, and reset the rest in setup",
    )


def checkpoints_load_into_the_plain_module(factory: Factory) -> None:
    """Ask for checkpoints that load with weights_only=True, and strictly into the module without this package."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "middle.ckpt"
        saving = At("on_train_batch_end", lambda run, _: run.save_checkpoint(path) if run.global_step == 3 else None)
        train(new(factory), saving)
        checkpoint = torch.load(path, weights_only=True)
        plain = TinyModule()
        keys, expected = list(checkpoint["state_dict"]), list(plain.state_dict())
        expect(keys == expected, f"the module's own weights {expected}", keys, "register nothing in the module")
        plain.load_state_dict(checkpoint["state_dict"], strict=True)
        TinyModule.load_from_checkpoint(path, strict=True, weights_only=True)


def one_object_serves_fit_after_fit(factory: Factory) -> None:
    """Ask that a used callback trains a new module like a new callback, whatever it trained before."""
    reused = new(factory)
    for optimizer in ("momentum", "sgd", "momentum"):
        fresh = new(factory)
        expected = everything(train(fresh, module=TinyModule(optimizer)), fresh)
        _check_same(train(reused, module=TinyModule(optimizer)), reused, expected, f"of a used callback, {optimizer}")


def evaluation_changes_nothing(factory: Factory) -> None:
    """Ask that validating and testing after fit leave weights, masks and counters alone."""
    callback = new(factory)
    run = train(callback)
    expected = everything(run, callback)
    with quiet():
        run.validate(run.lightning_module, ShufflingLoader(1), verbose=False)
        run.test(run.lightning_module, ShufflingLoader(1), verbose=False)
    _check_same(run, callback, expected, "after validate and test")


def survives_copying_before_fit(factory: Factory) -> None:
    """Ask that a deep copy and a pickled copy train like the original."""
    original = new(factory)
    copies = {how: make(original) for how, make in COPIES.items()}
    expected = everything(train(original), original)
    for how, copied in copies.items():
        _check_same(train(copied), copied, expected, f"of a copy by {how}")


def survives_copying_while_it_trains(factory: Factory) -> None:
    """Ask that copies made in a step have the same state and train like a new callback, unnoticed by the run."""
    callback, unnoticed = new(factory), new(factory)
    expected = everything(train(unnoticed), unnoticed)
    made: list[tuple[str, SparseTrainingCallback, dict[str, Any], dict[str, Any]]] = []

    def spy(*_: Any) -> None:
        for how, make in COPIES.items():
            copied = make(callback)
            made.append((how, copied, copied.state_dict(), callback.state_dict()))

    _check_same(train(callback, At("on_train_batch_end", spy)), callback, expected, "in which copies were made")
    for how, _, state, original in made:
        _check_state(state, original, how)
    for how, copied, _, _ in made[-len(COPIES) :]:
        _check_same(train(copied), copied, expected, f"of a copy by {how}")


def survives_copying_after_fit(factory: Factory) -> None:
    """Ask that copies made after fit have the same state, and train a new module like a new callback."""
    callback = new(factory)
    expected = everything(train(callback), callback)
    for how, make in COPIES.items():
        copied = make(callback)
        _check_state(copied.state_dict(), callback.state_dict(), how)
        _check_same(train(copied), copied, expected, f"of a copy by {how}")


def _check_state(state: object, original: object, how: str) -> None:
    changed = differences(state, original)
    expect(
        not changed,
        f"a copy by {how} with the same state",
        f"another {first_few(changed)}",
        "hold what can be copied: no lambda, and nothing that depends on a tensor's identity or version",
    )


# Every callback is checked for these.
PROPERTIES = (
    resumes_bit_for_bit_from_every_checkpoint,
    checkpoints_load_into_the_plain_module,
    one_object_serves_fit_after_fit,
    evaluation_changes_nothing,
    survives_copying_before_fit,
    survives_copying_while_it_trains,
    survives_copying_after_fit,
)
