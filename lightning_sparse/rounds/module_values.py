"""The values of a module: of all parameters and buffers, masked or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.selection.patterns import name_list
from lightning_sparse.validation.errors import InvalidValueError


@dataclass(frozen=True, eq=False)
class ModuleValues:
    """Copies of all parameters and buffers of a module, on the CPU.

    Attributes:
        parameters: Values by parameter name.
        buffers: Values by buffer name, of buffers that aren't saved with the module, too; None for an empty one.
    """

    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor | None]

    @classmethod
    def of(cls, module: nn.Module) -> ModuleValues:
        """Return the present values of a module."""
        return cls(
            {name: _copy(parameter) for name, parameter in module.named_parameters()},
            {
                _join(path, local): None if buffer is None else _copy(buffer)
                for path, part in module.named_modules()
                for local, buffer in part._buffers.items()
            },
        )

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> ModuleValues:
        """Return the values that `to_plain` returned; copies, as those of a file may be mapped."""
        return cls(
            {name: _copy(value) for name, value in values["parameters"].items()},
            {name: None if value is None else _copy(value) for name, value in values["buffers"].items()},
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the values as a dictionary of tensors."""
        return {"parameters": dict(self.parameters), "buffers": dict(self.buffers)}

    def check_fit(self, module: nn.Module) -> None:
        """Raise unless a module has the parameters that these are values of.

        Raises:
            ValueError: With the names of parameters that are new, gone, or of another shape.
        """
        theirs = {name: parameter.shape for name, parameter in module.named_parameters()}
        ours = {name: values.shape for name, values in self.parameters.items()}
        if different := [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]:
            raise InvalidValueError(
                expected="the parameters that the module had in the first round, to set back to their values of then",
                got=f"others, or of another shape: {name_list(different)}",
                cure="make all layers before the first round, and pass the same architecture to resume",
            )

    def restore(self, module: nn.Module) -> None:
        """Set all parameters and buffers of a module to these values.

        Raises:
            ValueError: If it has other parameters. Then nothing is changed.
        """
        self.check_fit(module)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(self.parameters[name])
            self.restore_buffers(module)

    def restore_fixed(self, module: nn.Module) -> None:
        """Do so for frozen parameters and all buffers only."""
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if not parameter.requires_grad:
                    parameter.copy_(self.parameters[name])
            self.restore_buffers(module)

    def restore_buffers(self, module: nn.Module) -> None:
        """Set all buffers of a module to these values; those that came later are removed."""
        home = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
        for path, part in module.named_modules():
            for local, buffer in [*part._buffers.items()]:
                name = _join(path, local)
                if name not in self.buffers:
                    del part._buffers[local]
                    continue
                value = self.buffers[name]
                if value is None or buffer is None or not _can_hold(buffer, value):
                    part._buffers[local] = None if value is None else value.clone().to(_home(buffer, home))
                else:
                    buffer.copy_(value)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _can_hold(buffer: Tensor, value: Tensor) -> bool:
    """Tell whether a buffer can be overwritten: those that an evaluation made in inference mode can't."""
    return buffer.shape == value.shape and buffer.dtype == value.dtype and not buffer.is_inference()


def _home(buffer: Tensor | None, default: torch.device) -> torch.device:
    return default if buffer is None else buffer.device


def _join(path: str, local: str) -> str:
    return f"{path}.{local}" if path else local
