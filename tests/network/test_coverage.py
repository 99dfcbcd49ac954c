"""The density of the whole model, and the warning where masks cover little of it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_training import TinyModule, fit
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_sparse import SparseMomentumCallback, SparseNetwork
from lightning_sparse.selection.weights import find_weights


class Forecaster(nn.Module):
    """An LSTM and a small linear layer: 8 maskable weights of 8 + 80."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.proj = nn.LSTM(4, 2, 2, bias=False), nn.Linear(2, 4)


class Experts(nn.Module):
    """Weights of several layers in one parameter of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.ones(4, 4, 8)), nn.Parameter(torch.ones(4, 8, 4))


class Transposed(nn.Module):
    """A linear layer of a package's own, as language models have."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(8, 8)), nn.Parameter(torch.ones(8))


class Own(nn.Module):
    """Parameters of the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.table = nn.Linear(4, 4), nn.Parameter(torch.ones(9, 9))


class Normed(nn.Module):
    """Its largest weight is computed from others."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = weight_norm(nn.Linear(9, 9)), nn.Linear(4, 4)


def together(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Linear(4, 4))


def complaints(make: Callable[[], object]) -> list[str]:
    """Return what is said of dense weights while something is made."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    return [str(each.message) for each in caught if "masks on most" in str(each.message)]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Linear(4, 4), 8 / 16),
        (Forecaster(), (4 + 80) / 88),
        (together(nn.Embedding(5, 4)), (8 + 20) / 36),
        (together(nn.LayerNorm((4, 4), bias=False), nn.LayerNorm(4), nn.PReLU(9)), (8 + 16) / 32),
        (together(nn.Linear(4, 4).requires_grad_(False)), 8 / 16),
        (together(Experts()), (8 + 256) / 272),
        # One parameter of shape (9, 1) and one of (9, 9).
        (Normed(), (8 + 90) / 106),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_the_overall_density_counts_all_trainable_matrices(model: nn.Module, expected: float) -> None:
    network = SparseNetwork(model, 0.5)
    assert network.density == 0.5
    assert network.overall_density == pytest.approx(expected)
    assert (network.coverage.active, network.coverage.density) == (
        round(expected * network.coverage.size),
        network.overall_density,
    )


@pytest.mark.parametrize("shared", ["parameter", "module", "embedding"])
def test_a_tied_weight_counts_once(shared: str) -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "c": nn.Embedding(4, 4)})
    ties: dict[str, Callable[[], None]] = {
        "parameter": lambda: setattr(model["b"], "weight", model["a"].weight),
        "module": lambda: model.update({"b": model["a"]}),
        "embedding": lambda: setattr(model["b"], "weight", model["c"].weight),
    }
    assert SparseNetwork(copy.deepcopy(model), 0.5).overall_density == (8 + 8 + 16) / 48
    ties[shared]()
    assert SparseNetwork(model, 0.5).overall_density == (8 + 16) / 32


def test_a_metrics_network_does_not_count() -> None:
    metrics = pytest.importorskip("torchmetrics")

    class Distance(metrics.Metric):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(9, 9)

        def update(self) -> None:
            """Measure nothing."""

        def compute(self) -> None:
            """Return nothing."""

    model = together(Distance())
    assert SparseNetwork(copy.deepcopy(model), 0.5).overall_density == 0.5
    assert complaints(lambda: SparseNetwork(model, 0.5)) == []


def test_it_is_that_of_the_masks_after_an_update_and_of_a_layer_frozen_since() -> None:
    network = SparseNetwork(together(nn.Embedding(5, 4)), 0.25, min_active=0)
    network.model[1].requires_grad_(False)
    assert network.overall_density == (4 + 20) / 36
    network.model[0].requires_grad_(False)
    assert network.overall_density == network.density == 0.25


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Forecaster, ["8 of 88", "rnn.weight_ih_l0 and 3 more (LSTM, 80 weights)", "include=['default', 'LSTM']"]),
        (
            lambda: together(Experts()),
            ["16 of 272", "0.up and 1 more (Experts, 256 weights)", "['default', 'Experts']"],
        ),
        (
            lambda: together(*(Transposed() for _ in range(3))),
            ["16 of 208", "0.weight and 2 more (Transposed, 192 weights)", "['default', 'Transposed']"],
        ),
        (Own, ["16 of 97", "table (81 weights)", "include=['default', 'table']"]),
        (
            lambda: together(nn.MultiheadAttention(8, 2)),
            [
                "16 of 272",
                "in_proj_weight (MultiheadAttention, 192 weights); 0.out_proj.weight (NonDynamicallyQuantizable",
                "include=['default', 'MultiheadAttention', 'NonDynamicallyQuantizableLinear']",
            ],
        ),
    ],
    ids=["lstm", "experts", "linear class of a package", "own parameter", "attention"],
)
def test_where_most_weights_stay_dense_a_warning_names_them_and_the_include_that_takes_them(
    model: Callable[[], nn.Module], words: list[str]
) -> None:
    (message,) = complaints(lambda: SparseNetwork(model(), 0.5))
    assert [word for word in words if word not in message] == []
    include = message.partition("Cure: include=[")[2].partition("]")[0].replace("'", "").split(", ")
    assert len(find_weights(model(), include)) == len([p for p in model().parameters() if p.dim() > 1])
    assert complaints(lambda: SparseNetwork(model(), 0.5, include=include)) == []


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: together(nn.Embedding(9, 4)), "0.weight (36 weights: of a normalization or embedding layer)"),
        (Normed, "parametrizations.weight.original1 and 1 more (90 weights: parametrized: the weight is recomputed"),
    ],
    ids=["embedding", "parametrized"],
)
def test_of_weights_that_cannot_be_masked_it_says_so_and_suggests_no_include(
    model: Callable[[], nn.Module], words: str
) -> None:
    (message,) = complaints(lambda: SparseNetwork(model(), 0.5))
    assert f"Not maskable: {'0.' * ('0.' in words[:2])}" in message
    assert words in message
    assert "Cure: include='default' says that this is meant." in message


@pytest.mark.parametrize(
    "wish",
    [{"include": "default"}, {"include": ["Linear"]}, {"exclude": "rnn"}, {"exclude": nn.LSTM}, {"density": 1.0}],
    ids=str,
)
def test_a_wish_is_no_surprise(wish: dict[str, Any]) -> None:
    assert complaints(lambda: SparseNetwork(Forecaster(), **{"density": 0.5, **wish})) == []
    assert len(complaints(lambda: SparseNetwork(Forecaster(), 0.5, exclude="rnn.weight_ih_l0"))) == 1


def test_layers_kept_dense_on_request_are_no_surprise_and_do_not_hide_others() -> None:
    model = nn.ModuleDict({"big": nn.Linear(20, 20), "small": nn.Linear(4, 4)})
    assert complaints(lambda: SparseNetwork(copy.deepcopy(model), 0.99, dense="big")) == []
    assert (
        len(complaints(lambda: SparseNetwork(nn.ModuleDict({**model, "rnn": nn.LSTM(8, 8)}), 0.99, dense="big"))) == 1
    )


@pytest.mark.parametrize("columns", [17, 16])
def test_half_is_enough(columns: int) -> None:
    model = together(nn.Embedding(1, columns))
    assert len(complaints(lambda: SparseNetwork(model, 0.5))) == columns - 16


class Recurrent(TinyModule):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(9, 9)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) + self.rnn(torch.ones(2, 9))[0].sum()


def test_a_run_warns_once_and_further_fits_and_evaluations_do_not() -> None:
    callback, module = SparseMomentumCallback(density=0.5), Recurrent()
    assert len(complaints(lambda: fit(callback, module=module))) == 1
    assert complaints(lambda: fit(callback, module=module)) == []
    assert complaints(lambda: fit(SparseMomentumCallback(density=0.5))) == []


def test_other_ranks_than_zero_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert complaints(lambda: SparseNetwork(Forecaster(), 0.5)) == []
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    assert len(complaints(lambda: SparseNetwork(Forecaster(), 0.5))) == 1


def test_the_warning_points_to_the_line_that_made_the_network() -> None:
    with pytest.warns(UserWarning, match="masks on most") as caught:
        SparseNetwork(Forecaster(), 0.5)
    assert caught[0].filename == __file__
