"""Rounds whose trainings are those of a Lightning Trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from round_training import RANKINGS, active, of, survivors_differ, values
from torch import Tensor

from lightning_sparse import SparseTrainingCallback
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.steps.hooks import watchers
from lightning_sparse.rounds import Round, run_rounds
from lightning_sparse.testing.callbacks.training import At, ShufflingLoader, TinyModule, trainer
from lightning_sparse.testing.equality import differences

DENSITIES = [1.0, 0.6, 0.35]
SIZE = 80  # maskable weights of a TinyModule
Fit = Callable[[SparseNetwork, Round], Any]


def with_callback(network: SparseNetwork) -> list[Any]:
    return [SparseTrainingCallback("static", masks_from=network)]


def without_callback(network: SparseNetwork) -> list[Any]:
    return []


class InTrainer:
    """Trains two epochs of three batches in a new Trainer.

    Args:
        callbacks: Function of the network that returns the callbacks.
    """

    def __init__(self, callbacks: Callable[[SparseNetwork], list[Any]], **options: Any) -> None:
        self.callbacks, self.options = callbacks, options
        self.starts: list[dict[str, Tensor]] = []
        self.ends: list[dict[str, Tensor]] = []
        self.rounds: list[Round] = []
        self.at_step: list[dict[str, Tensor]] = []

    def __call__(self, network: SparseNetwork, now: Round) -> Any:
        note = At("on_train_batch_end", lambda run, module: self.at_step.append(values(module)))
        callbacks = [*self.callbacks(network), *([] if now.index else [note])]
        run = trainer(*callbacks, max_epochs=2, **self.options)
        self.rounds.append(now)
        self.starts.append(values(network.model))
        run.fit(network.model, ShufflingLoader(), ShufflingLoader(1))  # type: ignore[arg-type]  # a LightningModule
        self.ends.append(values(network.model))
        return run.validate(network.model, ShufflingLoader(1), verbose=False)  # type: ignore[arg-type]  # as above


def in_a_loop(network: SparseNetwork, now: Round) -> None:
    """Train as the Trainer does, without one."""
    module: Any = network.model
    loader, optimizer = ShufflingLoader(), module.configure_optimizers()
    module.train()
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            optimizer.zero_grad()
            module.loss(batch).backward()
            optimizer.step()


@pytest.mark.parametrize("rewind", [0, 4])
@pytest.mark.parametrize("callbacks", [with_callback, without_callback])
def test_survivors_are_rewound_and_zeros_stay(callbacks: Any, rewind: int) -> None:
    training, module, others = InTrainer(callbacks), TinyModule(), watchers()
    rounds = run_rounds(training, module, DENSITIES, rewind)
    then = training.at_step[rewind - 1] if rewind else training.starts[0]
    for now, start, end in zip(rounds[1:], training.starts[1:], training.ends[1:], strict=True):
        assert survivors_differ(now, start, then) == []
        assert now.active == round(now.density * SIZE)  # type: ignore[operator]  # a number
        assert {name: int(end[name].count_nonzero()) for name in now.masks} == active(now.masks)
        assert survivors_differ(now, end, then) != []
    assert differences(values(module), training.ends[-1]) == []
    assert [list(now.result[0]) for now in rounds] == [["loss"]] * 3
    assert [each for each in watchers() if each not in others] == []


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("callbacks", [with_callback, without_callback])
def test_masks_and_weights_are_those_of_an_ordinary_loop(callbacks: Any, ranking: str) -> None:
    modules = TinyModule(), TinyModule()
    fits: tuple[Fit, Fit] = InTrainer(callbacks), in_a_loop
    found, expected = (
        run_rounds(fit, module, DENSITIES, 2, recipe=RANKINGS[ranking])
        for fit, module in zip(fits, modules, strict=True)
    )
    assert differences([now.masks for now in found], [now.masks for now in expected]) == []
    pairs = zip(values(modules[0]).items(), values(modules[1]).values(), strict=True)
    assert [name for (name, ours), theirs in pairs if not torch.equal(ours, theirs)] == []


def test_the_callback_has_the_masks_and_the_density_of_the_round() -> None:
    seen: list[tuple[float, dict[str, Tensor]]] = []
    callbacks: list[SparseTrainingCallback] = []

    def make(network: SparseNetwork) -> list[Any]:
        callbacks.append(SparseTrainingCallback("static", masks_from=network))
        return [callbacks[-1], At("on_train_end", lambda *_: seen.append(_seen(callbacks[-1].network)))]

    rounds = run_rounds(InTrainer(make), TinyModule(), DENSITIES)
    assert [density for density, _ in seen] == [now.active / SIZE for now in rounds]
    assert differences([masks for _, masks in seen], [now.masks for now in rounds]) == []


def _seen(network: SparseNetwork) -> tuple[float, dict[str, Tensor]]:
    return network.density, network.masks


@pytest.mark.parametrize("choice", [{"exclude": "net.3"}, {"dense": "net.3"}, {"include": "net.0"}], ids=repr)
def test_the_callback_takes_the_same_choice_of_layers(choice: Any) -> None:
    def make(network: SparseNetwork) -> list[Any]:
        return [SparseTrainingCallback("static", masks_from=network, **choice)]

    rounds = run_rounds(InTrainer(make), TinyModule(), [1.0, 0.7], **choice)
    assert rounds[1].active == round(0.7 * sum(mask.numel() for mask in rounds[1].masks.values()))


def test_accumulated_batches_are_one_step_to_rewind_to() -> None:
    training = InTrainer(with_callback, accumulate_grad_batches=3)
    rounds = run_rounds(training, TinyModule(), [1.0, 0.5], 1)
    start, first = training.starts[1], training.at_step[2]
    buffers = {name for name in first if "running" in name or "tracked" in name}
    assert survivors_differ(rounds[1], start, first) == []
    assert start["net.1.num_batches_tracked"] == 3
    assert len(buffers) == 3


def test_interrupted_rounds_resume_exactly(tmp_path: Path) -> None:
    module = TinyModule()
    expected = run_rounds(InTrainer(with_callback), module, DENSITIES, 2)

    def stops(network: SparseNetwork, now: Round) -> Any:
        if now.index == 1:
            raise InterruptedError
        return InTrainer(with_callback)(network, now)

    with pytest.raises(InterruptedError):
        run_rounds(stops, TinyModule(), DENSITIES, 2, checkpoint=tmp_path)
    again, other = InTrainer(with_callback), TinyModule()
    torch.nn.init.ones_(of(other, "net.0").weight)
    found = run_rounds(again, other, DENSITIES, 2, checkpoint=tmp_path)
    assert len(again.rounds) == 2
    assert differences([now.result for now in found], [now.result for now in expected]) == []
    assert differences(values(other), values(module)) == []


@pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped")
def test_a_trainer_that_was_used_up_is_warned_of() -> None:
    run = trainer(max_epochs=1)

    def fit(network: SparseNetwork, now: Round) -> None:
        run.fit(network.model, ShufflingLoader(), ShufflingLoader(1))  # type: ignore[arg-type]  # a LightningModule

    with pytest.warns(UserWarning, match="got them unchanged in round 1"):
        run_rounds(fit, TinyModule(), [1.0, 0.5])
