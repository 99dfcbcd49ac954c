"""Layers of any module, by pattern, and what they put out."""

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
    """Adds what layers put out to a metric each.

    Args:
        layers: Modules by name.
        new_metric: Makes a metric.
        activation: What the outputs pass through first: a name in `ACTIVATIONS`.

    Attributes:
        labels: Of the batch that is passed.
        metrics: By name, of the layers that were called.
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], new_metric: Callable[[], ClassSpecialization], activation: str
    ) -> None:
        self.labels = torch.empty(0, dtype=torch.int64)
        self.metrics: dict[str, ClassSpecialization] = {}
        self._layers, self._new_metric, self._activation = layers, new_metric, ACTIVATIONS[activation]

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Follow the layers' calls."""
        with ExitStack() as stack:
            for name, module in self._layers.items():
                stack.callback(module.register_forward_hook(partial(self._record_output, name)).remove)
            yield

    def _record_output(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise InvalidTypeError(
                expected="a layer that puts out a tensor",
                got=f"a {type(output).__name__} from {name!r}",
                cure="choose other layers",
            )
        features = _countable(self._activation(output))
        if isinstance(module, nn.Linear):  # whose channels come last
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
        """Return what each metric computes, on the CPU, in the order of the layers.

        Args:
            channels: Of the layers that were called in any process.
            device: On which processes talk to each other.

        Raises:
            ValueError: If features were not finite, or labels out of range.
        """
        return {name: self._computed(name, channels[name], device) for name in self._layers if name in channels}

    def _computed(self, name: str, channels: int, device: torch.device) -> dict[str, Tensor]:
        metric = self.metrics[name] if name in self.metrics else self._new_metric().to(device)
        if not metric.update_called:  # but in another process
            empty = torch.empty(0, channels, device=device), torch.empty(0, dtype=torch.int64, device=device)
            metric.update(*empty)
        try:
            computed = metric.compute()
        except ValueError as error:
            raise ValueError(f"In layer {name!r}: {error}") from error
        flat = {"specialization", "activity_share"}  # scalars for a single channel
        return {key: value.cpu().reshape(-1) if key in flat else value.cpu() for key, value in computed.items()}


def _countable(features: Tensor) -> Tensor:
    """Return features where there are numbers of double precision, which Apple's devices don't have."""
    return features.cpu() if features.device.type == "mps" else features


def check_called(layers: Sequence[str], called: Container[str], *, warns: bool) -> None:
    """Raise if no layer was called, or warn of those that were not.

    Raises:
        ValueError: If there are layers, but none was called.
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
