"""A callback's network is asked for before there is one."""

from __future__ import annotations

import copy
import pickle

import pytest

from lightning_sparse import SparseMomentumCallback, SparseNetwork
from lightning_sparse._compat import Callback
from lightning_sparse.callbacks.sparse_training.checkpointing import network_or_none
from lightning_sparse.testing.callbacks.runs import train
from lightning_sparse.validation.errors import MissingAttributeError, UsageError


def test_the_network_before_a_fit_is_an_error_with_the_cure() -> None:
    callback = SparseMomentumCallback(density=0.3)
    with pytest.raises(MissingAttributeError, match=r"network; got none before fit begins\. Cure: call trainer\.fit"):
        callback.network.density  # noqa: B018  # as a user may ask for it
    with pytest.raises(UsageError):
        callback.network  # noqa: B018  # as above


def test_code_that_asks_whether_there_is_a_network_gets_an_answer() -> None:
    callback = SparseMomentumCallback(density=0.3)
    assert not hasattr(callback, "network")
    assert getattr(callback, "network", None) is network_or_none(callback) is None
    train(callback)
    assert hasattr(callback, "network")
    assert getattr(callback, "network", None) is network_or_none(callback) is callback.network


def test_callbacks_without_a_network_are_shown_and_copied() -> None:
    callback = SparseMomentumCallback(density=0.3)
    for each in (callback, copy.copy(callback), copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert "density=0.3" in repr(each)
        assert not hasattr(each, "network")


def test_the_network_is_there_from_the_start_of_fit_on() -> None:
    callback, found = SparseMomentumCallback(density=0.3), []

    class Looks(Callback):
        def setup(self, *_: object, **__: object) -> None:
            found.append(hasattr(callback, "network"))

        def on_fit_start(self, *_: object) -> None:
            found.append(callback.network)

        def on_train_start(self, *_: object) -> None:
            found.append(callback.network)

    train(callback, Looks())
    assert found == [False, callback.network, callback.network]


def test_a_network_that_a_subclass_sets_is_the_callbacks() -> None:
    trained, other = SparseMomentumCallback(density=0.3), SparseMomentumCallback(density=0.3)
    train(trained)
    other.network = trained.network
    assert isinstance(other.network, SparseNetwork)
    other.network = None
    assert not hasattr(other, "network")
