"""What a Lightning run does around a method: left-out steps, averages, history and logs."""

from __future__ import annotations

import csv
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from loops import Late
from tiny_training import At, ShufflingLoader, TinyModule, active_weights, differences, fit, masks_of
from torch import Tensor
from torch.optim import SGD, Adam
from witness import scaled

from lightning_sparse import DensitySchedule, SparseTrainingCallback
from lightning_sparse.methods import Method, MethodDriver, Progress
from lightning_sparse.methods.at_initialization.snip import Snip
from lightning_sparse.methods.throughout.rigl import RigL
from lightning_sparse.network import SparseNetwork
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError


class Fused(TinyModule):
    """Steps by an optimizer that unscales gradients itself."""

    def configure_optimizers(self) -> Adam:
        return Adam(self.parameters(), lr=0.05, fused=True)


def rigl() -> RigL:
    return RigL(every_n_steps=2, until=1.0, prune_rate=0.5)


def biases(module: Any) -> Tensor:
    """Return what only a step changes, and no update."""
    return torch.cat([parameter.detach().clone() for parameter in module.net.parameters() if parameter.dim() == 1])


@pytest.mark.parametrize("make_method", [rigl, Snip])
def test_a_step_is_left_out_of_a_fused_optimizer_with_a_scaler(make_method: Any) -> None:
    seen: list[Tensor] = []
    sparse = SparseTrainingCallback(method=make_method(), density=0.3)
    looking = At("on_train_batch_end", lambda _, module: seen.append(biases(module)))
    fit(looking, sparse, module=Fused(), plugins=[scaled()])
    left_out = [step for step in range(1, len(seen)) if torch.equal(seen[step], seen[step - 1])]
    assert left_out == ([3, 6] if make_method is rigl else [])
    assert len(seen) == 9
    assert active_weights(sparse) == 24


@pytest.mark.parametrize("init_scale", [1.0, 1024.0])
def test_gradients_are_unscaled_for_a_method_whatever_the_optimizer(init_scale: float) -> None:
    largest: dict[type, list[float]] = {Fused: [], TinyModule: []}

    class Look(Method):
        def gradients_ready(self, network: Any, names: Any, progress: Any) -> None:
            gradients = [network.maskable[name].grad for name in names]
            LARGEST[-1].append(max(float(each.abs().max()) for each in gradients))

    for kind, found in largest.items():
        LARGEST.append(found)
        module = kind("adam") if kind is TinyModule else kind()
        fit(SparseTrainingCallback(method=Look(), density=0.3), module=module, plugins=[scaled(init_scale=init_scale)])
    assert len(largest[Fused]) == 9
    assert largest[Fused] == pytest.approx(largest[TinyModule], rel=1e-2)


LARGEST: list[list[float]] = []


def test_the_history_has_the_updates_of_the_method_and_no_others(tmp_path: Path) -> None:
    sparse = SparseTrainingCallback(method=rigl(), density=0.3)
    logger = CSVLogger(tmp_path)
    fit(sparse, logger=logger, max_epochs=4, log_every_n_steps=1)
    assert [record.step for record in sparse.history] == [0, 3, 6, 9]
    assert all(record.grown == record.pruned for record in sparse.history)
    assert sparse.history[0].prune_rate == pytest.approx(11 / 24, abs=0.05)
    (file,) = tmp_path.rglob("metrics.csv")
    rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    logged = [row["sparsity/pruned"] for row in rows if row["sparsity/pruned"]]
    assert [*map(float, logged)] == [record.pruned for record in sparse.history]
    resting = SparseTrainingCallback(method=Method(), density=0.3)
    fit(resting)
    assert resting.history == []


