"""A look at a module in the middle of a run that leaves no trace in it."""

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
    """Evaluate a module without gradients, and put back whatever that changes.

    Put back: which modules train, buffers such as batch statistics, the random states of PyTorch (also on devices), of
    Python and of NumPy, and the stage that the Trainer is in. Within, the Trainer is not training, so that hooks don't
    augment, nothing runs compiled, so that forward hooks of layers are called, and all processes have the buffers of
    the first, which are those that are validated and saved.
    """
    with ExitStack() as stack:
        for kept in (
            _modes(pl_module),
            _buffers(trainer, pl_module),
            _random_states(),
            _stage(trainer),
            not_compiled(),
        ):
            stack.enter_context(kept)
        # A test runs in inference mode, whose tensors could not be changed later. Leaving it turns gradients on.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        yield


@contextmanager
def _modes(module: nn.Module) -> Iterator[None]:
    # The flags themselves: methods that modules override may do more than can be put back.
    modes = {each: each.training for each in module.modules()}
    for each in modes:
        each.training = False
    try:
        yield
    finally:
        for each, mode in modes.items():
            each.training = mode


@contextmanager
def _buffers(trainer: Trainer, module: nn.Module) -> Iterator[None]:
    kept = [
        (owner, name, buffer, buffer.clone())
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
        if not is_lazy(buffer)
    ]
    try:
        if trainer.world_size > 1:
            for owner, name, buffer, _ in kept:
                told = buffer.contiguous()
                torch.distributed.broadcast(told, src=0)
                _put_in(owner, name, buffer, told)
        yield
    finally:
        for owner, name, buffer, values in kept:
            _put_in(owner, name, buffer, values)


def _put_in(owner: nn.Module, name: str, buffer: Tensor, values: Tensor) -> None:
    """Let a module have a buffer of its with some values; another tensor where the buffer can't be written to."""
    try:
        with torch.no_grad():
            owner._buffers[name] = buffer if buffer is values else buffer.copy_(values)
    except Exception:  # of an expanded tensor, for one; no error of this is to hide that of a measurement
        owner._buffers[name] = buffer if _are_the_same(buffer, values) else values


def _are_the_same(left: Tensor, right: Tensor) -> bool:
    try:
        return left.shape == right.shape and bool(((left == right) | ((left != left) & (right != right))).all())
    except Exception:  # of a tensor that can't be compared, as above
        return False


@contextmanager
def _random_states() -> Iterator[None]:
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
def _stage(trainer: Trainer) -> Iterator[None]:
    stage = trainer.state.stage
    if trainer.training:
        trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = stage


def not_compiled() -> AbstractContextManager[object]:
    """Run what is compiled as it is written, and compile nothing."""
    # Before PyTorch 2.6, code is compiled anew for layers that got a hook.
    set_stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if set_stance is None else set_stance("force_eager")
