"""The contract of methods."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_sparse._compat import LightningModule, MixedPrecision, Trainer
from lightning_sparse.callbacks import SparseTrainingCallback
from lightning_sparse.methods import Method
from lightning_sparse.methods.base import Budget
from lightning_sparse.testing.callbacks.runs import DENSITY, active_weights, quiet, stray_weights, train
from lightning_sparse.testing.callbacks.sparse_training import CALLBACK_PROPERTIES
from lightning_sparse.testing.callbacks.training import At, Batch, ShufflingLoader, TinyModule
from lightning_sparse.testing.contract import check, expect
from lightning_sparse.testing.equality import differences, first_few
from lightning_sparse.testing.methods.interrupted_updates import resumes_from_every_change

_WAYS: dict[str, dict[str, Any]] = {
    "plainly": {},
    "with accumulated gradients": {"accumulate_grad_batches": 2, "loader": ShufflingLoader(5)},
    "with clipped gradients": {"gradient_clip_val": 0.01},
}


@dataclass(frozen=True)
class Subject:
    """A method to check.

    Attributes:
        factory: Function that returns a new method.
        density: Density to ask for, of a method that has a budget.
    """

    factory: Callable[[], Method]
    density: float = DENSITY

    @property
    def budget(self) -> Budget | None:
        """Whether the density holds after every step ("kept") or at the end ("reached"); None if there is none."""
        return self.factory().budget

    def callback(self) -> SparseTrainingCallback:
        """Return a new callback with a new method."""
        return self.callback_of(self.factory())

    def callback_of(self, method: Method) -> SparseTrainingCallback:
        """Return a new callback with a method."""
        return SparseTrainingCallback(method=method, density=None if method.budget is None else self.density)


class TwoOptimizers(TinyModule):
    """Has an optimizer for each of its layers, which step in turns.

    Args:
        freezes: Whether the layers of the other one are frozen meanwhile, by `toggle_optimizer`.
    """

    def __init__(self, *, freezes: bool) -> None:
        super().__init__()
        self.automatic_optimization, self._freezes = False, freezes

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Take a step with each optimizer."""
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            if self._freezes:
                self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()
            if self._freezes:
                self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        """Return the optimizers."""
        return [torch.optim.SGD(layers.parameters(), lr=0.1, momentum=0.9) for layers in (self.net[:3], self.net[3:])]


class InfiniteGradients(TinyModule):
    """Has an infinite loss in its second and fourth batch, whose steps a gradient scaler leaves out."""

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy, or infinity times it."""
        loss = super().loss(batch)
        return loss * torch.inf if self._fails else loss

    @property
    def _fails(self) -> bool:
        trainer: Trainer | None = self._trainer
        return trainer is not None and trainer.training and trainer.fit_loop.total_batch_idx in (1, 3)


def the_budget_is_exact(subject: Subject) -> None:
    """Ask for `round(density * N)` active weights: after every step, or at the end, in several kinds of runs."""
    if subject.budget is None:
        return
    for way, options in _WAYS.items():
        _check_budget(subject, way, _EXACTLY, **options)


_EXACTLY = "change masks through network.rewire and network.set_masks, to exactly this number"


def _check_budget(subject: Subject, way: str, cure: str, **options: Any) -> None:
    counts: list[int] = []
    callback = subject.callback()
    train(callback, At("on_train_batch_end", lambda *_: counts.append(active_weights(callback))), **options)
    size = sum(layer.size for layer in callback.network.layers.values())
    checked = counts if subject.budget == "kept" else [active_weights(callback)]
    expect(
        set(checked) == {round(subject.density * size)},
        f"{round(subject.density * size)} of {size} weights active, {way}",
        sorted(set(checked)),
        cure,
    )


def several_optimizers_may_step(subject: Subject) -> None:
    """Ask for the budget and for zeros where two optimizers step a layer each in turns, the other's frozen or not."""
    for freezes in (False, True):
        way = f"with two optimizers, {'one layer frozen in each step' if freezes else 'in turns'}"
        if subject.budget is not None:
            _check_budget(subject, way, _SEVERAL, module=TwoOptimizers(freezes=freezes))
        stray = _stray_in_training(subject.callback(), TwoOptimizers(freezes=freezes))
        expect(not any(stray), f"zeros at all inactive weights, {way}", [each for each in stray if each][:1], _SEVERAL)


def _stray_in_training(callback: SparseTrainingCallback, module: LightningModule) -> list[dict[str, int]]:
    stray: list[dict[str, int]] = []
    train(At("on_train_batch_end", lambda *_: stray.append(stray_weights(callback, module))), callback, module=module)
    return stray


_SEVERAL = (
    "each optimizer's step calls gradients_ready and after_step with its own names: change the density of all layers "
    "at once, with the names of all of them, and weights at a constant number with names=names"
)


