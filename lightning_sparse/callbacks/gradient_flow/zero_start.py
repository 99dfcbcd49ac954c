"""Networks that start at zero, in which hardly any layer has a gradient at first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_sparse.network.dtensor import to_local
from lightning_sparse.selection.names import named_parameters

# A branch scaled by this much still has a hundredth of its gradient.
_GROWN = 0.01


class ZeroStart:
    """Parameters other than biases that were zero when training began, such as a last layer or the scales of branches.

    A product with them is zero, and so is the gradient of every layer before them, until they have grown. Then the
    layers train like any others: their gradients have not vanished. A parameter that has no gradient itself doesn't
    grow, and explains nothing.

    Args:
        names: Names of the parameters, as `zero_parameters` returned them when training began.

    Attributes:
        names: These names.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._parameters: dict[str, nn.Parameter] = {}

    def __getstate__(self) -> dict[str, object]:
        """Return what a copy needs: a copy belongs to no run."""
        return {"names": self.names, "_parameters": {}}

    def begin(self, model: nn.Module) -> None:
        """Find the parameters in a model whose training begins or is resumed."""
        parameters = dict(named_parameters(model))
        self._parameters = {name: parameters[name] for name in self.names if name in parameters}

    @property
    def present(self) -> list[str]:
        """Names of those that the model still has."""
        return list(self._parameters)

    def gradients(self) -> list[Tensor | None]:
        """Return the parameters' present gradients."""
        return [parameter.grad for parameter in self._parameters.values()]

    def holds_back(self, gradients: Sequence[Tensor | None]) -> Tensor | None:
        """Return whether any of them is small and has a gradient, as a tensor on its device; None if there are none.

        Args:
            gradients: Gradients of the parameters.
        """
        small = [
            (_largest(parameter) <= _GROWN) & (to_local(gradient) != 0).any()
            for parameter, gradient in zip(self._parameters.values(), gradients, strict=True)
            if gradient is not None
        ]
        return torch.stack([each.to(small[0].device) for each in small]).any() if small else None

    def end(self) -> None:
        """Let go of the parameters; the names stay."""
        self._parameters = {}


def zero_parameters(model: nn.Module) -> list[str]:
    """Return the names of a model's trained parameters, biases left out, that are exactly zero."""
    parameters = [(name, parameter) for name, parameter in named_parameters(model) if _may_hold_back(name, parameter)]
    if not parameters:
        return []
    sizes = torch.stack([_largest(parameter).cpu().float() for _, parameter in parameters]).tolist()
    return [name for (name, _), size in zip(parameters, sizes, strict=True) if size == 0]


def _may_hold_back(name: str, parameter: nn.Parameter) -> bool:
    own = name.rpartition(".")[2]
    is_weight = "bias" not in own and not own.endswith("_orig")  # PyTorch's name for what it prunes
    return is_weight and parameter.requires_grad and not is_lazy(parameter) and parameter.is_floating_point()


def _largest(parameter: Tensor) -> Tensor:
    """Return the largest magnitude in the local part of a parameter; infinity if it is empty."""
    part = to_local(parameter.detach())
    return part.abs().amax() if part.numel() else torch.full((), torch.inf, device=part.device)
