"""A sparse network whose masked layers are computed by sparse kernels, in any loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_sparse.execution.chains import MaskedWeight
from lightning_sparse.execution.forward_replacement import ReplacedForward, replace_forward, replaced_forward
from lightning_sparse.execution.kernels.library import why_unavailable
from lightning_sparse.execution.programs.choices import AllOfThem, TheFaster
from lightning_sparse.execution.programs.compiled import Part
from lightning_sparse.execution.programs.program import Program
from lightning_sparse.execution.programs.surroundings import runs_its_class
from lightning_sparse.network import SparseNetwork
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError
from lightning_sparse.validation.representation import short_text

Kernels = Literal["auto", "always"]


def execute(
    network: SparseNetwork, *, kernels: Kernels = "auto", choices: Mapping[str, bool] | None = None
) -> NetworkExecution:
    """Compute the masked layers of a network by sparse kernels, forward and backward, from now on.

    Parameters, their names, checkpoints, optimizers and hooks stay what they are. Linear and two-dimensional
    convolutional layers in float32 on the CPU have kernels; convolutions, batch normalization, ReLU, pooling, residual
    sums and linear layers that follow each other run as one operation. Whatever else there is runs as it did: other
    layers, devices and types, autocast, compiled modules, copies of the model.

    The gradient of an inactive weight is zero then. A rule that grows weights by momentum or gradient needs the real
    one: set `is_dense` for some steps before each topology update, see `dense_steps`. `SparseExecution` does that by
    itself, beside a sparse-training callback.

    Args:
        network: The network.
        kernels: "auto" to time each part of the network at its first batch, as PyTorch runs it and by kernels, and to
            take the faster; "always" to take the kernels wherever there are some, so that rounding doesn't depend on a
            timing.
        choices: Choices of an earlier execution, its `choices`, to make again instead of timing.

    Returns:
        The handle: `undo()` ends it, as the end of a `with` block does.

    Raises:
        ValueError: If `kernels` is unknown, or the network is executed already.
        TypeError: If there is no network.

    >>> import torch
    >>> network = SparseNetwork(torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()), density=0.1)
    >>> inputs = torch.randn(16, 64)
    >>> expected = network.model(inputs)
    >>> with execute(network, kernels="always"):
    ...     torch.allclose(network.model(inputs), expected, atol=1e-5)
    True
    """
    if not isinstance(network, SparseNetwork):
        raise InvalidTypeError(expected="a SparseNetwork", got=short_text(network), cure="SparseNetwork(model, 0.05)")
    return NetworkExecution(network, check_kernels(kernels), choices)


def check_kernels(kernels: Kernels) -> Kernels:
    """Return the argument.

    Raises:
        ValueError: If it is unknown.
    """
    if kernels not in ("auto", "always"):
        raise InvalidValueError(expected="kernels 'auto' or 'always'", got=repr(kernels), cure="'auto' times both")
    return kernels


class NetworkExecution:
    """Handle of a network that is computed by sparse kernels, made by `execute`.

    Args:
        network: The network.
        kernels: "auto" or "always".
        choices: Choices to make again.

    Attributes:
        network: The network.
    """

    def __init__(self, network: SparseNetwork, kernels: Kernels, choices: Mapping[str, bool] | None) -> None:
        self.network = network
        self._choice = TheFaster(dict(choices or {})) if kernels == "auto" else AllOfThem()
        masked = {name: weight for name, weight in network.maskable.items() if network.local_mask(name) is not None}
        # The parameters live as long as this: their ids are theirs.
        self._names = {id(weight): name for name, weight in masked.items()}
        self._weights: dict[int, MaskedWeight[Any]] = {}
        self._is_dense = False
        self.why_unavailable = why_unavailable()
        self._programs: dict[str, Program] = {}
        self._handles: list[ReplacedForward] = []
        if self.why_unavailable:
            return
        try:
            self._handles.extend(self._replaced())
        except BaseException:
            self.undo()
            raise

    def _replaced(self) -> Iterator[Any]:
        """Replace the forward of every module that has masked layers, and of the layers."""
        for name, module in self.network.model.named_modules():
            if isinstance(module, torch.jit.ScriptModule) or not any(map(self._is_masked, module.modules())):
                continue
            known = replaced_forward(module)
            if known is not None and isinstance(known.run, Program):
                raise InvalidValueError(
                    expected="a network that is computed as it is",
                    got="one that is executed already",
                    cure="undo() the first execution",
                )
            if known is None and type(module) is not nn.modules.linear.NonDynamicallyQuantizableLinear:
                program = Program(self._weight_of, self._is_masked, self._choice, name)
                self._programs[name] = program
                yield replace_forward(module, program)

    def _is_masked(self, module: nn.Module) -> bool:
        weight = module._parameters.get("weight")
        return weight is not None and id(weight) in self._names and runs_its_class(module)

    def _weight_of(self, parameter: nn.Parameter) -> MaskedWeight[Any]:
        found = self._weights.get(id(parameter))
        if found is None:
            name = self._names.get(id(parameter))
            if name is None:
                return MaskedWeight(parameter, partial(torch.ones, parameter.shape, dtype=torch.bool))
            found = MaskedWeight(parameter, partial(self._mask, name), partial(_version, self.network))
            self._weights[id(parameter)] = found
        return found

    def _mask(self, name: str) -> Tensor:
        mask = self.network.local_mask(name)
        assert mask is not None
        return mask.bool().contiguous()

    @property
    def is_dense(self) -> bool:
        """Whether all is computed as PyTorch does while gradients are, so that inactive weights have theirs."""
        return self._is_dense

    @is_dense.setter
    def is_dense(self, value: bool) -> None:
        self._is_dense = bool(value)
        for program in self._programs.values():
            program.is_dense = self._is_dense

    @property
    def choices(self) -> dict[str, bool]:
        """Whether each part that was timed runs by kernels, by the part's name; empty for "always"."""
        return dict(self._choice.chosen) if isinstance(self._choice, TheFaster) else {}

    def undo(self) -> None:
        """Compute the network as PyTorch does again; the second time, do nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._programs = [], {}

    def __enter__(self) -> NetworkExecution:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def report(self) -> list[str]:
        """Return a line on each part that runs by kernels, and on each masked layer that doesn't, with the reason.

        It tells about training; about evaluation, if the network was not trained yet.
        """
        if self.why_unavailable:
            return [f"Sparse execution: all layers run dense, as {self.why_unavailable}."]
        parts = [part for program in self._programs.values() for part in program.parts]
        parts = [part for part in parts if part.in_training] or parts
        lines, covered = list[str](), set[int]()
        for part in parts:  # those of containers come first
            if self._is_sparse(part) and not covered.issuperset(map(id, part.modules)):
                covered |= {id(module) for module in part.modules}
                lines.append(f"{_shown(part.name)}, {len(part.modules)} modules: sparse{self._times(part)}.")
        layers = {id(module): name for name, module in self.network.model.named_modules() if self._is_masked(module)}
        rest = {name or "The layer": name for key, name in layers.items() if key not in covered}
        return [*lines, *(f"{shown}: dense, as {self._why_dense(name)}." for shown, name in rest.items())]

    def _is_sparse(self, part: Part) -> bool:
        if not isinstance(self._choice, TheFaster):
            return part.has_chain
        return any(self._choice.chosen[name] for name in self._choice.chosen if name.startswith(f"{part.name} ["))

    def _times(self, part: Part) -> str:
        timings = self._choice.timings if isinstance(self._choice, TheFaster) else {}
        found = [timing for name, timing in timings.items() if name.startswith(f"{part.name} [")]
        each = [f"{1000 * timing.sparse:.3g} ms by kernels, {1000 * timing.dense:.3g} without" for timing in found]
        return f" ({'; '.join(each)})" if each else ""

    def _why_dense(self, name: str) -> str:
        program = self._programs.get(name)
        if program is None:
            return "something else has replaced its forward"
        parts = [part for part in program.parts if part.has_chain]
        if parts:
            return f"that was faster{self._times(parts[0])}"
        reasons = [program.reason, *(part.reason for part in program.parts)]
        return next((why for why in reasons if why), "it was not called with tensors that kernels take")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.network.model).__name__}, {len(self._handles)} modules)"


def _shown(name: str) -> str:
    return f"the model, part {name[1:]}" if name.startswith("#") else name.replace("#", ", part ") or "the model"


def _version(network: SparseNetwork) -> int:
    return network.mask_version
