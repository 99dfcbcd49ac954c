"""Compiled modules train like others: masks change in place, without a recompilation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny_training import Batch, ShufflingLoader, TinyModule, differences, trainer
from torch import Tensor
from torch._dynamo.utils import counters
from witness import BUDGET, DENSITY, Watch

from lightning_sparse import SparseMomentumCallback


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


class Recorded(TinyModule):
    """Remembers its losses, outside of what is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []

    def on_train_batch_end(self, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].detach())


class CompiledPart(Recorded):
    """Compiles its network only."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net, backend="aot_eager")


def train(module: Any, growth: str = "momentum") -> tuple[SparseMomentumCallback, Watch, Recorded]:
    """Train without validation, which is another graph, and return what is to be compared."""
    callback = SparseMomentumCallback(density=DENSITY, every_n_steps=2, growth=growth)
    watch = Watch(callback)
    run = trainer(callback, watch, limit_val_batches=0)
    run.fit(module, ShufflingLoader(), ShufflingLoader(1))
    assert isinstance(run.lightning_module, Recorded)
    return callback, watch, run.lightning_module


def compiled(whole: bool) -> Any:
    return torch.compile(Recorded(), backend="aot_eager") if whole else CompiledPart()


@pytest.mark.parametrize("growth", ["momentum", "gradient"])
@pytest.mark.parametrize("whole", [True, False], ids=["module", "submodule"])
def test_a_compiled_module_has_the_masks_and_losses_of_one_that_is_not(whole: bool, growth: str) -> None:
    callback, watch, module = train(compiled(whole), growth)
    reference, _, plain = train(Recorded(), growth)
    assert counters["stats"]["unique_graphs"] > 0
    assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})
    assert sum(record.grown for record in callback.history) > 0
    assert differences(callback.state_dict()["network"]["masks"], reference.state_dict()["network"]["masks"]) == []
    torch.testing.assert_close(module.losses, plain.losses)


@pytest.mark.parametrize("whole", [True, False], ids=["module", "submodule"])
def test_nothing_is_compiled_anew_when_masks_change(whole: bool) -> None:
    with torch._dynamo.config.patch(error_on_recompile=True):
        callback, _, _ = train(compiled(whole))
    assert counters["stats"]["unique_graphs"] > 0
    assert len(callback.history) == 4
    assert sum(record.grown for record in callback.history) > 0


def test_a_change_that_needs_compiling_anew_would_be_seen() -> None:
    class Grows(Recorded):
        """A number that is compiled in changes from epoch to epoch."""

        factor = 1

        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            return self.loss(batch) * self.factor

        def on_train_epoch_start(self) -> None:
            self.factor = self.current_epoch + 2

    with (
        torch._dynamo.config.patch(error_on_recompile=True),
        pytest.raises(torch._dynamo.exc.RecompileError),
    ):
        train(torch.compile(Grows(), backend="aot_eager"))


@pytest.mark.parametrize("whole", [True, False], ids=["module", "submodule"])
def test_masks_have_the_names_that_the_user_wrote(whole: bool) -> None:
    callback, _, _ = train(compiled(whole))
    assert list(callback.state_dict()["network"]["masks"]) == ["net.0.weight", "net.3.weight"]
    assert callback.network is not None
    assert set(callback.network.why_unmasked) == {"net.0.bias", "net.1.weight", "net.1.bias", "net.3.bias"}
