"""A run whose layers fill the zeros of their weights leaves these dense, or stops before anything is lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_training import (
    CLASSES,
    FEATURES,
    At,
    Batch,
    ShufflingLoader,
    TinyModule,
    differences,
    everything,
    fit,
    masks_of,
    trainer,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from lightning_sparse import SparseMomentumCallback, SparseNetwork
from lightning_sparse.callbacks.sparse_training import checkpointing as callbacks
from lightning_sparse.callbacks.sparse_training.summary import dense_table


class Centered(nn.Linear):
    """Centers its weight before each use."""

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.weight - self.weight.mean(), self.bias)


class Conditioned(nn.Linear):
    """A layer that can't be tried without its second input, and centers its weight, too, if told to."""

    centers = True

    def forward(self, inputs: Tensor, scale: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean() if self.centers else self.weight
        return functional.linear(inputs, weight, self.bias) * scale


class Plain(Conditioned):
    """The same with its weight as it is."""

    centers = False


class WithLayer(TinyModule):
    """A network with a layer of a kind in its middle."""

    def __init__(self, kind: type[nn.Linear]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.ModuleList([nn.Linear(FEATURES, 8), kind(8, 8), nn.Linear(8, CLASSES)])

    def loss(self, batch: Batch) -> Tensor:
        first, layer, last = self.net
        hidden = first(batch[0]).relu()
        hidden = layer(hidden, batch[0].mean()) if isinstance(layer, Conditioned) else layer(hidden)
        return cross_entropy(last(hidden), batch[1])

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), lr=0.1, momentum=0.9)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


def test_a_layer_that_fills_zeros_stays_dense_and_the_summary_says_why() -> None:
    callback = SparseMomentumCallback(density=0.3)
    fit(callback, module=WithLayer(Centered))
    assert list(masks_of(callback)) == ["net.0.weight", "net.2.weight"]
    assert callback.network is not None
    reasons, names, _ = (list(column.cells) for column in dense_table(callback.network).columns)
    assert names[[str(reason).startswith("its layer computes with another") for reason in reasons].index(True)] == (
        "net.1.weight"
    )


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_layer_that_turns_out_to_fill_zeros_stops_the_run_before_anything_is_lost(accumulated: int) -> None:
    callback, module, stepped = SparseMomentumCallback(density=0.3), WithLayer(Conditioned), []
    before = weights(module)
    count = At("on_before_optimizer_step", lambda *_: stepped.append(1))
    run = trainer(callback, count, accumulate_grad_batches=accumulated)
    with pytest.raises(
        ValueError, match=r"Expected a layer that computes with 'net\.1\.weight'.*exclude='net\.1\.weight'"
    ):
        run.fit(module, ShufflingLoader(), ShufflingLoader())
    assert differences(weights(module), before) == []
    assert not hasattr(callback, "network")
    assert not stepped
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())


def test_a_run_that_fails_restores_such_a_layer_that_given_masks_name() -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("at once")

    with pytest.warns(UserWarning, match="compute with other kernels"):
        masks = SparseNetwork(WithLayer(Centered), density=0.3, include=["default", "net.1"]).masks
    callback, module = SparseMomentumCallback(masks_from=masks), WithLayer(Centered)
    before = weights(module)
    run = trainer(callback, At("on_train_start", fail))
    with pytest.warns(UserWarning, match="compute with other kernels"), pytest.raises(RuntimeError, match="at once"):
        run.fit(module, ShufflingLoader(), ShufflingLoader())
    assert differences(weights(module), before) == []


@pytest.mark.parametrize("options", [{"exclude": "net.1"}, {"include": ["default", "net.1.weight"]}])
def test_the_cures_of_that_error_are_cures(options: dict[str, Any]) -> None:
    callback = SparseMomentumCallback(density=0.3, **options)
    fit(callback, module=WithLayer(Conditioned))
    assert ("net.1.weight" in masks_of(callback)) == ("include" in options)


def test_a_layer_that_turns_out_to_keep_zeros_trains_as_if_nobody_had_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bool] = []

    class Spy(callbacks.KernelWatch):
        def look(self) -> bool:
            looked.append(super().look())
            return looked[-1]

    class Blind(callbacks.KernelWatch):
        def look(self) -> bool:
            return False

    def trained(watch: type[callbacks.KernelWatch]) -> Any:
        monkeypatch.setattr(callbacks, "KernelWatch", watch)
        callback = SparseMomentumCallback(density=0.3)
        return everything(fit(callback, module=WithLayer(Plain)), callback)

    assert differences(trained(Spy), trained(Blind)) == []
    assert looked == [True, False]


def test_a_failure_after_the_first_batch_undoes_nothing() -> None:
    callback, module = SparseMomentumCallback(density=0.3), WithLayer(Plain)
    before = weights(module)

    def fail(run: Any, _: Any) -> None:
        if run.global_step == 2:
            raise RuntimeError("later")

    with pytest.raises(RuntimeError, match="later"):
        trainer(callback, At("on_train_batch_end", fail)).fit(module, ShufflingLoader(), ShufflingLoader())
    assert callback.network is not None
    assert not torch.equal(weights(module)["net.1.weight"], before["net.1.weight"])
