"""Gradients on fixed batches are the gradients of a training step, for any module, and the run doesn't change."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from tiny_training import Batch, ShufflingLoader, TinyModule, differences, fit
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset
from witness import scaled

from lightning_sparse import GradientFlowCallback
from lightning_sparse.callbacks.probing.gradients import GradientProbe, draw_batches

BATCH = next(iter(ShufflingLoader()))


def trained(module: Any, flow: GradientFlowCallback | None = None, **options: Any) -> dict[str, Any]:
    """Train, and return everything that must be equal with and without a callback."""
    torch.manual_seed(0)
    run = fit(*([] if flow is None else [flow]), module=module, **options)
    trained_module = run.lightning_module
    gradients = {name: parameter.grad for name, parameter in trained_module.named_parameters()}
    own = {name: value for name, value in vars(trained_module).items() if name.startswith("own_")}
    metrics = {name: value for name, value in run.callback_metrics.items() if not name.startswith("gradient_flow")}
    return {
        "weights": dict(trained_module.state_dict()),
        "gradients": gradients,
        "own": own,
        "metrics": metrics,
        "random": torch.get_rng_state(),
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
    }


def measured(new_module: Callable[[], Any], **options: Any) -> list[dict[str, dict[str, float]]]:
    """Check that measuring doesn't change the run, and return the layers of each measurement."""
    flow = GradientFlowCallback(every_n_steps=2, batches=[BATCH])
    with_flow = trained(new_module(), flow, **options)
    assert differences(with_flow, trained(new_module(), **options)) == []
    assert len(flow.history) > 2
    return [record.layers for record in flow.history]


def whole() -> Any:
    return torch.compile(TinyModule(), backend="eager")


class Called(TinyModule):
    """Calls its own forward in its training step."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)  # type: ignore[no-any-return]  # a tensor

    def loss(self, batch: Batch) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])


def in_place() -> TinyModule:
    module = Called()
    module.compile(backend="eager")
    return module


def part() -> TinyModule:
    module = TinyModule()
    module.net = torch.compile(module.net, backend="eager")  # type: ignore[assignment]  # it stands in for it
    return module


class Layers(nn.Sequential):
    """A sequence of layers in a class outside of PyTorch, which older versions didn't always compile."""

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self:
            inputs = layer(inputs)
        return inputs


def part_in_place() -> TinyModule:
    module = TinyModule()
    module.net = Layers(*module.net)
    module.net.compile(backend="eager")
    return module


def method() -> TinyModule:
    module = TinyModule()
    module.loss = torch.compile(module.loss, backend="eager")  # type: ignore[method-assign]  # what is tested
    return module


@partial(torch.compile, backend="eager")
def outputs_of(network: nn.Module, inputs: Tensor) -> Tensor:
    return network(inputs) * 1.0  # type: ignore[no-any-return]  # a tensor


class ByFunction(TinyModule):
    """Calls a compiled function."""

    def loss(self, batch: Batch) -> Tensor:
        return cross_entropy(outputs_of(self.net, batch[0]), batch[1])


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("compiled", [whole, in_place, part, part_in_place, method, ByFunction])
def test_a_compiled_module_is_measured_like_one_that_is_not_and_trains_as_without(compiled: Callable[[], Any]) -> None:
    larger = [torch.cat([part, part]) for part in BATCH]  # which would be compiled again
    graphs = []
    for flow in (None, GradientFlowCallback(every_n_steps=1, batches=[larger])):
        torch._dynamo.reset()
        counters.clear()
        trained(compiled(), flow, limit_val_batches=0)
        graphs.append(counters["stats"]["unique_graphs"])
    # Nothing is compiled for the copy. Before PyTorch 2.6, functions that are no part of the module are.
    assert graphs[0] > 0
    assert graphs[0] == graphs[1] or (compiled is ByFunction and not hasattr(torch.compiler, "set_stance"))
    assert measured(compiled) == measured(TinyModule)


