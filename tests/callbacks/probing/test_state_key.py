"""Mistakes in a Trainer's list of callbacks are explained when the Trainer is made."""

from __future__ import annotations

import inspect
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
def test_elsewhere_the_key_is_a_property_like_any_other(cls: type[Callback]) -> None:
    assert isinstance(cls.state_key, property)
    assert dict(inspect.getmembers(cls))["state_key"] is cls.state_key
    assert type(cls().state_key) is str
