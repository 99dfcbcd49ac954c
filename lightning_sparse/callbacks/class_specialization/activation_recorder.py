"""Forward hooks that accumulate the activations of layers in metrics."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.analysis.class_specialization import ClassSpecialization
from lightning_sparse.selection.patterns import name_list
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda features: features, "relu": torch.relu}


class ActivationRecorder:
    """Updates one metric per layer with the outputs of its calls.

    Args:
        layers: Modules by name.
        new_metric: Factory of metrics.
        activation: Name of the function in `ACTIVATIONS` that is applied to outputs first.

    Attributes:
        labels: Labels of the current batch; set them before each forward pass.
        metrics: Metrics of the layers that were called, by name.
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], new_metric: Callable[[], ClassSpecialization], activation: str
    ) -> None:
        self.labels = torch.empty(0, dtype=torch.int64)
        self.metrics: dict[str, ClassSpecialization] = {}
        self._layers, self._new_metric, self._activation = layers, new_metric, ACTIVATIONS[activation]

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the outputs of all calls inside a `with` block."""
        with ExitStack() as stack:
            for name, module in self._layers.items():
                stack.callback(module.register_forward_hook(partial(self._record_output, name)).remove)
            yield

    def _record_output(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise InvalidTypeError(
                expected="a layer whose output is a tensor",
                got=f"a {type(output).__name__} from {name!r}",
                cure="choose other layers",
            )
        features = _with_float64(self._activation(output))
        if isinstance(module, nn.Linear):  # channels come last
            features = features.movedim(-1, 1)
        if name not in self.metrics:
            self.metrics[name] = self._new_metric().to(features.device)
        try:
            self.metrics[name].update(features, self.labels.to(features.device))
        except (TypeError, ValueError) as error:
            raise type(error)(f"In layer {name!r}: {error}") from error

    @property
    def channels(self) -> dict[str, int]:
        """Number of channels of each layer that was called."""
        return {name: len(metric.activity) for name, metric in self.metrics.items()}

    def compute(self, channels: Mapping[str, int], device: torch.device) -> dict[str, dict[str, Tensor]]:
        """Return the result of each metric, on the CPU, in the order of the layers.

        Args:
            channels: Number of channels of each layer that was called in any process.
            device: Device for communication between processes.

        Raises:
            ValueError: If features were not finite, or labels out of range.
        """
        return {name: self._compute_layer(name, channels[name], device) for name in self._layers if name in channels}

    def _compute_layer(self, name: str, channels: int, device: torch.device) -> dict[str, Tensor]:
        metric = self.metrics[name] if name in self.metrics else self._new_metric().to(device)
        if not metric.update_called:  # the layer was called in other processes only
            empty = torch.empty(0, channels, device=device), torch.empty(0, dtype=torch.int64, device=device)
            metric.update(*empty)
        try:
            computed = metric.compute()
        except ValueError as error:
            raise ValueError(f"In layer {name!r}: {error}") from error
        flat = {"specialization", "activity_share"}  # of a single channel they are scalars
        return {key: value.cpu().reshape(-1) if key in flat else value.cpu() for key, value in computed.items()}


def _with_float64(features: Tensor) -> Tensor:
    """Return features on a device with double precision, which Apple's devices (MPS) don't have."""
    return features.cpu() if features.device.type == "mps" else features


def check_called(layers: Sequence[str], called: Container[str], *, warns: bool) -> None:
    """Raise if no layer was called, and warn of some that were not.

    Raises:
        ValueError: If none of the layers was called.
    """
    missing = [name for name in layers if name not in called]
    if len(missing) == len(layers):
        raise InvalidValueError(
            expected="data and layers that forward calls",
            got=f"no call of {name_list(missing)}",
            cure="choose other layers, give data that is not empty, or override forward to pass images through them",
        )
    if missing and warns:
        warnings.warn(
            f"Expected layers that forward calls; got no call of {name_list(missing)}, which are left out. Cure: "
            "choose the others with layers.",
            stacklevel=2,
        )
