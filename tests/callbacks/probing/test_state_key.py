"""Mistakes in a Trainer's list of callbacks are explained when the Trainer is made."""

from __future__ import annotations

import contextlib
import copy
import inspect
import pickle
from typing import Any

import pytest

from lightning_sparse._compat import Callback, MisconfigurationException, Trainer
from lightning_sparse.callbacks import (
    ClassSpecializationCallback,
    GradientFlowCallback,
    RandomStateCallback,
    SparseMomentumCallback,
    SparseTrainingCallback,
)
from lightning_sparse.callbacks.probing.state_key import StateKey
from lightning_sparse.testing.callbacks.runs import train

STATEFUL = [
    ClassSpecializationCallback,
    GradientFlowCallback,
    RandomStateCallback,
    SparseMomentumCallback,
    SparseTrainingCallback,
]


def trainer_with(*callbacks: Any) -> Trainer:
    return Trainer(
        callbacks=list(callbacks), accelerator="cpu", logger=False, enable_checkpointing=False, barebones=False
    )


@pytest.mark.parametrize("cls", STATEFUL)
def test_a_class_in_place_of_an_instance_is_refused_with_the_cure(cls: type[Callback]) -> None:
    with pytest.raises(MisconfigurationException, match=rf"instance of {cls.__name__}.*Cure: callbacks="):
        trainer_with(cls)


@pytest.mark.parametrize("cls", STATEFUL)
def test_the_same_callback_twice_is_refused_with_the_cure(cls: type[Callback]) -> None:
    callback = cls()
    with pytest.raises(MisconfigurationException, match=f"one {cls.__name__}.*the same object twice. Cure: keep one"):
        trainer_with(callback, callback)


def test_two_callbacks_that_keep_their_state_under_one_key_are_refused_with_the_cure() -> None:
    with pytest.raises(MisconfigurationException, match=r"one SparseMomentumCallback.*; got 2\. Cure: keep one\."):
        trainer_with(SparseMomentumCallback(density=0.1), SparseMomentumCallback(density=0.2))
    with pytest.raises(MisconfigurationException, match=r"got 2 that are alike. Cure: .* a name of its own"):
        trainer_with(GradientFlowCallback(), GradientFlowCallback())


def test_callbacks_that_differ_are_accepted() -> None:
    callbacks = [GradientFlowCallback(name="a"), GradientFlowCallback(name="b"), SparseMomentumCallback()]
    assert [each for each in trainer_with(*callbacks).callbacks if each in callbacks] == callbacks  # type: ignore[attr-defined]  # see _compat


@pytest.mark.parametrize("cls", STATEFUL)
def test_elsewhere_the_key_is_an_attribute_like_any_other(cls: type[Callback]) -> None:
    assert str(cls.state_key.__doc__).startswith(("Name of the state", "Key of the state"))
    assert dict(inspect.getmembers(cls))["state_key"] is cls.state_key
    assert type(cls().state_key) is str


class Named(SparseTrainingCallback):
    """Has a key that depends on an attribute, and counts how often it was made."""

    name, made = "a", 0

    @StateKey
    def state_key(self) -> str:
        """Key of the state: the name."""
        self.made += 1
        return self.name


class Watches(Callback):
    """Looks at another callback after every batch, and may fail then."""

    def __init__(self, other: Named, error: Exception | None = None) -> None:
        self.other, self.error = other, error
        self.made: list[int] = []
        self.copies: list[Named] = []

    def on_train_batch_end(self, *_: object) -> None:
        self.made.append(self.other.made)
        self.copies += [copy.deepcopy(self.other), copy.copy(self.other), pickle.loads(pickle.dumps(self.other))]
        if self.error is not None:
            raise self.error


def test_during_a_fit_the_key_is_made_once() -> None:
    callback = Named(density=0.5)
    train(callback, watches := Watches(callback))
    assert len(watches.made) > 2
    assert len(set(watches.made)) == 1


@pytest.mark.parametrize("error", [None, ArithmeticError("a failed batch")], ids=["finished", "failed"])
def test_after_a_fit_and_in_copies_the_key_is_that_of_the_present_options(error: Exception | None) -> None:
    callback = Named(density=0.5)
    watches = Watches(callback, error)
    outcome = contextlib.nullcontext() if error is None else pytest.raises(type(error))
    with outcome:
        train(callback, watches)
    for each in (callback, *watches.copies):
        each.name = "b"
        assert each.state_key == "b"
    assert len(watches.copies) > 2
    with pytest.raises(MisconfigurationException, match="the same object twice"):
        trainer_with(callback, callback)
