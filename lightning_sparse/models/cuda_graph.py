"""Forward and backward pass of a training step as one CUDA graph: launched at once, not kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_sparse._compat import Trainer
from lightning_sparse.validation.errors import InvalidStateError

# Steps before one is recorded: libraries choose their algorithms, and what is to be compiled is, at the first ones.
_STEPS_BEFORE = 3


class GraphedStep:
    """Computes the loss of a batch and the gradients of a network, by replaying a recording of how it is done.

    Python launches the kernels of a step one by one, which takes longer than the kernels of a small network run. A
    CUDA graph of them is launched at once: the same kernels on the same memory, so that the numbers are the same. What
    Python does in a step is not repeated: forward hooks are not called, and a dropout rate that was changed since is
    not looked at.

    The first steps, of which none is recorded, leave the same behind: gradients in ``.grad``, as if ``backward`` had
    been called on what is returned, and nothing of earlier gradients.

    A copy of it, and what is unpickled from it, is None: recordings belong to one network in one process.

    Args:
        network: On a CUDA device. It is recorded anew, after as many first steps, when parameters or buffers of its
            layers are other tensors than before, are frozen or not any more, or layers are in another mode.
        loss: Maps a batch of images and labels to the mean loss over it, a scalar, by calling the network.
    """

    def __init__(self, network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._network, self._loss_of = network, loss
        self._layers, self._parameters = list(network.modules()), list(network.parameters())
        self._kind: object = None
        self._steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream: torch.cuda.Stream | None = None

    def look_again(self) -> None:
        """Notice layers that were added or removed: what takes too long to look for in every step."""
        self._layers, self._parameters = list(self._network.modules()), list(self._network.parameters())

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch, without its history. It is overwritten in the next step.

        Args:
            images: Any shape; that of one step after the other should be the same.
            labels: As the loss takes them.

        Raises:
            RuntimeError: If a step can't be recorded.
        """
        kind = (_layout(images), _layout(labels), self._surroundings())
        if kind != self._kind:
            self._kind, self._steps, self._graph = kind, 0, None
        if self._steps < _STEPS_BEFORE:
            self._steps += 1
            return self._aside(images, labels)
        if self._graph is None:
            self._record(images, labels)
        else:
            self._images.copy_(images)
            self._labels.copy_(labels)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        self._graph.replay()  # type: ignore[union-attr]  # recorded by now
        return self._loss

    def _aside(self, images: Tensor, labels: Tensor) -> Tensor:
        """Compute on another stream than the current one, as what is to be recorded later must have been."""
        now, self._stream = torch.cuda.current_stream(), self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]  # PyTorch's
        self._stream.wait_stream(now)
        with torch.cuda.stream(self._stream):
            loss = self._compute(images, labels)
        now.wait_stream(self._stream)
        return loss

    def _record(self, images: Tensor, labels: Tensor) -> None:
        self._images, self._labels = images.clone(), labels.clone()
        try:
            self._graph, self._loss = _recording(lambda: self._compute(self._images, self._labels), self._stream)
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

    def _surroundings(self) -> object:
        """Return what a recording depends on besides the batch."""
        parameters = [each for layer in self._layers for each in layer._parameters.values() if each is not None]
        buffers = [each for layer in self._layers for each in layer._buffers.values() if each is not None]
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


def takes_plain_steps(trainer: Trainer) -> bool:
    """Tell whether a Trainer takes steps on one CUDA device, with gradients as they are."""
    is_alone = type(trainer.strategy).__name__ == "SingleDeviceStrategy"
    has_scaler = getattr(trainer.precision_plugin, "scaler", None) is not None
    return trainer.strategy.root_device.type == "cuda" and is_alone and not has_scaler


def _layout(tensor: Tensor) -> object:
    return tensor.shape, tensor.stride(), tensor.dtype


def _recording(compute: Callable[[], Tensor], stream: torch.cuda.Stream | None) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """Return a recording of a computation, which is not carried out, and where its result will be."""
    graph = torch.cuda.CUDAGraph()
    # What other threads do meanwhile, such as a data loader's that pins memory, is none of its business.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        result = compute()
    return graph, result