def with_function() -> TinyModule:
    """Replace a method by a function that calls the original and counts its calls."""
    module = TinyModule()
    before, calls = module.loss, 0

    def loss(batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        module.own_calls = calls  # type: ignore[assignment]  # an attribute that is no module
        return before(batch)

    module.loss = loss  # type: ignore[method-assign]  # what is tested
    return module


def with_default() -> TinyModule:
    """Replace a method by a function that has the module as a default argument."""
    module = TinyModule()

    def loss(batch: Batch, of: TinyModule = module) -> Tensor:
        return TinyModule.loss(of, batch)

    module.loss = loss  # type: ignore[method-assign]  # what is tested
    return module


def with_partial() -> TinyModule:
    module = TinyModule()
    module.loss = partial(TinyModule.loss, module)  # type: ignore[method-assign]  # what is tested
    return module


def with_hook() -> TinyModule:
    """Note outputs on the module, by a hook of a layer."""
    module = TinyModule()
    module.own_seen = torch.zeros(())
    module.net[0].register_forward_hook(lambda _, __, out: setattr(module, "own_seen", module.own_seen + out.sum()))
    return module


@pytest.mark.parametrize("patched", [with_function, with_default, with_partial, with_hook])
def test_functions_and_hooks_of_one_instance_act_on_the_copy(patched: Callable[[], TinyModule]) -> None:
    assert measured(patched) == measured(TinyModule)


class Still(TinyModule):
    """Has a learning rate of zero, so that gradients before and after a step are equal."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), lr=0.0)


class Hooked(Still):
    """Changes its batches in the transfer hooks, and counts the calls."""

    own_before = own_after = 0

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Any:
        self.own_before += 1
        return batch[0] * 3, batch[1]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Any:
        self.own_after += 1
        return batch[0] + 1, batch[1]


class Faint(Still):
    """Gradients that half precision would round to zero."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        loss = super().training_step(batch, batch_idx)
        assert loss is not None
        return loss * 1e-7


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (Still, {"precision": "64-true"}),
        (Still, {"precision": "bf16-true"}),
        (Still, {"precision": "bf16-mixed"}),
        (Hooked, {}),
        (Faint, {"plugins": [scaled(init_scale=2.0**16)]}),
    ],
    ids=["64-true", "bf16-true", "bf16-mixed", "hooked", "scaled"],
)
def test_a_batch_has_the_gradient_that_it_has_in_training(module: type[Still], options: dict[str, Any]) -> None:
    loader: Any = DataLoader([BATCH], batch_size=None)  # type: ignore[arg-type]  # a list has all that it needs
    options = {"loader": loader, "limit_val_batches": 0, **options}
    flow = GradientFlowCallback(every_n_steps=1)
    fixed = GradientFlowCallback(every_n_steps=1, batches=[BATCH], name="fixed")
    fit(flow, fixed, module=module(), **options)
    for one, other in zip(flow.history, fixed.history, strict=True):
        assert one.layers == {name: pytest.approx(norms, rel=1e-6) for name, norms in other.layers.items()}
        assert min(norms["l2"] for norms in one.layers.values()) > 0
    assert differences(trained(module(), fixed, **options), trained(module(), **options)) == []


class Curious(TinyModule):
    """Reads from the Trainer, logs to it and sets its attributes in its training step."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        loss = self.loss(batch)
        self.log("loss/train", loss.detach(), on_step=True, on_epoch=True)
        self.log_dict({"seen": float(self.trainer.global_step)}, prog_bar=True)
        assert self.logger is not None
        self.logger.log_metrics({"direct": float(self.global_step)}, step=self.global_step)
        self.trainer.should_stop = self.global_step == 6  # after the last step, in the copy only
        return loss * (1 + self.global_step / 16 + self.current_epoch / 2)


def test_a_training_step_of_the_copy_sees_the_trainer_and_logs_nothing(tmp_path: Path) -> None:
    flow = GradientFlowCallback(every_n_steps=1, batches=[BATCH])
    plain = GradientFlowCallback(every_n_steps=1, batches=[BATCH], loss=lambda module, batch: module.loss(batch))  # type: ignore[operator]  # ours
    loggers = {name: CSVLogger(tmp_path, name) for name in ("with", "without")}
    options: dict[str, Any] = {"max_epochs": 2, "log_every_n_steps": 1, "limit_val_batches": 0}
    still = partial(configured, lr=0.0)
    ending = trained(still(Curious()), flow, logger=loggers["with"], **options)
    assert differences(ending, trained(still(Curious()), logger=loggers["without"], **options)) == []
    trained(still(Curious()), plain, logger=CSVLogger(tmp_path, "plain"), **options)
    for step, (one, other) in enumerate(zip(flow.history, plain.history, strict=True)):
        factor = 1 + (step + 1) / 16 + (step // 3) / 2
        assert one.effective["l2"] == pytest.approx(other.effective["l2"] * factor)
    with_flow, without = (rows(logger) for logger in loggers.values())
    assert with_flow == without
    assert len(without) > len(flow.history)


def rows(logger: CSVLogger) -> list[dict[str, str]]:
    """Return the rows that a logger wrote, without gradient flow."""
    with (Path(logger.log_dir) / "metrics.csv").open(newline="") as file:
        logged = [
            {name: value for name, value in row.items() if value and not name.startswith("gradient_flow")}
            for row in csv.DictReader(file)
        ]
    return [row for row in logged if not row.keys() <= {"epoch", "step"}]


def configured(module: TinyModule, lr: float) -> TinyModule:
    """Give an instance another learning rate by replacing its method."""
    module.configure_optimizers = lambda: SGD(module.parameters(), lr=lr)  # type: ignore[method-assign]  # what is tested
    return module


class WithoutIndex(TinyModule):
    """Has a training step without the index."""

    def training_step(self, batch: Batch) -> Tensor:  # type: ignore[override]  # which Lightning allows
        return self.loss(batch)


def test_a_training_step_may_leave_out_the_index_of_the_batch() -> None:
    assert measured(WithoutIndex) == measured(TinyModule)


@dataclass
class Storage:
    """Container of a module's own for results."""

    loss: Tensor | None = None