def skipped_steps_change_nothing(subject: Subject) -> None:
    """Ask that a step that a gradient scaler leaves out changes neither weights nor masks."""
    callback, seen = subject.callback(), list[dict[str, Any]]()

    def look(_: Trainer, module: LightningModule) -> None:
        weights = {name: value.detach().clone() for name, value in module.named_parameters()}
        seen.append({"weights": weights, "masks": callback.network.masks, "stray": stray_weights(callback, module)})

    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    train(
        At("on_train_batch_end", look),
        callback,
        module=InfiniteGradients(),
        plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
    )
    expect(
        not any(each["stray"] for each in seen), "zeros at all inactive weights", [s["stray"] for s in seen], _FINITE
    )
    for batch in (1, 3):
        changed = differences(seen[batch], seen[batch - 1])
        expect(not changed, f"a left-out step {batch + 1} that changes nothing", first_few(changed), _FINITE)
    finite = all(bool(torch.isfinite(value).all()) for value in seen[-1]["weights"].values())
    expect(finite, "finite weights at the end", "others", _FINITE)


_FINITE = "look at gradients only, and act in after_step, which is called for steps that were taken"


def an_interrupted_update_happens_as_a_whole(subject: Subject) -> None:
    """Ask that a checkpoint from before a change of masks in `update` resumes to the same end."""
    resumes_from_every_change(subject.callback)


def the_network_is_an_ordinary_one_afterwards(subject: Subject) -> None:
    """Ask that after fit the module computes as its weights alone do, with zeros outside of the masks."""
    callback, module = subject.callback(), TinyModule()
    train(callback, module=module)
    plain = TinyModule()
    plain.load_state_dict(module.state_dict(), strict=True)
    (inputs, _), *_ = ShufflingLoader(1)
    outputs = []
    for each in (module, plain):
        each.eval()
        with torch.no_grad():
            outputs.append(each.net(inputs))
    expect(torch.equal(*outputs), "the outputs of a plain module with these weights", "others", _RELEASE)
    replaced = [name for name, each in module.named_modules() if "forward" in vars(each) or each._forward_pre_hooks]
    expect(not replaced, "modules without replaced forward passes or hooks", replaced, _RELEASE)
    expect(not stray_weights(callback, module), "zeros outside of the masks", "others", _RELEASE)


_RELEASE = "undo in release() what prepare() did, and leave weights and masks in finish() that mean the same"


def the_method_that_was_given_stays_as_it_is(subject: Subject) -> None:
    """Ask that a run changes a copy: the same object serves other callbacks."""
    method = subject.factory()
    before = copy.deepcopy(vars(method))
    train(subject.callback_of(method))
    changed = differences(vars(method), before)
    expect(not changed, "a method as it was given", f"another {first_few(changed)}", "keep no state in the class")


def _through_callbacks() -> dict[str, Callable[[Subject], None]]:
    """Return the properties of callbacks that every method has, asked of a callback with it."""

    def ask(holds: Callable[..., None], subject: Subject) -> None:
        with quiet():
            holds(subject.callback)

    left_out = "budget_is_exact_after_every_step"  # which methods may reach later
    return {name: partial(ask, holds) for name, holds in CALLBACK_PROPERTIES.items() if name != left_out}


# These are checked for every registered method, and for users' own.
METHOD_PROPERTIES: Mapping[str, Callable[[Subject], None]] = {
    "the_budget_is_exact": the_budget_is_exact,
    "several_optimizers_may_step": several_optimizers_may_step,
    "skipped_steps_change_nothing": skipped_steps_change_nothing,
    "an_interrupted_update_happens_as_a_whole": an_interrupted_update_happens_as_a_whole,
    "the_network_is_an_ordinary_one_afterwards": the_network_is_an_ordinary_one_afterwards,
    "the_method_that_was_given_stays_as_it_is": the_method_that_was_given_stays_as_it_is,
    **_through_callbacks(),
}


def check_method(factory: Callable[[], Method], *, density: float = DENSITY) -> None:
    """Check a method of your own, in short Lightning runs, against everything the library expects of one.

    Zeros after every step, the budget, exact resumes from every step and in the middle of an update, copies, two
    processes, a gradient scaler, accumulated gradients, errors in the middle of a run. Takes some seconds. The module
    has no forward pass of its own; its `net` is `nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(),
    nn.Linear(8, 4))`.

    Args:
        factory: The method's class, or a function that returns a new method.
        density: Density to ask for, of two linear layers with 80 weights, of a method that has a budget
            (`Method.budget`).

    Raises:
        ContractError: With every property that the method lacks.
    """
    check("method", Subject(factory, density), METHOD_PROPERTIES)
