"""Sparse training in loops of one's own: the updates of a Lightning run, and exact resumes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from loops import Late, Loop, active, batch, small_network
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.utils.data import DataLoader

from lightning_sparse import SparseTrainingCallback
from lightning_sparse.methods import DensitySchedule, Method, Phase, Progress
from lightning_sparse.methods.sparse_training import SparseTraining
from lightning_sparse.network import SparseNetwork
from lightning_sparse.testing.equality import differences
from lightning_sparse.topology.growth import random
from lightning_sparse.topology.pruning import magnitude
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.validation.errors import InvalidStateError, InvalidTypeError, InvalidValueError

STEPS = 16


class Jitter(Method):
    """Adds noise of its own to gradients, leaves every fifth step out, and moves weights at every third."""

    phases = (Phase("early", until=4), Phase("late"))

    def __init__(self) -> None:
        self.entered: list[tuple[str, int]] = []

    def begin(self, network: SparseNetwork, density: Any) -> None:
        self.generator = torch.Generator().manual_seed(network.draw_seed())
        self.scale = nn.Parameter(torch.ones(()))

    def prepare(self, network: SparseNetwork) -> None:
        self.generator, self.scale = torch.Generator(), nn.Parameter(torch.zeros(()))

    def begin_phase(self, network: SparseNetwork, progress: Progress) -> None:
        self.entered.append((self.phase, progress.step))

    def extra_parameters(self) -> Sequence[nn.Parameter]:
        return [self.scale]

    def penalty(self) -> Tensor:
        return self.scale.square()

    def gradients_ready(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        self.skip_step = progress.step % 5 == 4
        for name in names:
            gradient = network.maskable[name].grad
            if gradient is not None:
                gradient += 0.01 * torch.randn(gradient.shape, generator=self.generator)

    def after_step(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        if progress.step % 3 == 0:
            network.rewire(Recipe(magnitude, None, random), 0.2)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "scale": self.scale.detach().clone()}

    def load_state_dict(self, state: Any) -> None:
        self.generator.set_state(state["generator"])
        self.scale.data.copy_(state["scale"])


class Moves(Method):
    """Moves weights at every boundary."""

    def update(self, network: SparseNetwork, progress: Progress) -> None:
        self.before_change()
        network.rewire(Recipe(magnitude, None, random), 0.3, record=self.record)

    def before_change(self) -> None:
        """Do what happens right before a change."""


CASES: dict[str, dict[str, Any]] = {
    "sparse momentum": {"every_n_steps": 3},
    "in epochs": {"recipe": "set", "every_n_epochs": 1},
    "gradual": {"recipe": "magnitude_pruning", "density": DensitySchedule(0.2, every_n_steps=2, end=10)},
    "gradients": {"recipe": "rigl", "every_n_steps": 3},
    "method": {"method": Jitter, "density": 0.3},
    "boundaries": {"method": Moves, "density": 0.3, "every_n_steps": 3},
}


class Run:
    """A loop of one's own, four steps an epoch."""

    def __init__(self, case: str, saved: dict[str, Any] | None = None) -> None:
        options = dict(CASES[case])
        method = options.get("method")
        options |= {} if method is None else {"method": method()}
        schedule = options.get("density")
        density = schedule.initial if isinstance(schedule, DensitySchedule) else 0.3
        self.net = small_network()
        if saved is not None:
            self.net.load_state_dict(saved["model"])
        state = None if saved is None else saved["training"]["network"]
        network = SparseNetwork(self.net, density, seed=0, state=state)
        self.optimizer = SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        self.training = SparseTraining(network, **options, steps=STEPS, epochs=4, steps_per_epoch=4)
        self.training.attach(self.optimizer, state=None if saved is None else saved["training"])
        if saved is not None:
            self.optimizer.load_state_dict(saved["optimizer"])
        self.begin = 0 if saved is None else saved["step"]
        self.checkpoints: list[dict[str, Any]] = []

    def __call__(self) -> Run:
        for step in range(self.begin, STEPS):
            self.now = step
            self.checkpoints.append(copy.deepcopy(self.state(step)))
            self.training.begin_batch(step // 4)
            images, classes = batch(step)
            self.optimizer.zero_grad()
            cross_entropy(self.net(images), classes).backward()  # type: ignore[no-untyped-call]  # of some versions
            self.training.gradients_ready(self.optimizer)
            self.optimizer.step()
            for name, mask in self.training.network.masks.items():
                assert not self.net.get_parameter(name)[~mask].any()
        return self

    def state(self, step: int) -> dict[str, Any]:
        training, optimizer = self.training.state_dict(), self.optimizer.state_dict()
        return {"model": self.net.state_dict(), "training": training, "optimizer": optimizer, "step": step}


@pytest.mark.parametrize("case", CASES)
def test_a_loop_resumes_exactly_from_before_every_batch(case: str) -> None:
    run = Run(case)()
    expected = run.state(STEPS)
    for checkpoint in run.checkpoints:
        torch.manual_seed(99)
        assert differences(Run(case, copy.deepcopy(checkpoint))().state(STEPS), expected) == []
    assert len(run.checkpoints) == STEPS


def test_an_update_that_was_interrupted_is_made_by_the_resumed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run, saved = Run("boundaries"), list[dict[str, Any]]()
    with monkeypatch.context() as patch:
        patch.setattr(Moves, "before_change", lambda _: saved.append(copy.deepcopy(run.state(run.now))))
        expected = run().state(STEPS)
    assert [record.step for record in run.training.history] == [3, 6, 9, 12, 15]
    assert [state["step"] for state in saved] == [3, 6, 9, 12, 15]
    for state in saved:
        assert differences(Run("boundaries", state)().state(STEPS), expected) == []


def test_an_update_that_was_made_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run, saved = Run("boundaries"), list[dict[str, Any]]()

    def update(method: Moves, network: SparseNetwork, progress: Progress) -> None:
        network.rewire(Recipe(magnitude, None, random), 0.3, record=method.record)
        saved.append(copy.deepcopy(run.state(run.now)))

    with monkeypatch.context() as patch:
        patch.setattr(Moves, "update", update)
        expected = run().state(STEPS)
    for state in saved:
        assert differences(Run("boundaries", state)().state(STEPS), expected) == []
    assert len(saved) == 5


def test_updates_are_those_of_the_timetable() -> None:
    assert [record.step for record in Run("sparse momentum")().training.history] == [3, 6, 9, 12, 15]
    assert [record.epoch for record in Run("in epochs")().training.history] == [1, 2, 3]
    gradual = Run("gradual")()
    totals = [sum(change.active for change in record.layers.values()) for record in gradual.training.history]
    assert totals == [round((0.2 + 0.8 * (1 - step / 10) ** 3) * 160) for step in (2, 4, 6, 8, 10)]


def test_a_loop_has_the_masks_and_weights_of_a_lightning_run() -> None:
    from lightning.pytorch import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_network()

        def training_step(self, _: Any, batch_idx: int) -> Tensor:
            images, classes = batch(self.current_epoch * 4 + batch_idx)
            return cross_entropy(self.net(images), classes)

        def configure_optimizers(self) -> SGD:
            return SGD(self.parameters(), lr=0.1, momentum=0.9)

        def train_dataloader(self) -> DataLoader[Tensor]:
            return DataLoader(torch.zeros(4))  # type: ignore[arg-type]  # a tensor is a data set

    module = Module()
    sparse = SparseTrainingCallback("set", density=0.3, seed=0)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_epochs=4, accelerator="cpu", callbacks=[sparse], enable_model_summary=False, **quiet).fit(module)  # type: ignore[arg-type]  # three flags
    run = Run("in epochs")()
    masks = {name.removeprefix("net."): mask for name, mask in sparse.network.masks.items()}
    assert differences(masks, run.training.network.masks) == []
    assert differences(module.net.state_dict(), run.net.state_dict()) == []
    resumed = SparseTrainingCallback("set", density=0.3)
    resumed.load_state_dict(run.training.state_dict())  # its layers have other names, which fit would say
    run.training.finish()
    assert run.training.network.optimizers == []


