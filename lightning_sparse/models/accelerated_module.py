"""Base of LightningModules whose training steps can be compiled, or replayed as a CUDA graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_sparse._compat import LightningModule
from lightning_sparse.models.cuda_graph import GraphedStep, supports_replay

Step = TypeVar("Step", bound=Callable[..., Any])


def replayable(training_step: Step) -> Step:
    """Declare that a ``training_step`` may be replayed: it returns the loss unchanged, and at most records it.

    A subclass that overrides it is not replayed, unless it declares its own step replayable, too.
    """
    # Lightning inspects the signature at every step; this attribute makes that cheap.
    training_step.__signature__ = inspect.signature(training_step)  # type: ignore[attr-defined]  # functions take attributes
    training_step._replayable = training_step  # type: ignore[attr-defined]  # the function itself, since functools.wraps copies attributes
    return training_step


class AcceleratedModule(LightningModule):
    """Base of modules that compile their network (``compile_mode``) or replay training steps (``cuda_graph``).

    A subclass sets the attributes below, defines `_loss`, and calls `_loss_or_replay` in a ``training_step`` that is
    marked as `replayable`. It is independent of what the network is trained for.

    Attributes:
        model: Network to train.
        compile_mode: Mode of ``torch.compile``; None: not compiled.
        cuda_graph: Whether a GPU replays forward and backward passes, where that is possible.
    """

    model: nn.Module
    compile_mode: str | None = None
    cuda_graph: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._usual_size: int | None = None  # of training batches
        self._graphed: GraphedStep | None = None
        self._has_gradients = False  # of the current step, by a replay, before Lightning calls backward

    def setup(self, stage: str) -> None:
        """Compile the network.

        Args:
            stage: "fit", "validate", "test" or "predict".
        """
        # In setup, since a copy in another process is not compiled; in place, so that no parameter's name changes.
        if self.compile_mode is not None and self.model._compiled_call_impl is None:
            # Not for variable batch sizes: the last batch of an epoch would slow all others down.
            self.model.compile(mode=self.compile_mode, dynamic=False)

    def on_fit_start(self) -> None:
        """Prepare to record a step as a CUDA graph, where that is possible."""
        self._graphed = GraphedStep(self.model, self._loss) if self._can_record() else None

    def teardown(self, stage: str) -> None:
        """Drop the recorded step at the end of a fit."""
        if stage == "fit":
            self._graphed = None

    def _loss(self, images: Tensor, labels: Tensor, *, eager: bool = False) -> Tensor:
        """Return the mean loss of a training batch, from the compiled network or with `_run_eagerly`."""
        raise NotImplementedError

    def _loss_or_replay(self, images: Tensor, labels: Tensor, batch_idx: int) -> Tensor:
        """Return the mean loss of a training batch; a replay has computed the gradients, too."""
        if batch_idx == 0 and self._graphed is not None:
            self._graphed.rescan_layers()
        is_usual = self._is_of_usual_size(images)
        if self._graphed is not None and is_usual and self._takes_single_steps():
            self._has_gradients = True
            return self._graphed(images, labels)
        if self._has_gradients:  # still set if a fit ended within a step
            self._has_gradients = False
        return self._loss(images, labels, eager=not is_usual)

    def _run_eagerly(self, images: Tensor) -> Tensor:
        """Return the network's outputs without compiling it for this batch size, although it is for another."""
        # PyTorch before 2.6 can't; without compile_mode, importing its compiler would cost seconds.
        can_choose = self.compile_mode is not None and hasattr(torch.compiler, "set_stance")
        with torch.compiler.set_stance("force_eager") if can_choose else nullcontext():
            return self.model(images)  # type: ignore[no-any-return]  # nn.Module.__call__ returns Any

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients, unless a replayed step has done so."""
        if self._has_gradients:
            self._has_gradients = False
        else:
            super().backward(loss, *args, **kwargs)

    # The two methods below avoid overhead of Lightning and PyTorch: a twentieth of a step of LeNet-300-100.

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Drop the gradients of the step before; a replayed step has done so."""
        if self._has_gradients:
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets the current hook's name about 40 times per step, and nn.Module.__setattr__ is slow.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def _is_of_usual_size(self, images: Tensor) -> bool:
        """Tell whether a training batch has the usual size, for which it pays to compile or record a step."""
        if (self.compile_mode is None and self._graphed is None) or self._trainer is None:
            return True
        if not self.trainer.is_last_batch or self.trainer.num_training_batches == 1:
            self._usual_size = len(images)
        return len(images) == self._usual_size

    def _can_record(self) -> bool:
        """Tell whether recording is asked for and possible, and a replay would leave nothing of the step out."""
        if not self.cuda_graph or not supports_replay(self.trainer) or not self.automatic_optimization:
            return False
        own, ours = type(self), AcceleratedModule
        is_step_ours = getattr(own.training_step, "_replayable", None) is own.training_step
        is_ours = is_step_ours and own.backward is ours.backward and own.optimizer_zero_grad is ours.optimizer_zero_grad
        is_compiled = hasattr(self.model, "_orig_mod") or self.model._compiled_call_impl is not None
        is_compiled_elsewhere = self.compile_mode is None and is_compiled
        makes_graphs = self.compile_mode in ("reduce-overhead", "max-autotune")
        return is_ours and not makes_graphs and not is_compiled_elsewhere

    def _takes_single_steps(self) -> bool:
        """Tell whether each batch has an optimizer step of its own; that can change between epochs and after a fit."""
        is_step = self.trainer.training and self.trainer.accumulate_grad_batches == 1
        return is_step and not torch.is_anomaly_enabled()
