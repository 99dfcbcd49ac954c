"""On a CUDA device: masks equal to the CPU's, steps without synchronization, 16 bits, compilation, replay."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from lightning_sparse import GradientFlowCallback, SparseMomentumCallback, SparseNetwork
from lightning_sparse.callbacks import RandomStateCallback
from lightning_sparse.data import ArrayDataModule
from lightning_sparse.models import ImageClassifier
from lightning_sparse.testing.callbacks.training import ShufflingLoader, TinyModule
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.pruning import PRUNING
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.redistribution import REDISTRIBUTION

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),  # what other versions of Lightning and PyTorch warn of
]
SHAPES = [(40, 3, 3, 3), (300, 784), (100, 300), (10, 100), (700, 700)]


def networks(device: str) -> SparseNetwork:
    """Return a network with weights, momentum and gradients that are the same on every device."""
    generator = torch.Generator().manual_seed(5)
    layers: list[nn.Module] = []
    for out, *rest in SHAPES:
        layers.append(nn.Conv2d(rest[0], out, rest[1]) if len(rest) == 3 else nn.Linear(rest[0], out))
    model = nn.ModuleList(layers)
    with torch.no_grad():
        for parameter in model.parameters():
            # Few different values, so that ties are many.
            parameter.copy_(torch.randn(parameter.shape, generator=generator).mul(50).round().div(50))
    model.to(device)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    network = SparseNetwork(model, density=0.1, seed=3)
    network.attach(optimizer, track_gradients=True)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).mul(50).round().div(50).to(device)
    optimizer.step()
    return network


@pytest.mark.parametrize(("prune", "redistribute", "grow"), list(product(PRUNING, REDISTRIBUTION, GROWTH)))
def test_masks_are_those_of_the_cpu(prune: str, redistribute: str, grow: str) -> None:
    recipe = Recipe(PRUNING[prune], REDISTRIBUTION[redistribute], GROWTH[grow])
    found = []
    for device in ("cpu", "cuda"):
        network = networks(device)
        for rate in (0.5, 0.3):
            costs = {name: torch.full((), 4.0, device=device) for name in network.masks}
            network.rewire(recipe, rate, signals={"multiplications": costs})
        found.append({name: mask.cpu() for name, mask in network.masks.items()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


class Strict(Callback):
    """Makes waiting for the device an error in the backward pass and in the optimizer's step."""

    steps = 0

    def on_before_zero_grad(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")
        self.steps += 1


@pytest.fixture
def _patient() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


def fit(
    callback: SparseMomentumCallback,
    *others: Callback,
    module: Any = None,
    data: Any = None,
    ckpt_path: Path | None = None,
    **options: Any,
) -> Trainer:
    silent = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    run = Trainer(
        accelerator="gpu",
        devices=1,
        logger=False,
        **{"max_epochs": 4, **silent, **options},
        callbacks=[callback, *others],
    )
    module, data = TinyModule("nesterov") if module is None else module, ShufflingLoader() if data is None else data
    run.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return run


def active(callback: SparseMomentumCallback) -> tuple[int, int]:
    """Return the active weights, and the inactive ones that are not zero."""
    assert callback.network is not None
    weights = dict(callback.network.model.named_parameters())
    stray = sum(int(torch.count_nonzero(weights[name][~mask])) for name, mask in callback.network.masks.items())
    return sum(int(mask.sum()) for mask in callback.network.masks.values()), stray


def plain_step(module: nn.Module, optimizer: SGD, inputs: Tensor) -> None:
    optimizer.zero_grad()
    module(inputs).square().mean().backward()
    optimizer.step()


@pytest.mark.usefixtures("_patient")
@pytest.mark.parametrize("gradients", [False, True], ids=["momentum", "gradient"])
def test_no_step_waits_for_the_device(gradients: bool) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).cuda()
    optimizer, inputs = SGD(model.parameters(), lr=0.1, momentum=0.9), torch.randn(16, 64, device="cuda")
    network = SparseNetwork(model, density=0.1)
    network.attach(optimizer, track_gradients=gradients)
    plain_step(model, optimizer, inputs)
    torch.cuda.set_sync_debug_mode("error")
    for _ in range(3):
        plain_step(model, optimizer, inputs)
    with pytest.raises(RuntimeError, match="synchroniz"):
        bool(model[0].weight.any())  # waiting would be seen


@pytest.mark.usefixtures("_patient")
def test_the_callback_waits_for_the_device_in_no_step_of_a_run() -> None:
    callback = SparseMomentumCallback(density=0.3)
    strict = Strict()
    fit(callback, strict)
    assert strict.steps > 3
    assert active(callback) == (24, 0)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "16-true", "bf16-true"])
def test_budget_and_zeros_are_exact_in(precision: str) -> None:
    callback = SparseMomentumCallback(density=0.3)
    fit(callback, precision=precision)
    assert active(callback) == (24, 0)
    assert sum(record.grown for record in callback.history) > 0


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_classifier_trains_as_one_that_is_not(mode: Any) -> None:
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batches = DataLoader(TensorDataset(images, (images.mean((1, 2, 3)) > 0.5).long()), batch_size=16)
    losses, masks = [], []
    for chosen in (None, mode):
        seed_everything(0)
        classifier = ImageClassifier("mlp", model_options={"in_features": 64}, num_classes=2, compile_mode=chosen)
        callback = SparseMomentumCallback(density=0.2)
        run = fit(callback, module=classifier, data=batches)
        masks.append(active(callback))
        losses.append(float(run.callback_metrics["train/loss"]))
    assert masks[0] == masks[1]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


