"""On a CUDA device: the masks of the CPU, no waiting for the device in a step, 16 bits, compilation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from lightning_sparse import SparseMomentumCallback, SparseNetwork
from lightning_sparse.models import ImageClassifier
from lightning_sparse.testing.training import ShufflingLoader, TinyModule
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.pruning import PRUNING
from lightning_sparse.topology.redistribution import REDISTRIBUTION
from lightning_sparse.topology.rewire import Recipe

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
            network.rewire(recipe, rate)
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
    callback: SparseMomentumCallback, *others: Callback, module: Any = None, data: Any = None, **options: Any
) -> Trainer:
    silent = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    run = Trainer(
        accelerator="gpu",
        devices=1,
        logger=False,
        **{"max_epochs": 4, **silent, **options},
        callbacks=[callback, *others],
    )
    run.fit(TinyModule("nesterov") if module is None else module, ShufflingLoader() if data is None else data)
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


def test_a_compiled_module_trains_without_compiling_anew() -> None:
    module: LightningModule = torch.compile(TinyModule("nesterov"))  # type: ignore[assignment]  # an OptimizedModule
    callback = SparseMomentumCallback(density=0.3, every_n_steps=2)
    with torch._dynamo.config.patch(error_on_recompile=True):
        fit(callback, module=module)
    assert active(callback) == (24, 0)
    assert sum(record.grown for record in callback.history) > 0
