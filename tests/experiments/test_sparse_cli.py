"""Our errors are ours also where the parser passes them on as text."""

from __future__ import annotations

import pytest

from lightning_sparse._compat import LightningCLI
from lightning_sparse.experiments.sparse_cli import SparseCLI
from lightning_sparse.validation.errors import InvalidValueError

# Lightning uses names of jsonargparse that go.
pytestmark = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")

OURS = "Expected a rule; got 'none'. Cure: use one of these."


def build_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Build the command line while building its objects raises an error."""

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(LightningCLI, "instantiate_classes", fail)
    SparseCLI(["--config", "digits_lenet300"], run=False)


def test_an_error_of_ours_among_others_in_a_text_is_told_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidValueError) as caught:
        build_with(monkeypatch, ValueError(f"Errors:\n  - Expected a list\n  - {OURS}\nGiven: 3"))
    assert str(caught.value) == OURS


def test_an_error_of_others_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("Errors:\n  - Expected a list\nGiven: 3")
    with pytest.raises(ValueError, match="Given: 3") as caught:
        build_with(monkeypatch, error)
    assert caught.value is error
