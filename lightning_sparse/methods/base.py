"""What a method is that does more than prune, redistribute and grow between steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from torch import Tensor, nn

from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.budget import Density
from lightning_sparse.network.rewirable_model import Record
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.representation import ShowsOptions

# When the density that is asked for holds: after every step, or at the end.
Budget = Literal["kept", "reached"]


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: Optimizer steps so far, those that were left out included; with several optimizers, of the busiest one.
        epoch: Completed epochs.
        total: Optimizer steps of the whole run; infinity if that is unknown.
    """

    step: int
    epoch: int = 0
    total: float = inf

    def known(self) -> float:
        """Return the optimizer steps of the whole run, for a method that follows its length.

        Raises:
            ValueError: If that is unknown.
        """
        if self.total == inf:
            raise InvalidValueError(
                expected="a run of known length, which the method follows",
                got="one that may last forever",
                cure="set max_steps, or max_epochs and limit_train_batches; outside of Lightning, total_steps",
            )
        return self.total


@dataclass(frozen=True)
class Phase:
    """A named span of a run, in which a method behaves in a way of its own.

    Attributes:
        name: Name, for messages and logs.
        until: End of the phase: a number of optimizer steps (an integer), or a fraction of the run (a float in (0, 1]).
            The last phase lasts until the end of training, whatever this says.
    """

    name: str
    until: int | float = 1.0

    def has_ended(self, progress: Progress) -> bool:
        """Tell whether the phase is over before the next step."""
        end = self.until if isinstance(self.until, int) else self.until * progress.known()
        return progress.step >= end


class Method(ShowsOptions):
    """A method of sparse training; derive from it and override what it does.

    A `SparseNetwork` keeps masks, and zeros where they are inactive, and changes both through `rewire` and `set_masks`.
    A method decides. It is called at fixed places of a training loop, in this order: `prepare` and, unless the run is
    resumed, `begin`; for each step `begin_phase` if a phase begins, `penalty`, `gradients_ready`, the optimizer's step,
    `after_step`; `update` at the boundaries of the period of updates, before the forward pass; `finish` after the last
    step, `release` at the end. An instance serves one run at a time; callbacks work with a copy of the given one.

    A second fit of the same callback and network continues the state of the first (`load_state_dict` instead of
    `begin`), while `progress` starts at 0 and phases are entered again.

    Random numbers come from a generator that is part of the state. Every process must make the same decisions: what is
    decided by must be the same everywhere, as weights and gradients are.

    Attributes:
        budget: Whether the density that the user asks for holds after every step ("kept"), or at the end of training
            ("reached": a run that ends before gets a warning); None if the number of active weights is a result, and no
            density is asked for.
        signals: Names of the signals ("momentum", "gradient", "multiplications") that the network keeps track of for
            it. Gradients are there without that in `gradients_ready`.
        phases: Named spans of a run, in their order; empty for a method that does the same from start to end.
        phase: Name of the present one; "" if there are none.
        density: Density that the user asks for; set before `prepare`.
        record: Function to pass to `network.rewire` and `network.set_masks`, by which an update gets into the history
            and the logs; leave it out of updates after every step, which would fill both.
        skip_step: Whether the optimizer step whose gradients are ready is left out: `gradients_ready` may set it for
            the step that it is called for.
    """

    budget: Budget | None = "kept"
    signals: frozenset[str] = frozenset()
    phases: Sequence[Phase] = ()
    phase: str = ""
    density: Density = 1.0
    record: Record | None = None
    skip_step: bool = False

    def starting_density(self, density: Density) -> Density:
        """Return the density of the masks before `begin`: 1 for a method that starts from a dense network.

        Args:
            density: Density that the user asks for.
        """
        return density

    def prepare(self, network: SparseNetwork) -> None:
        """Make what the method needs beside the network, as extra parameters; called in resumed runs, too."""

    def begin(self, network: SparseNetwork, density: Density) -> None:
        """Start a run that is not resumed: its masks are drawn and its weights are those of the start.

        Masks may be changed here, once, to prune without data for instance.

        Args:
            network: The network, at `starting_density`; with masks that were taken over (`masks_from`), at theirs.
            density: Density that the user asks for.
        """

    def begin_phase(self, network: SparseNetwork, progress: Progress) -> None:
        """Enter the phase that `self.phase` names, before the first of its steps; not called again in resumed runs.

        Gradients of that step are there, and it may still be skipped: take note here, and change masks in `after_step`.
        """

    def extra_parameters(self) -> Sequence[nn.Parameter]:
        """Return parameters of the method's own, which the optimizer of the first masked weight trains too."""
        return ()

    def penalty(self) -> Tensor | None:
        """Return what is added to the loss, a scalar that depends on parameters; None for nothing."""
        return None

    def gradients_ready(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        """Look at, or change, the gradients that an optimizer is about to use: accumulated, reduced and unscaled.

        They may be infinite: a gradient scaler then leaves the step out, and nothing may be decided by them.

        Args:
            network: The network.
            names: Names of the masked weights that the optimizer steps.
            progress: Steps so far, this one not counted.
        """

    def after_step(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        """Act after a step, before inactive weights are set to zero again.

        Args:
            network: The network; inactive weights may have values from the step.
            names: Names of the masked weights that were stepped.
            progress: Steps so far, this one counted.
        """

    def update(self, network: SparseNetwork, progress: Progress) -> None:
        """Update the topology at a boundary of the period of updates.

        Masks change once, with `record=self.record`: a checkpoint that a signal's handler saves meanwhile is then one
        of before or after.
        """

    def finish(self, network: SparseNetwork) -> None:
        """Leave an ordinary sparse network, after the last step of a run that was completed.

        A run may be resumed from a checkpoint of after that: then there is nothing left to do.
        """

    def release(self, network: SparseNetwork) -> None:
        """Undo what `prepare` did to the model, at the end of a run that was completed or failed."""

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs; tensors and plain Python values only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state, after `prepare`.

        Raises:
            ValueError: If it is not one of this method.
        """
        if state:
            raise InvalidValueError(
                expected=f"the state of a {type(self).__name__}, which has none",
                got=f"{sorted(map(str, state))}",
                cure="resume with the method of the run that was saved",
            )
