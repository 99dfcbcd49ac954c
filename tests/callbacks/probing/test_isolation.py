"""A run that is measured is bit for bit the run that is not."""

from __future__ import annotations

import random
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from tiny_images import CLASSES, Images, Validated, fit, loader
from tiny_training import At, differences, trainer
from torch import Tensor, nn

from lightning_sparse import ClassSpecializationCallback
from lightning_sparse.callbacks.probing import isolation as module
from lightning_sparse.callbacks.probing.isolation import isolated_evaluation


class Drawing(Images):
    """Draws from every generator, counts its calls and updates statistics, in training and in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.frozen = nn.BatchNorm2d(1)

    def on_train_epoch_start(self) -> None:
        self.frozen.eval()  # while the rest trains

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.rand(()).item() + random.random() + float(np.random.rand())  # noqa: NPY002  # what users do
        self.calls = self.calls + 1
        self.net.norm.running_mean += 0.01
        return super().forward(self.frozen(images) + 0.1 * noise)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        assert self.trainer is not None
        return (batch[0] + torch.rand(()), batch[1]) if self.trainer.training else batch


def state(run: Trainer, model: LightningModule) -> dict[str, Any]:
    """Return all of a run's state that its continuation depends on."""
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "gradients": [None if each.grad is None else each.grad.clone() for each in model.parameters()],
        "optimizer": run.optimizers[0].state_dict()["state"],
        "modes": {name: each.training for name, each in model.named_modules()},
        "random": (torch.get_rng_state(), random.getstate(), *np.random.get_state()[2:]),  # noqa: NPY002  # as above
        "numpy": torch.from_numpy(np.random.get_state()[1].astype(np.int64)),  # type: ignore[union-attr]  # noqa: NPY002
        "progress": (run.global_step, run.current_epoch, str(run.state.stage), torch.is_grad_enabled()),
    }


def trained(*callbacks: Any, **options: Any) -> list[dict[str, Any]]:
    """Train and return the state after every epoch, and at the end."""
    states: list[dict[str, Any]] = []

    def keep(run: Trainer, model: LightningModule) -> None:
        states.append(state(run, model))

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # as above
    keeping = [At(hook, keep) for hook in ("on_train_start", "on_train_epoch_end", "on_train_end")]
    fit(*callbacks, *keeping, module=Drawing(), max_epochs=3, **options)
    return states


def test_a_run_is_the_same_with_and_without_the_callback() -> None:
    callback = ClassSpecializationCallback(every_n_epochs=1)
    with_it, without_it = trained(callback), trained()
    assert len(with_it) == 5
    assert differences(with_it, without_it) == []
    assert list(callback.history) == [1, 2, 3]


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ("_restored_random_states", "/random"),
        ("_restored_random_states", "/numpy"),
        ("_restored_buffers", "/weights"),
        ("_evaluation_mode", "/modes"),
    ],
)
def test_a_state_that_is_not_restored_is_found(monkeypatch: pytest.MonkeyPatch, part: str, place: str) -> None:
    without_it = trained()

    @contextmanager
    def careless(*arguments: Any) -> Any:
        if part == "_evaluation_mode":
            arguments[0].eval()
        yield

    monkeypatch.setattr(module, part, careless)
    assert any(
        place in difference
        for difference in differences(trained(ClassSpecializationCallback(every_n_epochs=1)), without_it)
    )


def test_a_run_with_validation_and_test_is_the_same() -> None:
    def run_all(*callbacks: Any) -> list[dict[str, Any]]:
        torch.manual_seed(0)
        run, model = trainer(*callbacks, max_epochs=2), Validated()
        run.fit(model, loader(), loader(shuffle=False))
        before = state(run, model)
        run.test(model, loader(shuffle=False), verbose=False)
        return [before, {"weights": dict(model.state_dict()), "random": torch.get_rng_state()}]

    callback = ClassSpecializationCallback(every_n_epochs=1, when="both", dataloader=loader())
    assert differences(run_all(callback), run_all()) == []
    assert callback.result is not None


def test_results_of_a_test_can_be_changed() -> None:
    callback = ClassSpecializationCallback(when="test", dataloader=loader())
    trainer(callback).test(Images(), loader(shuffle=False), verbose=False)
    assert callback.result is not None
    callback.result["net.first"]["specialization"].add_(1)  # tensors of inference mode could not be