class Residual(nn.Module):
    """Small network with convolutions, normalization, dropout and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.2))
        self.second = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.last = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images)
        return self.last((features + self.second(features)).mean((2, 3)))


def colours(**options: Any) -> ArrayDataModule:
    """Return images with a last batch of another size."""
    pixels = torch.randint(256, (150, 12, 12, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    labels = pixels.float().mean((1, 2, 3)).argsort().argsort() * 10 // 150
    more = {"batch_size": 32, "val_fraction": 0.2, "num_classes": 10, "crop_padding": 2, "flip": True, **options}
    return ArrayDataModule(pixels, labels, pixels, labels, **more)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("others", [{}, {"gradient_clip_val": 0.5}], ids=["plain", "clipped"])
def test_replayed_steps_equal_those_launched_by_python(precision: Any, others: dict[str, Any]) -> None:
    deterministic = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    found = []
    for cuda_graph in (False, True):
        seed_everything(0)
        classifier = ImageClassifier(Residual(), channels_last=True, cuda_graph=cuda_graph)
        callback, flow = SparseMomentumCallback(density=0.3), GradientFlowCallback(every_n_steps=1)
        run = fit(callback, flow, module=classifier, data=colours(on_device=True), precision=precision, **others)
        found.append((run.callback_metrics, callback.network, flow.history, classifier))
    torch.backends.cudnn.deterministic = deterministic
    (metrics, network, history, plain), (other_metrics, other_network, other_history, replayed) = found
    assert all(map(torch.equal, plain.cpu().state_dict().values(), replayed.cpu().state_dict().values()))
    assert {name: float(value) for name, value in metrics.items()} == {n: float(v) for n, v in other_metrics.items()}
    masks, other_masks = network.masks, other_network.masks
    assert all(torch.equal(masks[name].cpu(), other_masks[name].cpu()) for name in masks)
    assert history == other_history


def test_steps_are_replayed_and_not_launched() -> None:
    launched, replayed = [], []
    replay = torch.cuda.CUDAGraph.replay

    class Watch(Callback):
        def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
            pl_module.model.register_forward_hook(lambda *_: launched.append(pl_module.training))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda.CUDAGraph, "replay", lambda self: replayed.append(1) or replay(self))
        fit(
            SparseMomentumCallback(density=0.3),
            Watch(),
            module=ImageClassifier(Residual(), cuda_graph=True),
            data=colours(),
        )
    # Four epochs of three batches of 32 and one of 24: three first steps and the recording, and each last batch.
    assert sum(launched) == 3 + 1 + 4
    assert len(replayed) == 12 - 3


def test_a_step_is_recorded_while_a_loader_pins_memory() -> None:
    images = torch.rand(400, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    batches = DataLoader(
        TensorDataset(images, torch.arange(400) % 10), batch_size=8, num_workers=2, pin_memory=True, shuffle=True
    )
    callback = SparseMomentumCallback(density=0.3)
    run = fit(callback, module=ImageClassifier(Residual(), cuda_graph=True), data=batches, max_epochs=2)
    assert run.global_step == 100
    assert active(callback)[1] == 0


class Later(Callback):
    """Makes waiting for the device an error between steps, too, when batches are loaded."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.first:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.last:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("_patient")
def test_no_replayed_step_waits_for_the_device_and_no_loaded_batch() -> None:
    classifier = ImageClassifier(Residual(), cuda_graph=True)
    data = colours(on_device=True, batch_size=4, val_fraction=0)
    run = fit(SparseMomentumCallback(density=0.3), Later(7, 35), module=classifier, data=data, max_epochs=1)
    assert run.global_step == 38


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_compiled_classifier_is_recorded_too(precision: Any) -> None:
    losses = []
    for options in ({}, {"compile_mode": "default", "cuda_graph": True}):
        seed_everything(0)
        classifier = ImageClassifier("mlp", model_options={"in_features": 432}, num_classes=10, **options)
        callback = SparseMomentumCallback(density=0.2)
        run = fit(callback, module=classifier, data=colours(on_device=True), precision=precision)
        losses.append(float(run.callback_metrics["train/loss"]))
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


def test_a_recorded_run_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    weights = []
    for checkpoint in (None, tmp_path / "last.ckpt"):
        seed_everything(0)
        saver = ModelCheckpoint(tmp_path, "last", every_n_train_steps=6, save_top_k=1, enable_version_counter=False)
        others = [RandomStateCallback(), *([saver] if checkpoint is None else [])]
        classifier = ImageClassifier(Residual(), cuda_graph=True)
        callback = SparseMomentumCallback(density=0.3)
        options = {"enable_checkpointing": checkpoint is None, "ckpt_path": checkpoint}
        fit(callback, *others, module=classifier, data=colours(), max_steps=11, **options)
        weights.append(classifier.cpu().state_dict())
    assert all(torch.allclose(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-4) for name in weights[0])


def test_a_compiled_module_trains_without_recompiling() -> None:
    module: LightningModule = torch.compile(TinyModule("nesterov"))  # type: ignore[assignment]  # an OptimizedModule
    callback = SparseMomentumCallback(density=0.3, every_n_steps=2)
    with torch._dynamo.config.patch(error_on_recompile=True):
        fit(callback, module=module)
    assert active(callback) == (24, 0)
    assert sum(record.grown for record in callback.history) > 0
