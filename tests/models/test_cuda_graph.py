"""Replayed steps have the results of other steps; tests/gpu has the real recordings.

Here, a recording is a function that is called again and overwrites its first results.
"""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_sparse import GradientFlowCallback, SparseMomentumCallback
from lightning_sparse.data import ArrayDataModule
from lightning_sparse.models import ImageClassifier, accelerated_module, cuda_graph
from lightning_sparse.models.cuda_graph import GraphedStep

pytestmark = pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no .val_dataloader.")


class Recording:
    """Stand-in for a CUDA graph of a network without buffers: a replay only overwrites the first tensors."""

    def __init__(self, compute: Callable[[], Tensor], parameters: list[nn.Parameter]) -> None:
        self.compute, self.parameters, self.replays = compute, parameters, 0
        self.loss = compute()
        self.gradients = [parameter.grad for parameter in parameters]

    def replay(self) -> None:
        self.replays += 1
        there = [parameter.grad for parameter in self.parameters]
        self.loss.copy_(self.compute())
        for parameter, first, before in zip(self.parameters, self.gradients, there, strict=True):
            if first is not None and parameter.grad is not None:
                first.copy_(parameter.grad)
            parameter.grad = before


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """Make networks on the CPU recordable; return the list of later recordings."""
    made: list[Recording] = []

    def recording(compute: Callable[[], Tensor], stream: object) -> tuple[Recording, Tensor]:
        step: GraphedStep = next(cell.cell_contents for cell in compute.__closure__ or ())
        made.append(Recording(compute, step._parameters))
        return made[-1], made[-1].loss

    monkeypatch.setattr(cuda_graph, "_record_graph", recording)
    monkeypatch.setattr(GraphedStep, "_compute_on_side_stream", GraphedStep._compute)
    monkeypatch.setattr(accelerated_module, "supports_replay", lambda trainer: True)
    return made


def images() -> ArrayDataModule:
    """Return 42 images, in batches of 5 and a last one of 2."""
    pixels = torch.rand(42, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(42) % 3
    return ArrayDataModule(pixels, labels, pixels, labels, batch_size=5, val_fraction=0, num_classes=3)


def classifier(**options: Any) -> ImageClassifier:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    return ImageClassifier(network, num_classes=3, **options)


def fit(module: ImageClassifier, *callbacks: Callback, **options: Any) -> Trainer:
    torch.manual_seed(0)
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        **{**silent, "enable_model_summary": False, "max_epochs": 3, "limit_val_batches": 0, **options},
        callbacks=list(callbacks),
    )
    trainer.fit(module, images())
    return trainer


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.parameters(), other.parameters()))


@pytest.mark.parametrize("options", [{}, {"gradient_clip_val": 0.1}, {"max_epochs": 1, "max_steps": 7}], ids=str)
def test_a_run_of_replayed_steps_ends_with_the_same_weights(
    options: dict[str, Any], recordings: list[Recording]
) -> None:
    plain, replayed = classifier(), classifier(cuda_graph=True)
    seen: list[dict[str, Any]] = []
    for module in (plain, replayed):
        sparse, flow = SparseMomentumCallback(density=0.5), GradientFlowCallback(every_n_steps=1)
        trainer = fit(module, sparse, flow, **options)
        seen.append({"flow": flow.history, "masks": sparse.network, "loss": trainer.callback_metrics.get("train/loss")})
    assert same_weights(plain, replayed)
    assert seen[0]["flow"] == seen[1]["flow"]
    assert seen[0]["loss"] == seen[1]["loss"]
    masks = [run["masks"].masks for run in seen]
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])
    assert len(recordings) == 1
    assert recordings[0].replays == (7 if "max_steps" in options else 24) - cuda_graph._WARMUP_STEPS


def test_nothing_is_recorded_by_default(recordings: list[Recording]) -> None:
    fit(classifier())
    assert recordings == []


@pytest.mark.filterwarnings("ignore:When using .Trainer.accumulate_grad_batches")
def test_accumulated_gradients_are_not_replayed(recordings: list[Recording]) -> None:
    plain, replayed = classifier(), classifier(cuda_graph=True)
    for module in (plain, replayed):
        fit(module, GradientAccumulationScheduler({0: 1, 1: 2}))
    assert same_weights(plain, replayed)
    assert [recording.replays for recording in recordings] == [8 - cuda_graph._WARMUP_STEPS]


