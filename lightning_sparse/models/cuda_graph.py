"""Forward and backward pass of a training step as one CUDA graph: launched at once, not kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn

# Steps before one is recorded: libraries choose their algorithms, and what is to be compiled is, at the first ones.
_STEPS_BEFORE = 3


class GraphedStep:
    """Computes the loss of a batch and the gradients of a network, by replaying a recording of how it is done.

    Python launches the kernels of a step one by one, which takes longer than the kernels of a small network run. A
    CUDA graph of them is launched at once: the same kernels on the same memory, so that the numbers are the same. What
    Python does in a step is not repeated: forward hooks, for instance, see the first steps only.

    The first steps, of which none is recorded, leave the same behind: gradients in ``.grad``, as if ``backward`` had
    been called on what is returned, and nothing of earlier gradients.

    A copy of it, and what is unpickled from it, is None: recordings belong to one network in one process.

    Args:
        network: On a CUDA device. It is recorded anew when its parameters or buffers are other tensors than before, or
            it is in another mode.
        loss: Maps a batch of images and labels to the mean loss over it, a scalar, by calling the network.
    """

    def __init__(self, network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._modules, self._loss_of = list(network.modules()), loss
        self._parameters, self._buffers = list(network.parameters()), list(network.buffers())
        self._shapes: Hashable = None
        self._recorded: Hashable = None
        self._steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch, without its history. It is overwritten in the next step.

        Args:
            images: Any shape; that of one step after the other should be the same.
            labels: As the loss takes them.
        """
        shapes = (images.shape, images.stride(), images.dtype, labels.shape, labels.dtype)
        if shapes != self._shapes:
            self._shapes, self._steps, self._graph = shapes, 0, None
        if self._steps < _STEPS_BEFORE:
            self._steps += 1
            return self._aside(images, labels)
        if self._graph is None or self._recorded != self._surroundings():
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
        self._recorded = self._surroundings()
        self._images, self._labels = images.clone(), labels.clone()
        self._graph, self._loss = _recording(lambda: self._compute(self._images, self._labels))
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

    def _surroundings(self) -> Hashable:
        """Return what a recording depends on besides the batch's shape."""
        return (
            [parameter.data_ptr() for parameter in self._parameters],
            [parameter.requires_grad for parameter in self._parameters],
            [buffer.data_ptr() for buffer in self._buffers],
            [module.training for module in self._modules],
            torch.is_autocast_enabled("cuda"),
        )

    def __deepcopy__(self, memo: object) -> None:
        """Return None."""

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Become None."""
        return type(None), ()


def _recording(compute: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """Return a recording of a computation, which is not carried out, and where its result will be."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = compute()
    return graph, result
