"""Evaluation of a module in the middle of a run that doesn't change the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_sparse._compat import LightningModule, Trainer
from lightning_sparse.callbacks.probing.random_state import host_states, set_host_states


@contextmanager
def isolated_evaluation(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """Evaluate a module without gradients, and restore what that changes.

    Restored are the training mode of each module, buffers such as batch statistics, the random states of PyTorch (also
    on devices), of Python and of NumPy, and the Trainer's stage. Within, the Trainer is not training, so that hooks
    don't augment, nothing runs compiled, so that forward hooks of layers are called, and all processes have the buffers
    of rank zero, which are validated and saved.
    """
    with ExitStack() as stack:
        for context in (
            _evaluation_mode(pl_module),
            _restored_buffers(trainer, pl_module),
            _restored_random_states(),
            _restored_stage(trainer),
            not_compiled(),
        ):
            stack.enter_context(context)
        # A test runs in inference mode, whose tensors could not be changed later. Leaving it turns gradients on.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        yield


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    # The flags are set directly: a module's own train() and eval() may do more than can be restored.
    modes = {layer: layer.training for layer in module.modules()}
    for layer in modes:
        layer.training = False
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode


@contextmanager
def _restored_buffers(trainer: Trainer, module: nn.Module) -> Iterator[None]:
    saved = [
        (owner, name, buffer, buffer.clone())
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
        if not is_lazy(buffer)
    ]
    try:
        if trainer.world_size > 1:
            for owner, name, buffer, _ in saved:
                received = buffer.contiguous()
                torch.distributed.broadcast(received, src=0)
                _set_buffer(owner, name, buffer, received)
        yield
    finally:
        for owner, name, buffer, values in saved:
            _set_buffer(owner, name, buffer, values)


def _set_buffer(owner: nn.Module, name: str, buffer: Tensor, values: Tensor) -> None:
    """Write values to a buffer of a module, or replace the buffer by them if it can't be written to."""
    try:
        with torch.no_grad():
            owner._buffers[name] = buffer if buffer is values else buffer.copy_(values)
    except Exception:  # of an expanded tensor, for one; it must not hide an error of the measurement
        owner._buffers[name] = buffer if _are_equal(buffer, values) else values


def _are_equal(left: Tensor, right: Tensor) -> bool:
    try:
        return left.shape == right.shape and bool(((left == right) | ((left != left) & (right != right))).all())
    except Exception:  # of a tensor that can't be compared, as above
        return False


# Not Lightning's isolate_rng: it restores nothing after an error, leaves MPS out, and initializes CUDA where a GPU is
# there but not used.
@contextmanager
def _restored_random_states() -> Iterator[None]:
    host = host_states()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]  # PyTorch's own
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        set_host_states(host)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


@contextmanager
def _restored_stage(trainer: Trainer) -> Iterator[None]:
    stage = trainer.state.stage
    if trainer.training:
        trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = stage


def not_compiled() -> AbstractContextManager[object]:
    """Run compiled code eagerly, and compile nothing."""
    # Before PyTorch 2.6, which has no stances, code is compiled again for layers that got a hook.
    set_stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if set_stance is None else set_stance("force_eager")