def test_a_second_fit_has_a_recording_of_its_own(recordings: list[Recording]) -> None:
    plain, replayed = classifier(), classifier(cuda_graph=True)
    for module in (plain, replayed):
        fit(module)
        fit(module)
    assert same_weights(plain, replayed)
    assert len(recordings) == 2
    assert replayed._graphed is None


def loss_of(network: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda images, labels: cross_entropy(network(images), labels)


def replay(step: GraphedStep, count: int, size: int = 2) -> None:
    for _ in range(count):
        step(torch.rand(size, 4), torch.zeros(size, dtype=torch.long))


def moved(network: nn.Linear) -> None:
    network.weight.data = network.weight.data.clone()


def buffered(network: nn.Linear) -> None:
    network.register_buffer("weight_mask", torch.ones(3, 4))


def frozen(network: nn.Linear) -> None:
    network.bias.requires_grad_(False)


def evaluated(network: nn.Linear) -> None:
    network.eval()


@pytest.mark.parametrize("change", [moved, buffered, frozen, evaluated])
def test_a_changed_network_is_recorded_again_after_warmup_steps(
    change: Callable[[nn.Linear], None], recordings: list[Recording]
) -> None:
    network = nn.Linear(4, 3)
    step = GraphedStep(network, loss_of(network))
    replay(step, 5)
    assert len(recordings) == 1
    change(network)
    replay(step, 4)
    assert [recording.replays for recording in recordings] == [2, 1]


def test_an_added_layer_is_found_by_the_next_scan(recordings: list[Recording]) -> None:
    network = nn.Sequential(nn.Linear(4, 3))
    step = GraphedStep(network, loss_of(network))
    replay(step, 5)
    network.append(nn.Linear(3, 3))
    step.rescan_layers()
    replay(step, 4)
    assert [recording.replays for recording in recordings] == [2, 1]
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_batches_of_another_size_are_recorded_after_warmup_steps_of_their_own(recordings: list[Recording]) -> None:
    network = nn.Linear(4, 3)
    step = GraphedStep(network, loss_of(network))
    replay(step, 5)
    replay(step, 4, size=3)
    assert [recording.replays for recording in recordings] == [2, 1]


def test_gradients_are_those_of_the_batch_alone(recordings: list[Recording]) -> None:
    network = nn.Linear(4, 3)
    step = GraphedStep(network, loss_of(network))
    for number in range(6):
        batch = torch.rand(2, 4), torch.tensor([number % 3, 0])
        loss = step(*batch)
        expected = loss_of(network)(*batch)
        gradients = torch.autograd.grad(expected, list(network.parameters()))
        assert torch.equal(loss, expected.detach())
        assert all(torch.equal(p.grad, g) for p, g in zip(network.parameters(), gradients, strict=True))
        if number == 4:  # as someone else's step would leave it
            network.zero_grad()
    assert len(recordings) == 1


def test_a_step_does_not_change_its_batch(recordings: list[Recording]) -> None:
    network = nn.Linear(4, 3)
    step = GraphedStep(network, loss_of(network))
    batches = [(torch.rand(2, 4), torch.tensor([number % 3, 0])) for number in range(6)]
    copies = copy.deepcopy(batches)
    for batch in batches:
        step(*batch)
    for batch, before in zip(batches, copies, strict=True):
        assert all(map(torch.equal, batch, before))


def test_a_step_that_can_not_be_recorded_is_an_error_with_the_cure(
    recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    network = nn.Linear(4, 3)
    step = GraphedStep(network, loss_of(network))
    replay(step, 3)
    monkeypatch.setattr(cuda_graph, "_record_graph", refuse)
    with pytest.raises(
        RuntimeError, match=r"Expected a network whose .*; got .*not permitted.* Cure: cuda_graph=False"
    ):
        replay(step, 1)


def test_copies_of_a_recording_are_none() -> None:
    network = nn.Linear(4, 3)
    step = GraphedStep(network, loss_of(network))
    assert copy.deepcopy(step) is None
    assert pickle.loads(pickle.dumps(step)) is None


class Scaled(ImageClassifier):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return 0.1 * super().training_step(batch, batch_idx)


class Wrapped(ImageClassifier):
    @functools.wraps(ImageClassifier.training_step)
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return 0.1 * super().training_step(batch, batch_idx)


class Counting(ImageClassifier):
    @accelerated_module.replayable
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx)


class Zeroing(ImageClassifier):
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()


class Doubled(ImageClassifier):
    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        super().backward(2 * loss, *args, **kwargs)


class Manual(ImageClassifier):
    automatic_optimization = False


def plain_and_replayed(kind: type[ImageClassifier]) -> list[ImageClassifier]:
    """Return two modules with the same first weights after a fit, the second with ``cuda_graph=True``."""
    torch.manual_seed(0)
    modules = [
        kind(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), num_classes=3, cuda_graph=wanted)
        for wanted in (False, True)
    ]
    modules[1].load_state_dict(modules[0].state_dict())
    for module in modules:
        fit(module)
    return modules