def test_averages_are_masked_where_a_method_changes_masks() -> None:
    make_averaging = pytest.importorskip("lightning.pytorch.callbacks").EMAWeightAveraging
    for first in (True, False):
        averaging, stray = make_averaging(decay=0.9), list[int]()
        sparse = SparseTrainingCallback(method=rigl(), density=0.3)

        class Look(Callback):
            def on_train_batch_end(
                self, *_: Any, sparse: Any = sparse, stray: Any = stray, averaging: Any = averaging
            ) -> None:
                average = dict(averaging._average_model.module.named_parameters())
                stray += [int(average[name][~mask].count_nonzero()) for name, mask in masks_of(sparse).items()]

        fit(*([averaging, sparse] if first else [sparse, averaging]), Look(), max_epochs=4)
        assert len(sparse.history) > 2
        assert len(stray) == 24
        assert set(stray) == {0}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "set"}, InvalidValueError, "recipe='set'"),
        ({"recipe": "snip"}, InvalidValueError, "method='snip'"),
        ({"method": "nothing"}, InvalidValueError, "a method from .*snip"),
        ({"method": 3}, InvalidTypeError, "a method"),
        ({"method": "snip", "recipe": "set"}, InvalidValueError, "a recipe or a method"),
        ({"method": "snip", "density": DensitySchedule(0.1)}, InvalidValueError, "a density that stays"),
        ({"method": "snip", "prune_rate": 0.3}, InvalidValueError, "no prune_rate beside a method"),
        ({"method": "snip", "schedule": "linear"}, InvalidValueError, "no schedule beside a method"),
    ],
)
def test_what_makes_no_method_is_refused_at_once(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SparseTrainingCallback(**options)


@pytest.mark.parametrize("method", ["snip", Snip, Snip(), "lightning_sparse.methods.at_initialization.snip.Snip"])
def test_a_method_comes_by_name_by_class_as_an_object_or_by_its_path(method: Any) -> None:
    sparse = SparseTrainingCallback(method=method, density=0.3)
    fit(sparse)
    assert active_weights(sparse) == 24


def test_a_callback_shows_its_method_and_nothing_of_recipes() -> None:
    shown = repr(SparseTrainingCallback(method="snip", density=0.3))
    assert shown == "SparseTrainingCallback(density=0.3, every_n_epochs=1, method=Snip())"
    shown = repr(SparseTrainingCallback("set", density=0.3))
    assert "recipe=" in shown


class ByGradients(Method):
    """Moves weights at the Trainer's boundaries, by gradients of the last step."""

    signals = frozenset({"gradient"})

    def update(self, network: Any, progress: Any) -> None:
        network.rewire("rigl", 0.3, record=self.record)


def test_a_method_that_decides_by_gradients_of_the_last_step_resumes_exactly(tmp_path: Path) -> None:
    path = tmp_path / "two.ckpt"
    saving = At("on_train_epoch_end", lambda run, _: run.save_checkpoint(path) if run.current_epoch == 1 else None)
    whole, module = SparseTrainingCallback(method=ByGradients(), density=0.3), TinyModule()
    fit(whole, saving, module=module, max_epochs=4)
    resumed, again = SparseTrainingCallback(method=ByGradients(), density=0.3), TinyModule()
    fit(resumed, module=again, max_epochs=4, ckpt_path=str(path))
    assert differences(again.state_dict(), module.state_dict()) == []
    assert [record.step for record in resumed.history] == [record.step for record in whole.history] == [3, 6, 9]


class Counting(Method):
    """Notes its calls, and fails where it is told to."""

    calls: list[str] = []  # noqa: RUF012  # shared by the copies that callbacks make
    fails = False

    def prepare(self, network: Any) -> None:
        self.calls.append("prepare")

    def begin(self, network: Any, density: Any) -> None:
        self.calls.append("begin")
        if self.fails:
            raise ArithmeticError("meant to fail")

    def finish(self, network: Any) -> None:
        self.calls.append("finish")

    def release(self, network: Any) -> None:
        self.calls.append("release")


def test_a_method_is_released_once_also_if_it_fails_to_begin() -> None:
    Counting.calls.clear()
    run = fit(SparseTrainingCallback(method=Counting(), density=0.3))
    run.validate(run.lightning_module, ShufflingLoader(1), verbose=False)
    assert Counting.calls == ["prepare", "begin", "finish", "release"]
    Counting.calls.clear()
    failing = Counting()
    failing.fails = True
    with pytest.raises(ArithmeticError):
        fit(SparseTrainingCallback(method=failing, density=0.3))
    assert Counting.calls == ["prepare", "begin", "release"]


class Halving(Method):
    budget = None

    def finish(self, network: Any) -> None:
        network.rewire("magnitude_pruning", density=network.density / 2)


def test_masks_of_the_end_are_those_of_averages_and_logs() -> None:
    averaging = pytest.importorskip("lightning.pytorch.callbacks").WeightAveraging
    for first in (True, False):
        sparse = SparseTrainingCallback(method=Halving())
        callbacks = [averaging(), sparse] if first else [sparse, averaging()]
        run = fit(*callbacks)
        assert sparse.network.count_outside() == {}
        assert active_weights(sparse) == 2
        assert float(run.callback_metrics["sparsity/density"]) == pytest.approx(2 / 80)


def test_a_step_that_a_scaler_skips_is_not_left_out_later() -> None:
    net = torch.nn.Linear(8, 4)
    network, optimizer = SparseNetwork(net, 0.5, seed=0), SGD(net.parameters(), 0.1)
    network.attach(optimizer)
    driver = MethodDriver(SkipsSecond(), network, 0.5)
    driver.start()
    driver.attach([optimizer])
    scaler, changed = torch.amp.GradScaler("cpu", init_scale=4.0), list[bool]()
    for step in range(4):
        before = net.bias.detach().clone()
        optimizer.zero_grad()
        loss = net(torch.ones(2, 8)).square().mean() * (torch.inf if step == 1 else 1)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        driver.gradients_ready(optimizer, Progress(step))
        scaler.step(optimizer)
        scaler.update()
        changed.append(not torch.equal(net.bias, before))
    assert changed == [True, False, True, True]


class SkipsSecond(Method):
    def gradients_ready(self, network: Any, names: Any, progress: Any) -> None:
        self.skip_step = progress.step == 1


@pytest.mark.parametrize("at", [6, 7])
def test_a_density_that_is_not_reached_when_training_ends_early_is_a_warning(at: int) -> None:
    sparse = SparseTrainingCallback(method=Late(at), density=0.3)
    stop = At("on_train_epoch_end", lambda trainer, _: setattr(trainer, "should_stop", trainer.current_epoch == 1))
    message = "Expected a density of 0.3 at the end of training; got 1: .* Cure: a longer run"
    with nullcontext() if at == 6 else pytest.warns(UserWarning, match=message):
        fit(stop, sparse)
    assert active_weights(sparse) == (24 if at == 6 else 80)


@pytest.mark.parametrize("stops", [False, True])
def test_a_schedule_that_early_stopping_cuts_off_is_a_warning(stops: bool) -> None:
    sparse = SparseTrainingCallback("magnitude_pruning", density=DensitySchedule(0.25))
    stop = At("on_train_epoch_end", lambda trainer, _: setattr(trainer, "should_stop", stops))
    with pytest.warns(UserWarning, match="Expected a density of 0.25 at the end") if stops else nullcontext():
        fit(stop, sparse)
    assert (active_weights(sparse) == 20) is not stops


def test_a_run_for_development_says_nothing_of_a_density_that_it_cannot_reach() -> None:
    sparse = SparseTrainingCallback(method=Late(7), density=0.3)
    fit(sparse, fast_dev_run=1)
    assert active_weights(sparse) == 80