def test_a_method_is_called_at_its_places_in_every_loop() -> None:
    method = Jitter()
    loop = Loop(method, 0.3, total=STEPS, make_optimizer=lambda parameters: SGD(parameters, lr=0.1, momentum=0.9))
    weights: list[Tensor] = []
    loop.train(STEPS, lambda _: weights.append(small_copy(loop)))
    assert method.entered == [("early", 0), ("late", 4)]
    left_out = [step for step in range(1, STEPS) if torch.equal(weights[step], weights[step - 1])]
    assert left_out == [4, 9, 14]
    expected, momentum = 1.0, 0.0
    for step in range(STEPS):  # trained by the optimizer, in the steps that are not left out
        momentum = momentum if step in (4, 9, 14) else 0.9 * momentum + 2 * expected
        expected -= 0.0 if step in (4, 9, 14) else 0.1 * momentum
    assert method.scale.item() == pytest.approx(expected)
    assert active(loop.network) == {"0.weight": 36, "2.weight": 12}


def small_copy(loop: Loop) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in loop.net.parameters()])


def test_a_penalty_changes_the_gradients_and_without_one_nothing_does() -> None:
    class Penalized(Method):
        weight = 1.0

        def prepare(self, network: SparseNetwork) -> None:
            self.network = network

        def penalty(self) -> Tensor:
            return self.weight * sum(p.square().sum() for p in self.network.maskable.values())  # type: ignore[return-value]  # of tensors

    ends = {}
    for weight in (0.0, 0.05):
        method = Penalized()
        method.weight = weight
        loop = Loop(method, 0.3)
        loop.train(3)
        ends[weight] = small_copy(loop)
        assert loop.driver.penalty is not None
    plain = Loop(Method(), 0.3)
    plain.train(3)
    assert torch.equal(ends[0.0], small_copy(plain))
    loop = Loop(Method(), 0.3, make_optimizer=lambda parameters: SGD(groups(list(parameters)), lr=0.1))
    loop.train(3)
    torch.testing.assert_close(ends[0.05], small_copy(loop))
    assert not torch.equal(ends[0.05], ends[0.0])


def groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Return groups that decay weights by 0.1 and biases not at all."""
    return [{"params": [p], "weight_decay": 0.1 if p.dim() > 1 else 0.0} for p in parameters]


def test_a_state_of_another_method_is_refused() -> None:
    saved = Run("method")().state(STEPS)
    with pytest.raises(InvalidValueError, match="the state of a run with a recipe"):
        Run("sparse momentum", saved)
    with pytest.raises(InvalidValueError, match="the state of a run with this method"):
        Run("method", Run("in epochs")().state(STEPS))
    saved["training"]["network"]["steps"] += 1
    with pytest.raises(InvalidValueError, match=r"(?i)checksum|damaged"):
        Run("method", saved)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, InvalidValueError, "known length for a prune rate"),
        ({"recipe": "magnitude_pruning", "steps": 9}, InvalidValueError, "a density that changes"),
        (
            {"recipe": "magnitude_pruning", "density": DensitySchedule(0.1)},
            InvalidValueError,
            "known length for a density",
        ),
        ({"recipe": "nothing", "steps": 9}, InvalidValueError, "a recipe from"),
        ({"method": "set", "steps": 9}, InvalidValueError, "recipe='set'"),
        ({"method": 3, "steps": 9}, InvalidTypeError, "a method"),
        ({"method": "rigl_original", "prune_rate": 0.3, "steps": 9}, InvalidValueError, "no prune_rate beside"),
        ({"steps": 9, "every_n_steps": 0}, InvalidValueError, "at least 1"),
    ],
)
def test_what_makes_no_run_is_refused_at_once(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SparseTraining(SparseNetwork(small_network(), 0.3), **options)


def test_a_method_needs_an_attached_optimizer() -> None:
    training = SparseTraining(SparseNetwork(small_network(), 0.3), method=Method(), density=0.3, steps=9)
    with pytest.raises(InvalidStateError, match=r"call attach\(optimizer\)"):
        training.gradients_ready(SGD(small_network().parameters(), lr=0.1))


def test_a_loop_of_fabric_is_sparse_too() -> None:
    fabric = pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu", devices=1)
    net = small_network()
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    training = SparseTraining(SparseNetwork(net, 0.3, seed=0), every_n_steps=3, steps=STEPS)
    training.attach(optimizer)
    model, wrapped = fabric.setup(net, optimizer)
    for step in range(STEPS):
        training.begin_batch()
        images, classes = batch(step)
        wrapped.zero_grad()
        fabric.backward(cross_entropy(model(images), classes))
        wrapped.step()
        assert active(training.network) == training_counts(training)
    assert [record.step for record in training.history] == [3, 6, 9, 12, 15]
    run = Run("sparse momentum")()
    assert differences(net.state_dict(), run.net.state_dict()) == []


def training_counts(training: SparseTraining) -> dict[str, int]:
    return {name: layer.active for name, layer in training.network.layers.items()}


def test_each_optimizer_counts_its_own_steps() -> None:
    seen: list[tuple[str, int]] = []

    class Look(Method):
        def gradients_ready(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
            seen.append((names[0], progress.step))

    net = small_network()
    optimizers = [SGD(layer.parameters(), lr=0.1) for layer in net[::2]]
    training = SparseTraining(SparseNetwork(net, 0.3), method=Look(), density=0.3, steps=9)
    training.attach(*optimizers)
    for step in range(3):
        images, classes = batch(step)
        cross_entropy(net(images), classes).backward()  # type: ignore[no-untyped-call]  # of some versions
        for optimizer in optimizers:
            training.gradients_ready(optimizer)
            optimizer.step()
    assert seen == [(name, step) for step in range(3) for name in ("0.weight", "2.weight")]


def test_an_update_of_weights_that_there_are_not_is_refused() -> None:
    network = SparseNetwork(small_network(), 0.3, seed=0)
    with pytest.raises(InvalidValueError, match="names of masked weights"):
        network.rewire("set", 0.3, names=["0.weights"])
    (change,) = network.rewire("set", 0.3, names=["2.weight"])
    assert (change.name, change.grown) == ("2.weight", 4)
    with pytest.raises(InvalidValueError, match="a density that stays"):
        SparseTraining(network, method=Method(), density=DensitySchedule(0.1))


@pytest.mark.parametrize("name", ["rigl_original", "snip", "deep_rewiring", "top_kast"])
def test_a_network_of_another_density_than_a_method_starts_from_is_refused(name: str) -> None:
    for start, asked in ((0.05, 0.3), (0.5, 0.1)):
        net = small_network()
        training = SparseTraining(SparseNetwork(net, start), method=name, density=asked, steps=9)
        with pytest.raises(InvalidValueError, match=r"a network of density .*Cure: SparseNetwork\(model, density="):
            training.attach(SGD(net.parameters(), lr=0.1))


def test_a_method_that_starts_dense_needs_a_density_and_one_without_a_budget_takes_none() -> None:
    dense = SparseNetwork(small_network(), 1.0)
    with pytest.raises(InvalidValueError, match="the density that Snip is to reach"):
        SparseTraining(dense, method="snip", steps=9)
    with pytest.raises(InvalidValueError, match="no density for L0Regularization"):
        SparseTraining(dense, method="l0_regularization", density=0.3, steps=9)
    SparseTraining(dense, method="l0_regularization", steps=9)


def test_a_loop_that_forgets_the_gradients_of_a_method_is_told_at_its_end() -> None:
    for name, forgets in (("snip", True), ("snip", False)):
        net = small_network()
        optimizer = SGD(net.parameters(), lr=0.1)
        training = SparseTraining(SparseNetwork(net, 1.0), method=name, density=0.3, steps=9)
        training.attach(optimizer)
        for step in range(2):
            images, classes = batch(step)
            optimizer.zero_grad()
            cross_entropy(net(images), classes).backward()  # type: ignore[no-untyped-call]  # of some versions
            if not forgets:
                training.gradients_ready(optimizer)
            optimizer.step()
        with pytest.raises(InvalidStateError, match=r"call gradients_ready") if forgets else nullcontext():
            training.finish()


@pytest.mark.parametrize("at", [4, 5])
def test_a_density_that_is_not_reached_by_the_end_is_a_warning_and_a_reached_one_is_none(at: int) -> None:
    net = small_network()
    optimizer = SGD(net.parameters(), lr=0.1)
    training = SparseTraining(SparseNetwork(net, density=1.0), method=Late(at), density=0.25, steps=STEPS)
    training.attach(optimizer)
    for index in range(4):
        images, classes = batch(index)
        training.begin_batch()
        optimizer.zero_grad()
        cross_entropy(net(images), classes).backward()
        training.gradients_ready(optimizer)
        optimizer.step()
    message = "Expected a density of 0.25 at the end of training; got 1: .* Cure: a longer run"
    with nullcontext() if at == 4 else pytest.warns(UserWarning, match=message):
        training.finish()
    assert training.network.density == (0.25 if at == 4 else 1.0)


@pytest.mark.parametrize("steps", [8, 20])
def test_a_schedule_that_is_left_early_is_a_warning_and_one_that_ends_is_none(steps: int) -> None:
    net = small_network()
    optimizer = SGD(net.parameters(), lr=0.1)
    schedule = DensitySchedule(0.25, every_n_steps=2, end=0.8)
    training = SparseTraining(
        SparseNetwork(net, density=1.0), "magnitude_pruning", density=schedule, every_n_steps=2, steps=20
    )
    training.attach(optimizer)
    for index in range(steps):
        images, classes = batch(index)
        training.begin_batch()
        optimizer.zero_grad()
        cross_entropy(net(images), classes).backward()
        optimizer.step()
    with nullcontext() if steps == 20 else pytest.warns(UserWarning, match="Expected a density of 0.25 at the end"):
        training.finish()
    assert (training.network.density == 0.25) is (steps == 20)