@pytest.mark.parametrize("kind", [Scaled, Wrapped, Zeroing, Doubled, Manual])
def test_subclasses_with_steps_of_their_own_are_not_recorded(
    kind: type[ImageClassifier], recordings: list[Recording]
) -> None:
    modules = plain_and_replayed(kind)
    assert recordings == []
    assert same_weights(*modules)


def test_a_subclass_whose_step_is_declared_replayable_is_recorded(recordings: list[Recording]) -> None:
    modules = plain_and_replayed(Counting)
    assert len(recordings) == 1
    assert same_weights(*modules)


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_a_mode_that_makes_graphs_of_its_own_is_not_recorded(
    mode: Any, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn.Module, "compile", lambda *_, **__: None)
    fit(classifier(cuda_graph=True, compile_mode=mode))
    assert recordings == []
    fit(classifier(cuda_graph=True, compile_mode="default"))
    assert len(recordings) == 1


def test_a_network_compiled_elsewhere_is_not_recorded(recordings: list[Recording]) -> None:
    module = classifier(cuda_graph=True)
    module.model.compile(backend="eager")
    fit(module)
    assert recordings == []


@pytest.mark.parametrize(
    ("device", "strategy", "scaler", "plain"),
    [
        ("cuda", "SingleDeviceStrategy", None, True),
        ("cpu", "SingleDeviceStrategy", None, False),
        ("cuda", "DDPStrategy", None, False),
        ("cuda", "SingleDeviceStrategy", object(), False),
    ],
)
def test_replay_needs_one_gpu_and_no_scaler(device: str, strategy: str, scaler: object, plain: bool) -> None:
    where = type(strategy, (), {"root_device": torch.device(device)})()
    trainer: Any = SimpleNamespace(strategy=where, precision_plugin=SimpleNamespace(scaler=scaler))
    assert cuda_graph.supports_replay(trainer) == plain


def test_an_epoch_for_batch_statistics_is_not_replayed(recordings: list[Recording]) -> None:
    plain, replayed = classifier(), classifier(cuda_graph=True)
    for module in (plain, replayed):
        module.model.append(nn.BatchNorm1d(3))
        fit(module, StochasticWeightAveraging(0.01, swa_epoch_start=1))
    assert all(map(torch.equal, plain.state_dict().values(), replayed.state_dict().values()))
    first_steps = cuda_graph._WARMUP_STEPS * len(recordings)
    assert sum(recording.replays for recording in recordings) + first_steps == 24


def test_layers_that_were_added_between_epochs_are_recorded(recordings: list[Recording]) -> None:
    class Adds(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: ImageClassifier) -> None:
            if trainer.current_epoch == 1:
                pl_module.model.append(nn.Tanh())

    plain, replayed = classifier(), classifier(cuda_graph=True)
    for module in (plain, replayed):
        fit(module, Adds())
    assert same_weights(plain, replayed)
    assert [recording.replays for recording in recordings] == [5, 13]


def test_after_an_exception_steps_are_taken_as_without_a_trainer(recordings: list[Recording]) -> None:
    class Stops(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 6:
                raise RuntimeError("stop")

    module = classifier(cuda_graph=True)
    with pytest.raises(RuntimeError, match="stop"):
        fit(module, Stops())
    batch = torch.rand(5, 1, 4, 4), torch.zeros(5, dtype=torch.long)
    for loss in (lambda: module(batch[0]).sum(), lambda: module.training_step(batch, 0)):
        module.zero_grad()
        module.backward(loss())
        assert all(parameter.grad is not None for parameter in module.parameters())
    assert [recording.replays for recording in recordings] == [3]


def test_with_anomaly_detection_nothing_is_recorded(recordings: list[Recording]) -> None:
    fit(classifier(cuda_graph=True), detect_anomaly=True)
    assert recordings == []


def test_nothing_is_recorded_on_a_cpu() -> None:
    module = classifier(cuda_graph=True)
    fit(module)
    plain = classifier()
    fit(plain)
    assert same_weights(plain, module)
