"""Forward and backward pass of a training step as one CUDA graph, launched at once instead of kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_sparse._compat import Trainer
from lightning_sparse.validation.errors import InvalidStateError

# Steps before one is recorded; in these, libraries choose their algorithms and networks are compiled.
_WARMUP_STEPS = 3


class GraphedStep:
    """Computes the loss of a batch and the gradients of a network by replaying a recorded step.

    Python launches the kernels of a step one by one, which takes longer than the kernels of a small network run. A
    CUDA graph of them is launched at once: the same kernels on the same memory, so that the numbers are the same.
    Python code in the forward pass runs only while recording: a replay calls no forward hooks and ignores a dropout
    rate that has changed since.

    Every step, a warm-up step too, leaves the gradients of its batch alone in ``.grad``, as if earlier gradients had
    been dropped and ``backward`` called on the returned loss.

    Copying or unpickling it gives None: a recording belongs to one network in one process.

    Args:
        network: Network on a CUDA device. A step is recorded again, after new warm-up steps, when parameters or buffers
            were replaced, frozen or unfrozen, or layers changed between training and evaluation mode.
        loss: Function from images and labels of a batch to their mean loss, a scalar; it calls the network.
    """

    def __init__(self, network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._network, self._loss_of = network, loss
        self._layers, self._parameters = list(network.modules()), list(network.parameters())
        self._recorded_layout: object = None
        self._steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream: torch.cuda.Stream | None = None

    def rescan_layers(self) -> None:
        """Find layers that were added or removed, which would take too long in every step."""
        self._layers, self._parameters = list(self._network.modules()), list(self._network.parameters())

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch, detached. The next step overwrites it.

        Args:
            images: Images of any shape, preferably the same in all steps.
            labels: Labels for the loss function.

        Raises:
            RuntimeError: If a step can't be recorded.
        """
        layout = (_layout(images), _layout(labels), self._network_layout())
        if layout != self._recorded_layout:
            self._recorded_layout, self._steps, self._graph = layout, 0, None
        if self._steps < _WARMUP_STEPS:
            self._steps += 1
            return self._compute_on_side_stream(images, labels)
        if self._graph is None:
            self._record(images, labels)
        else:
            self._images.copy_(images)
            self._labels.copy_(labels)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        self._graph.replay()  # type: ignore[union-attr]  # recorded by now
        return self._loss

    def _compute_on_side_stream(self, images: Tensor, labels: Tensor) -> Tensor:
        """Compute on a side stream, as CUDA requires of the steps before a recording."""
        current, self._stream = torch.cuda.current_stream(), self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]  # PyTorch's
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            loss = self._compute(images, labels)
        current.wait_stream(self._stream)
        return loss

    def _record(self, images: Tensor, labels: Tensor) -> None:
        self._images, self._labels = images.clone(), labels.clone()
        try:
            self._graph, self._loss = _record_graph(lambda: self._compute(self._images, self._labels), self._stream)
        except RuntimeError as error:
            raise InvalidStateError(
                expected=(
                    "a network whose training step can be recorded as a CUDA graph, which doesn't wait for "
                    "the device in its forward or backward pass"
                ),
                got=repr(error),
                cure="cuda_graph=False",
            ) from error
        self._gradients = [parameter.grad for parameter in self._parameters]

    def _compute(self, images: Tensor, labels: Tensor) -> Tensor:
        for parameter in self._parameters:
            parameter.grad = None
        # Without the cache, which would keep 16-bit copies of weights from one step to the next.
        dtype, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        with torch.autocast("cuda", dtype, enabled, cache_enabled=False):
            loss = self._loss_of(images, labels)
        with torch.autocast("cuda", enabled=False):
            loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's
        return loss.detach()

    def _network_layout(self) -> object:
        """Return all that a recording depends on besides the batch."""
        parameters = [tensor for layer in self._layers for tensor in layer._parameters.values() if tensor is not None]
        buffers = [tensor for layer in self._layers for tensor in layer._buffers.values() if tensor is not None]
        return (
            [(parameter.data_ptr(), parameter.requires_grad) for parameter in parameters],
            [buffer.data_ptr() for buffer in buffers],
            [layer.training for layer in self._layers],
            torch.is_autocast_enabled("cuda"),
        )

    def __deepcopy__(self, memo: object) -> None:
        """Return None."""

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Become None."""
        return type(None), ()


def supports_replay(trainer: Trainer) -> bool:
    """Tell whether a Trainer trains on a single CUDA device without a gradient scaler, as a replay must."""
    has_one_device = type(trainer.strategy).__name__ == "SingleDeviceStrategy"
    has_scaler = getattr(trainer.precision_plugin, "scaler", None) is not None
    return trainer.strategy.root_device.type == "cuda" and has_one_device and not has_scaler


def _layout(tensor: Tensor) -> object:
    return tensor.shape, tensor.stride(), tensor.dtype


def _record_graph(
    compute: Callable[[], Tensor], stream: torch.cuda.Stream | None
) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """Record a computation without running it; return the graph and the tensor that will hold its result."""
    graph = torch.cuda.CUDAGraph()
    # Ignore other threads, such as a data loader's that pins memory.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        result = compute()
    return graph, result
