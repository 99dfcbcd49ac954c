"""What is known of the multiplications that weights cost: learned in the first step, the same in every process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_sparse.network.multiplications.products import examples, products
from lightning_sparse.network.steps.hooks import unwatch_steps, watch_steps
from lightning_sparse.selection.kernel_watch import compiled_modules
from lightning_sparse.topology.layer import MULTIPLICATIONS
from lightning_sparse.topology.reduction import widest_float
from lightning_sparse.validation.errors import InvalidValueError


class Multiplications:
    """The number of multiplications that one weight of each layer costs per example.

    All forward passes in training until the end of the first optimizer step are looked at, by hooks that are gone
    afterwards; a layer that none of them calls keeps its hook until one does. Calls of a layer in one pass, and of
    layers that share a weight, add up. The number of examples is that of the layer that is called first: a layer that
    folds positions into the batch dimension is told rightly then, and so is the ratio of two layers in any case.

    Layers inside of what is compiled are looked at in a first step that PyTorch 2.6 and later run uncompiled; what
    earlier versions compile stays unknown, as does a layer whose weight is used without calling it.

    Args:
        parameters: The weights by name.
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self._parameters = dict(parameters)
        self._known: dict[str, float] = {}
        self._reset()

    def _reset(self) -> None:
        self._handles: dict[_Hook, RemovableHandle] = {}
        self._stance: Any = None
        self._forget_passes()

    def _forget_passes(self) -> None:
        self._totals: dict[str, Fraction] = {}
        self._first: _Hook | None = None
        self._examples = 0

    @property
    def known(self) -> dict[str, float]:
        """Multiplications per example of one weight, > 0, by the name of the weight, as far as they are known."""
        return {name: self._known[name] for name in self._parameters if name in self._known}

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """None: of this watcher of steps none is told apart."""
        return ()

    def learn(self, model: nn.Module) -> None:
        """Look at the forward passes of a model, unless all is known or this looks at them already."""
        if self._handles or len(self._known) == len(self._parameters):
            return
        compiled = compiled_modules(model)
        # A run that is resumed has had its first step: the next ones are compiled, as they are without a break.
        can_wait = hasattr(torch.compiler, "set_stance") and not self._known
        for module, locals_ in _uses(model, self._parameters):
            if can_wait or id(module) not in compiled:
                hook = _Hook(self._note, locals_)
                self._handles[hook] = module.register_forward_hook(hook, with_kwargs=True)
        if compiled and can_wait:  # compiled code calls no hooks
            self._stance = torch.compiler.set_stance("force_eager")
        watch_steps(self)

    def stop(self) -> None:
        """Look at no further passes; what is known stays."""
        self._end_first_step()
        for handle in self._handles.values():
            handle.remove()
        self._reset()

    def _end_first_step(self) -> None:
        unwatch_steps(self)
        stance, self._stance = self._stance, None
        if stance is not None:
            stance.__exit__(None, None, None)

    def _note(self, hook: _Hook, module: nn.Module, arguments: Any, options: Mapping[str, Any], output: Any) -> None:
        """Add what a call costs."""
        if self._first is None:
            self._first = hook
        axes = {name: self._parameters[name].dim() - 2 for name in hook.names.values()}
        for local, name in hook.names.items():
            found = products(module, local, axes[name], arguments, options, output)
            self._totals[name] = self._totals.get(name, Fraction(0)) + found
        if self._first is hook:
            self._examples += examples(module, max(axes.values()), arguments, options)

    def before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Do nothing: a closure's forward pass is yet to come."""

    def after_step(self, optimizer: Optimizer) -> None:
        """Settle what the step has told, if it was one of these weights."""
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if self._totals and not stepped.isdisjoint(map(id, self._parameters.values())):
            self._settle()

    def _settle(self) -> None:
        """Compute the numbers that are new, and look at no layer again whose numbers are known."""
        for name, total in self._totals.items():
            if total and self._examples:
                self._known.setdefault(name, float(total / self._examples))
        self._forget_passes()
        if len(self._known) == len(self._parameters):
            self.stop()
            return
        self._end_first_step()
        for hook in [hook for hook in self._handles if self._known.keys() >= set(hook.names.values())]:
            self._handles.pop(hook).remove()

    def agree(self) -> None:
        """Settle what was seen, and take over the numbers of the first of the processes that train together.

        Batches of several processes may differ in the size of their examples. All of them must call this.
        """
        if self._totals:
            self._settle()
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not distributed or torch.distributed.get_world_size() == 1 or not self._parameters:
            return
        device = next(iter(self._parameters.values())).device
        numbers = torch.tensor([self._known.get(name, nan) for name in self._parameters], dtype=torch.float64)
        numbers = numbers.to(device)
        torch.distributed.broadcast(numbers, src=0)
        agreed = dict(zip(self._parameters, numbers.tolist(), strict=True))
        self._known = {name: number for name, number in agreed.items() if isfinite(number)}
        if len(self._known) == len(self._parameters):
            self.stop()

    def signal(self, name: str, evidence: Mapping[str, Callable[[str], Tensor | None]]) -> dict[str, Tensor]:
        """Return the number of a weight as a signal, zero-dimensional, on its device; nothing if it is not known.

        Of a layer that was not called, as others were, it is 1 if it has no momentum and no gradient either.

        Args:
            name: Name of the weight.
            evidence: Functions of the name that return its momentum and its gradient.
        """
        number = self._known.get(name)
        if number is None and self._known and not any(_is_nonzero(read(name)) for read in evidence.values()):
            number = 1.0
        if number is None:
            return {}
        device = self._parameters[name].device
        # Filled in on the device: copying it there would synchronize.
        return {MULTIPLICATIONS: torch.full((), number, dtype=widest_float(device), device=device)}

    def state_dict(self) -> dict[str, Any]:
        """Return what is known, for the state of a network; nothing of a run that doesn't ask for it."""
        return {MULTIPLICATIONS: self.known} if self._known else {}

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise a ValueError if the state of a network has numbers of other weights, or none at all in their place."""
        numbers = state.get(MULTIPLICATIONS, {})
        if not isinstance(numbers, Mapping) or not all(
            name in self._parameters and isinstance(number, float) and isfinite(number) and number > 0
            for name, number in numbers.items()
        ):
            raise InvalidValueError(
                expected="the multiplications of the masked weights in the state, numbers > 0",
                got=repr(numbers)[:80],
                cure="load the state of a run with the same model",
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a checked state; what it doesn't have is still to be learned."""
        self._known = dict(state.get(MULTIPLICATIONS, {}))
        self._forget_passes()
        if len(self._known) == len(self._parameters):
            self.stop()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: it looks at no passes."""
        return {"_parameters": self._parameters, "_known": self._known}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


class _Hook:
    """Hook after the calls of one layer in training. In a copy of the model there is one that does nothing.

    Args:
        note: Function that is told of a call.
        names: Names of the weights by their names in the layer.
    """

    def __init__(self, note: Callable[..., None], names: Mapping[str, str]) -> None:
        self._note, self.names = note, names

    def __call__(self, module: nn.Module, arguments: Any, options: dict[str, Any], output: Any) -> None:
        # Compiled code would take this up. What is computed again in a backward pass was counted in the forward pass.
        if torch.compiler.is_compiling() or torch._C._current_graph_task_id() != -1:
            return
        if module.training or torch.is_grad_enabled():
            self._note(self, module, arguments, options, output)

    def __reduce__(self) -> Any:
        return _hook_of_a_copy, ()


def _hook_of_a_copy() -> Callable[..., None]:
    return _ignore


def _ignore(*_: Any) -> None:
    """Take no note of a call."""


def _uses(model: nn.Module, parameters: Mapping[str, Parameter]) -> Iterator[tuple[nn.Module, dict[str, str]]]:
    """Yield the modules that compute with some of the weights, with their names by those in the module."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    for module in model.modules():
        if isinstance(module, NonDynamicallyQuantizableLinear):  # of attention, which doesn't call it
            continue
        own: dict[str, Any] = dict(module._parameters)
        if isinstance(module, nn.MultiheadAttention):
            own["out_proj.weight"] = module.out_proj.weight
        if found := {local: names[id(value)] for local, value in own.items() if id(value) in names}:
            yield module, found


def _is_nonzero(values: Tensor | None) -> bool:
    return values is not None and bool(torch.count_nonzero(values))