def test_in_isolation_nothing_trains_and_there_are_no_gradients() -> None:
    seen: list[Any] = []

    def look(run: Trainer, model: LightningModule) -> None:
        with isolated_evaluation(run, model):
            seen.append((run.training, torch.is_grad_enabled(), any(each.training for each in model.modules())))
            seen.append(model.net.first(torch.zeros(1, 1, 6, 6)).requires_grad)
        seen.append((run.training, torch.is_grad_enabled(), model.training, model.frozen.training))

    fit(At("on_train_epoch_end", look), module=Drawing(), max_epochs=1)
    assert seen == [(False, False, False), False, (True, True, True, False)]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_error_everything_is_restored_and_no_hook_is_left(error: type[BaseException]) -> None:
    model, states = Drawing(), []

    class Failing(ClassSpecializationCallback):
        def forward(self, pl_module: LightningModule, images: Any) -> Any:
            super().forward(pl_module, images)
            raise error("stop")

    callback = Failing(every_n_epochs=1)

    def look(run: Trainer, module: LightningModule) -> None:
        states.append(state(run, module))
        with pytest.raises(error, match="stop"):
            callback.measure(run, module)
        states.append(state(run, module))

    fit(At("on_train_epoch_end", look), module=model)
    assert len(states) == 4
    assert differences(states[0::2], states[1::2]) == []
    assert not any(each._forward_hooks for each in model.modules())


def test_buffers_stay_the_same_objects() -> None:
    kept: list[Any] = []

    def look(run: Trainer, model: LightningModule) -> None:
        before = dict(model.named_buffers())
        with isolated_evaluation(run, model):
            model(torch.zeros(2, 1, 6, 6))
            kept.append(model.calls is before["calls"])
        kept.append(all(buffer is before[name] for name, buffer in model.named_buffers()))

    fit(At("on_train_epoch_end", look), module=Drawing(), max_epochs=1)
    assert kept == [False, True]


class Expanded(Images):
    """Has buffers that can't be written to: all of their elements are one in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.changes = torch.ones(1), False
        self.register_buffer("scale", self.base.expand(4))
        self.register_buffer("nothing", torch.full((1,), float("nan")).expand(3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.changes:
            self.base += 1
        return super().forward(images * self.scale[0])


def test_a_buffer_that_can_not_be_written_to_stays_as_it_is() -> None:
    callback, model = ClassSpecializationCallback(every_n_epochs=1), Expanded()
    before = dict(model.named_buffers())
    fit(callback, module=model)
    assert list(callback.history) == [1, 2]
    assert all(buffer is before[name] for name, buffer in model.named_buffers())
    assert model.calls == 12


@pytest.mark.parametrize("fails", [False, True])
def test_a_buffer_that_can_not_be_written_to_gets_its_values_back_and_hides_no_error(fails: bool) -> None:
    seen: list[Any] = []

    def look(run: Trainer, model: LightningModule) -> None:
        before = {name: value.clone() for name, value in model.named_buffers()}
        model.changes = True
        with pytest.raises(KeyError, match="first") if fails else nullcontext(), isolated_evaluation(run, model):
            model(torch.zeros(2, 1, 6, 6))
            assert model.scale.tolist() == [2] * 4
            if fails:
                raise KeyError("first")
        model.changes = False
        seen.append(differences(dict(model.named_buffers()), before))

    fit(At("on_train_epoch_end", look), module=Expanded(), max_epochs=1)
    assert seen == [[]]


class Stateful:
    """A loader that is no DataLoader, and has its position in its state."""

    def __init__(self, nested: bool) -> None:
        self._batches = list(loader(shuffle=False))
        self._nested = nested
        self.position: Any = [0] if nested else 0
        self.loaded = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Any:
        for batch in self._batches:
            if self._nested:
                self.position[0] += 1
            else:
                self.position += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        self.loaded += 1
        self.position = values["position"]


@pytest.mark.parametrize("nested", [False, True])
def test_a_loader_keeps_its_position(nested: bool) -> None:
    def positions(*callbacks: Any) -> tuple[list[Any], Stateful]:
        batches, seen = Stateful(nested), []
        spies = [
            At(hook, lambda *_: seen.append(str(batches.position)))
            for hook in ("on_train_start", "on_train_epoch_end", "on_train_end")
        ]
        fit(*callbacks, *spies, train=batches)
        return seen, batches

    callback = ClassSpecializationCallback(every_n_epochs=1, num_classes=CLASSES)
    (with_it, batches), (without_it, _) = positions(callback), positions()
    assert with_it == without_it
    assert (batches.loaded > 0) is nested  # the copy that is iterated shares nested objects
    assert callback.result is not None
