"""Momentum and gradients of the masked weights, from the optimizers that step them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_sparse.network.dtensor import full_tensor, local_part, to_local
from lightning_sparse.network.masks import Masks
from lightning_sparse.network.momentum_families import MomentumFamily
from lightning_sparse.network.momentum_observer import MomentumObserver, read_momentum, why_unreadable
from lightning_sparse.network.momentum_summary import momentum_lines
from lightning_sparse.network.steps.held_gradients import HeldGradients
from lightning_sparse.network.steps.unseen import UnseenSteps
from lightning_sparse.validation.errors import InvalidValueError

# Smoothing factor of the average kept where an optimizer has no momentum: the paper's 0.9.
DECAY = 0.9


def has_momentum(optimizer: Optimizer, parameter: Parameter) -> bool:
    """Tell whether an optimizer's state shows that a weight had a gradient, by the usual names of its entries."""
    state = optimizer.state.get(parameter, {})
    return isinstance(state, Mapping) and any(state.get(key) is not None for key in ("momentum_buffer", "exp_avg"))


class Signals(MomentumObserver):
    """What topology updates know about each weight besides its value.

    Momentum is that of the optimizers where all weights have one on the same scale, else an exponential moving average
    of gradients, `0.9 * average + 0.1 * gradient` after every step (the paper's definition: Dettmers & Zettlemoyer
    2019, section 3.2). `MomentumObserver` decides. A weight that never had a gradient has momentum zero.

    Args:
        parameters: The weights by name.

    Attributes:
        act: Function of names, called after every step that was taken, before masks are applied; or None.
    """

    act: Callable[[Sequence[str]], None] | None = None

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        super().__init__(parameters)
        self._apply_masks: Callable[[Sequence[str]], None] | None = None
        self._tracks_momentum = self._tracks_gradients = False
        # Names trained by the last step, if it left nothing to note besides masking. A step that trains the same object
        # (compared with `is`) leaves nothing either.
        self._uneventful: Sequence[str] | None = None
        # Steps of the run whose state was loaded.
        self._steps_loaded = 0
        self._averages: dict[str, Tensor] = {}
        self._gradients = HeldGradients(parameters)

    def follow(
        self,
        optimizer: Optimizer,
        *,
        track_momentum: bool,
        after_step: Callable[[Sequence[str]], None] | None = None,
        masks: Masks | None = None,
        track_gradients: bool = False,
    ) -> None:
        """Follow an optimizer and every other one that steps these weights from now on.

        Args:
            optimizer: Optimizer of some or all of the weights.
            track_momentum: Keep averages of gradients where an optimizer has no momentum.
            after_step: Called after each step with the names of the weights that were stepped.
            masks: Masks to apply after each step, and before each evaluation of a closure in it.
            track_gradients: Hold on to the gradients of each step until the next one.

        Raises:
            ValueError: If it steps none of the weights, or is attached already.
            TypeError: If it is no optimizer.
        """
        self.attach(optimizer)
        self._apply_masks = after_step
        if masks is not None:
            self.use(masks)
        self._track(track_momentum, track_gradients)

    def use(self, masks: Masks) -> None:
        """Apply masks in every step from now on."""
        self._apply_masks = masks.apply
        self.evaluations.masks = masks
        self._repairs = masks.repairs

    def follow_any(self, *, track_momentum: bool, track_gradients: bool, masks: Masks) -> None:
        """Follow every optimizer that steps these weights from now on; see `follow`."""
        self.watch()
        self.use(masks)
        self._track(track_momentum, track_gradients)

    def _track(self, momentum: bool, gradients: bool) -> None:
        self._tracks_momentum |= momentum
        self._tracks_gradients |= gradients
        self._uneventful = None
        keeps_averages = self._tracks_momentum and self.averages_all
        self.evaluations.keeper.is_needed = keeps_averages or self._tracks_gradients

    def is_stepped(self, name: str) -> bool:
        """Tell whether a followed optimizer steps a weight."""
        return bool(self.optimizers_of(name))

    def detach(self) -> None:
        """Stop following; the averages and the number of steps stay."""
        super().detach()
        self._gradients.release()
        if self.evaluations.masks is not None:
            self.evaluations.masks.release()
        self._apply_masks = self.evaluations.masks = self._uneventful = self.act = None
        self._tracks_momentum = self._tracks_gradients = self.evaluations.keeper.is_needed = False

    def momentum(self, name: str) -> Tensor | None:
        """Return the momentum of a weight, or None where there is none yet or nobody tracks it."""
        parameter = self._parameters[name]
        if not self.averages_all or self._owes_averages():
            source = self._sources.get(name)
            source = self._readable_candidate(name) if source is None else source
            own = None if source is None else read_momentum(source, parameter)
            if own is not None:
                return own
        if name in self._averages:
            return self._average(name)
        if any(has_momentum(each, parameter) for each in self.optimizers_of(name)):
            return self._owed(name)
        # Others have momentum, so steps were taken, but this weight never had a gradient.
        begun = any(map(self._has_begun, self.optimizers_of(name)))
        return torch.zeros_like(to_local(parameter)) if begun else None

    def _owes_averages(self) -> bool:
        """Tell whether a weight that had a gradient has no average yet, but momentum.

        A run that an older version saved has the momentum of its optimizers only, and updates once by that.
        """
        findings = [self._finding(name) for name in self._parameters if name not in self._averages]
        return any(finding is not None and finding.read is not None for finding in findings)

    def _owed(self, name: str) -> Tensor | None:
        """Return the first moment in a state that isn't known, for the update that a loaded run owes; else None.

        Older versions read that, and kept no average.
        """
        parameter = self._parameters[name]
        if self.steps != self._steps_loaded or not self.steps:
            return None
        states = [optimizer.state.get(parameter) for optimizer in self.optimizers_of(name)]
        for state in (state for state in states if isinstance(state, Mapping)):
            for entry in ("momentum_buffer", "exp_avg"):
                if not why_unreadable(MomentumFamily("", entry), state, parameter):
                    return to_local(state[entry]).detach()
        return None

    def _have_momentum(self, names: Sequence[str]) -> bool:
        return any(has_momentum(each, self._parameters[name]) for name in names for each in self.optimizers_of(name))

    def _has_begun(self, optimizer: Optimizer) -> bool:
        return any(
            name in self._averages or has_momentum(optimizer, self._parameters[name])
            for name in self.names_stepped_by(optimizer)
        )

    def _after_step(self, optimizer: Optimizer | None, names: Sequence[str], trained: Sequence[str] | None) -> None:
        if trained is not None and (trained is not self._uneventful or self.evaluations.dense):
            self._take_note(optimizer, names, trained)
        if self.act is not None and trained:
            self.act(names)
        if self._apply_masks is not None:
            self._apply_masks(names)

    def _take_note(self, optimizer: Optimizer | None, names: Sequence[str], trained: Sequence[str]) -> None:
        """Do what a step needs besides masking; note in `_uneventful` whether the next one like it needs nothing."""
        keeper = self.evaluations.keeper
        if self._tracks_gradients or self._gradients or self.evaluations.dense:
            self._hold_gradients(names)
        keeps_averages = self._tracks_momentum and (optimizer is None or self._note_step(optimizer, trained))
        if self._tracks_momentum:
            keeper.is_needed = keeps_averages or self._tracks_gradients
            if keeps_averages:
                self._update_averages(trained)
            elif self._averages:  # of steps before it was known whose momentum is read
                self._averages.clear()
        reads = self._tracks_momentum and not keeps_averages
        self._uneventful = trained if reads and not self._tracks_gradients and not self._gradients else None

    def gradient(self, name: str) -> Tensor | None:
        """Return the dense gradient of the last step, or None if it is gone.

        It is zero for a weight that the last step of its optimizer had none for, as its layer was not used.
        """
        gradient = self._gradients.get(name)
        if gradient is None and name not in self._gradients and self._was_left_out(name):
            gradient = torch.zeros_like(self._parameters[name])
        return None if gradient is None else to_local(gradient)

    def _was_left_out(self, name: str) -> bool:
        others = {other for each in self.optimizers_of(name) for other in self.names_stepped_by(each)}
        return any(other in self._gradients for other in others)

    def _hold_gradients(self, names: Sequence[str]) -> None:
        """Keep the gradients of this step, not copies: validation, for one, drops those of the parameters."""
        for name in names:
            gradient = self.evaluations.dense_gradient(name)
            self._gradients.drop(name)
            if (self._tracks_gradients or self.evaluations.dense) and gradient is not None:
                self._gradients.hold(name, gradient)

    @torch.no_grad()
    def _update_averages(self, names: Sequence[str]) -> None:
        for name in names:
            gradient = self.evaluations.dense_gradient(name)
            if gradient is not None:
                dense = to_local(gradient) if gradient.layout == torch.strided else gradient.to_dense()
                self._average(name).lerp_(dense, 1 - DECAY)

    def _average(self, name: str) -> Tensor:
        """Return the average of a weight's gradients, zero at first, where the weight is now and in its dtype."""
        home = to_local(self._parameters[name])
        average = self._averages.get(name)
        average = torch.zeros_like(home) if average is None else average.to(home.device, home.dtype)
        self._averages[name] = average
        return average

    def momentum_sources(self) -> list[str]:
        """Return a line for each optimizer: what is read of it, or what is kept instead and in how much memory."""
        local = {name: to_local(parameter) for name, parameter in self._parameters.items()}
        sizes = {name: part.numel() * part.element_size() for name, part in local.items()}
        return momentum_lines(self._findings(), sizes, averages=self.averages_all) if self._tracks_momentum else []

    def state_dict(self, *, gradients: bool = False) -> dict[str, Any]:
        """Return copies of what neither the model nor the optimizers save, of sharded weights as a whole.

        Args:
            gradients: Whether to add the gradients of the last step, for a recipe that decides by them.
        """
        found = {name: self.gradient(name) for name in self._parameters} if gradients else {}
        return {
            "steps": self.steps,
            "averages": {name: self._whole(name, average) for name, average in self._averages.items()},
            "gradients": {
                name: self._whole(name, gradient) for name, gradient in found.items() if gradient is not None
            },
        }

    def _whole(self, name: str, part: Tensor) -> Tensor:
        return full_tensor(part.detach(), self._parameters[name]).clone()

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise a ValueError if a state is not one of these parameters."""
        if type(state["steps"]) is not int or not 0 <= state["steps"] < 2**63:  # True is an integer too
            raise InvalidValueError(
                expected="a number of optimizer steps >= 0 in the state",
                got=f"{state['steps']!r}",
                cure="load another",
            )
        for kind in ("averages", "gradients"):
            for name, values in state[kind].items():
                parameter = self._parameters.get(name)
                if parameter is None or values.shape != parameter.shape or not values.is_floating_point():
                    raise InvalidValueError(
                        expected=f"saved {kind} of the masked weights, real numbers",
                        got=f"{name!r} of shape {tuple(values.shape)}, {values.dtype}",
                        cure="load the state of a run with the same model",
                    )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a checked state."""
        copies = {
            kind: {name: self._part(name, values.detach()) for name, values in state[kind].items()}
            for kind in ("averages", "gradients")
        }
        self._averages = copies["averages"]
        self._gradients.load(copies["gradients"])
        self._uneventful = None
        self._steps_loaded = int(state["steps"])
        self.go_on_from(self._steps_loaded)
        # Who had no gradient in those steps isn't known.
        self.trained = set(self._parameters) if self._steps_loaded else set()

    def _part(self, name: str, whole: Tensor) -> Tensor:
        home = to_local(self._parameters[name])
        return local_part(whole, self._parameters[name]).clone().to(home.device, home.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: it follows no optimizer."""
        return {**super().__getstate__(), "_apply_masks": None, "act": None, "_uneventful": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"_uneventful": None, "unseen": UnseenSteps(), **state})  # of older versions, too
        if isinstance(self._gradients, dict):
            gradients = self._gradients
            self._gradients = HeldGradients(self._parameters)
            self._gradients.load(gradients)