class Storing(TinyModule):
    """Stores losses with their graphs, and uses the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []
        self.last: dict[str, Any] = {"stored": Storage()}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        last = self.last["stored"].loss
        self.losses.append(loss)
        self.last["stored"].loss = loss
        return loss if last is None else loss + 0 * last.detach()

    def on_train_epoch_end(self) -> None:
        assert len(self.losses) == 3
        self.losses.clear()


def test_a_module_that_stores_its_losses_is_measured_as_any_other() -> None:
    assert measured(Storing) == measured(TinyModule)


class Uncopyable(TensorDataset):
    """Fails if it is copied, as a large data set should not be."""

    def __deepcopy__(self, memo: object) -> None:
        raise AssertionError("it is copied")


def test_data_that_a_module_holds_are_not_copied() -> None:
    def holding() -> TinyModule:
        module = TinyModule()
        module.data = Uncopyable(*BATCH)  # type: ignore[assignment]  # an attribute that is no module
        module.loaders = {"train": DataLoader(module.data)}  # type: ignore[arg-type,assignment]  # as above
        return module

    assert measured(holding) == measured(TinyModule)


def test_an_attribute_that_can_not_be_copied_is_named_with_a_cure() -> None:
    module = TinyModule()
    module.source = iter(ShufflingLoader())  # type: ignore[assignment]  # an attribute that is no module
    with pytest.warns(
        UserWarning, match=r"module that can be copied.*got TinyModule: .*generator.*Cure: .*batches=None"
    ):
        run = fit(GradientFlowCallback(every_n_steps=1, batches=[BATCH]), module=module)
    assert run.global_step > 0


def test_layers_that_a_module_evaluates_are_evaluated_in_the_copy() -> None:
    class Frozen(TinyModule):
        def on_train_batch_start(self, *_: Any) -> None:
            self.net[1].eval()

    module = Frozen()
    flow = GradientFlowCallback(every_n_steps=1, batches=[BATCH])
    fit(flow, module=module)
    assert module.net[1].num_batches_tracked == 0
    module.net[1].eval()
    assert flow.history[-1].layers["net.0.weight"]["l2"] == pytest.approx(norm_of(module))


def norm_of(module: TinyModule) -> float:
    """Return the norm of the first layer's gradient."""
    module.zero_grad()
    torch.autograd.backward(module.loss(BATCH))
    gradient = module.net[0].weight.grad
    assert isinstance(gradient, Tensor)
    return float(gradient.norm())


def test_a_weight_without_a_gradient_counts_as_zero_and_an_unknown_name_is_an_error() -> None:
    module = TinyModule()
    module.extra = nn.Linear(3, 3)
    run = fit(module=module)
    probe = GradientProbe([BATCH], None, seed=0)
    reached, other = probe.gradients(run, module, ["net.0.weight", "extra.weight"])
    assert reached.norm() > 0
    assert torch.equal(other, torch.zeros(3, 3))
    with pytest.raises(KeyError):
        probe.gradients(run, module, ["net.0.weight_orig"])


def test_images_that_are_held_out_are_not_drawn() -> None:
    data = TensorDataset(torch.arange(100.0)[:, None])
    training = list(range(0, 100, 2))
    loader = DataLoader(data, batch_size=10, sampler=SubsetRandomSampler(training))
    drawn = torch.cat([batch for (batch,) in draw_batches(loader, 5, seed=0)]).flatten().tolist()
    assert sorted(drawn) == training != drawn
    assert drawn != torch.cat([batch for (batch,) in draw_batches(loader, 5, seed=1)]).flatten().tolist()


class Stream(IterableDataset[Batch]):
    """Images without indices."""

    def __iter__(self) -> Iterator[Batch]:
        return ((inputs, label) for batch in ShufflingLoader() for inputs, label in zip(*batch, strict=True))


def test_a_stream_in_batches_can_not_be_drawn_from_but_its_batches_can_be_given() -> None:
    loader = DataLoader(Stream(), batch_size=4)
    with pytest.raises(TypeError, match=r"data set with indices to draw batches from; got a DataLoader. Cure"):
        fit(GradientFlowCallback(batches=2), loader=loader)
    flow = GradientFlowCallback(batches=[BATCH])
    fit(flow, loader=loader)
    assert all(record.effective["l2"] > 0 for record in flow.history)


def test_a_module_within_a_module_sees_the_trainer_too() -> None:
    class Inner(LightningModule):
        def training_step(self, *_: Any) -> None:
            """Not called."""

        def forward(self, loss: Tensor) -> Tensor:
            return loss * (1 + self.trainer.global_step)

    class Outer(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            loss: Tensor = self.inner(self.loss(batch))
            return loss

    flow = GradientFlowCallback(every_n_steps=1, batches=[BATCH])
    fit(flow, module=configured(Outer(), 0.0), max_epochs=1)
    norms = [record.layers["net.0.weight"]["l2"] for record in flow.history]
    assert norms == pytest.approx([norm_of(TinyModule()) * (2 + step) for step in range(3)])
