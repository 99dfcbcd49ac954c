"""Sparse training in any loop: when a network changes, its record, and an exact resume."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from typing import Any

from torch.optim import Optimizer

from lightning_sparse.methods.base import Method, Progress
from lightning_sparse.methods.counters import Counters
from lightning_sparse.methods.density_plan import ScheduledDensity
from lightning_sparse.methods.driver import MethodDriver
from lightning_sparse.methods.history import UpdateRecord
from lightning_sparse.methods.planned_updates import plan_timetable
from lightning_sparse.methods.registry import as_method
from lightning_sparse.methods.rules import Rules, as_constant, check_density_of, check_no_rate
from lightning_sparse.methods.timetable import Cadence, RunLength, Timetable
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.changes.layer_groups import Recipes
from lightning_sparse.network.state import verify_checksum, with_checksum
from lightning_sparse.topology.layer import MULTIPLICATIONS
from lightning_sparse.topology.plan import LayerChange
from lightning_sparse.topology.schedule import PruneRate
from lightning_sparse.validation.errors import InvalidStateError, InvalidValueError
from lightning_sparse.validation.representation import ShowsOptions

_STATE = {"network", "first", "last", "step_offset", "history"}
_OPTIONAL = frozenset({"method", "steps_begun"})


class SparseTraining(ShowsOptions):
    """Trains a sparse network in any loop, as `SparseTrainingCallback` does in a Lightning Trainer.

    Three calls in the loop: `begin_batch` before each forward pass, `gradients_ready` between backward pass and step
    (for methods only), `finish` at the end. With several processes each makes the same calls.

    Args:
        network: The network. With a schedule or a method its density is `starting_density` of these arguments.
        recipe: Rules of an update: a name, an import path, a `Recipe`, or one for each pattern of layers.
        prune_rate: Fraction in [0, 1] of each layer's active weights that the first update prunes.
        schedule: Decay of the prune rate: "cosine", "linear", "constant", or a function of progress in [0, 1].
        density: Schedule of the density, or of that of each group of layers; with a method, the density that it is to
            reach. Default: the network's density stays.
        every_n_epochs: Update period in epochs; 1 if neither period is set.
        every_n_steps: Update period in optimizer steps, instead.
        method: Method to train by, instead of a recipe: a name, an import path or a `Method`, which is then changed.
        epochs: Number of epochs of the whole run, if it is known.
        steps: Number of optimizer steps of the whole run, if it is known.
        steps_per_epoch: Number of optimizer steps of an epoch, if it is known.

    Attributes:
        network: The network.

    Raises:
        ValueError: If an argument is out of range or unknown, or the run's length is needed and unknown.

    >>> import torch
    >>> model = torch.nn.Linear(40, 10)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> training = SparseTraining(SparseNetwork(model, density=0.1), every_n_steps=5, steps=20)
    >>> training.attach(optimizer)
    >>> for _ in range(20):
    ...     _ = training.begin_batch()
    ...     optimizer.zero_grad()
    ...     model(torch.randn(8, 40)).square().mean().backward()
    ...     optimizer.step()
    >>> training.finish()
    >>> [record.step for record in training.history], training.network.density
    ([5, 10, 15], 0.1)
    """

    def __init__(
        self,
        network: SparseNetwork,
        recipe: Recipes = "sparse_momentum",
        prune_rate: float = 0.5,
        schedule: str | Callable[[float], float] = "cosine",
        *,
        density: ScheduledDensity | None = None,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        method: str | Method | None = None,
        epochs: int | None = None,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
    ) -> None:
        self.network = network
        self._method, self._recipe, self._density = method, recipe, density
        self._every_n_epochs, self._every_n_steps = every_n_epochs, every_n_steps
        self._rules = Rules("static" if method is not None else recipe, None if method is not None else density)
        cadence = Cadence.with_default(every_n_epochs, every_n_steps)
        self._timetable = Timetable(cadence, PruneRate(prune_rate, schedule), self._rules.densities, self._rules.moves)
        self._length = RunLength(epochs or inf, steps or inf, steps_per_epoch or inf)
        self._counters = Counters.starting(0, 0, network.steps)
        # Steps that were begun by the busiest optimizer, those that a method left out included, and by each since then.
        self._steps_begun, self._epoch = 0, 0
        self._steps_of: dict[int, int] = {}
        self._first_step = 0
        self._driver: MethodDriver | None = None
        if method is not None:
            chosen = as_method(method)
            check_density_of(chosen, density)
            check_no_rate(prune_rate, schedule)
            if chosen.budget is not None and density is None and chosen.starting_density(0.5) != 0.5:
                raise InvalidValueError(
                    expected=f"the density that {type(chosen).__name__} is to reach from a dense network",
                    got="none",
                    cure="density=0.05, say",
                )
            self._driver = MethodDriver(chosen, network, as_constant(density) or network.density, record=self._record)
        self._plan()

    def _plan(self) -> None:
        plan_timetable(self._timetable, self._length, self._counters)
        if self._timetable.total == inf and self._timetable.moves and not self._timetable.rate.is_constant:
            raise InvalidValueError(
                expected="a run of known length for a prune rate that decays",
                got="one of unknown length",
                cure="give epochs (or steps, for updates in steps), or schedule='constant'",
            )

    def _record(self, epoch: int, step: int, changes: tuple[LayerChange, ...]) -> None:
        self._counters.record_at(epoch, step, changes)

    @property
    def history(self) -> list[UpdateRecord]:
        """One record per topology update."""
        self.network.complete_update()
        return self._counters.history

    def attach(self, *optimizers: Optimizer, state: Mapping[str, Any] | None = None) -> None:
        """Begin the run, or resume it, and keep inactive weights at zero in every step of these optimizers.

        Args:
            optimizers: All optimizers that step masked weights, before their own states are loaded.
            state: Result of `state_dict`, to resume from; the weights are those that were saved with it.

        Raises:
            ValueError: If an optimizer steps no masked weight, or the state is one of another run.
        """
        if state is not None:
            self._load(state)
        signals = self._rules.signals
        if self._driver is not None:
            if state is None:
                self._check_start(self._driver.method)
            self._driver.start(None if state is None else state["method"])
            signals = self._driver.method.signals
        for optimizer in optimizers:
            self.network.attach(
                optimizer,
                track_momentum="momentum" in signals,
                track_gradients="gradient" in signals,
                track_multiplications=MULTIPLICATIONS in signals,
            )
        if self._driver is not None:
            self._driver.attach(optimizers)

    def _check_start(self, method: Method) -> None:
        start = method.starting_density(method.density)
        if not self.network.has_density(start):
            raise InvalidValueError(
                expected=f"a network of density {start}, from which {type(method).__name__} starts",
                got=f"one of {self.network.density:.4g}",
                cure=f"SparseNetwork(model, density={start})",
            )

    def begin_batch(self, epoch: int = 0) -> UpdateRecord | None:
        """Carry out the update that is due, if there is one; call it before the forward pass of every batch.

        Args:
            epoch: Number of completed epochs.

        Returns:
            The record of the update, or None.
        """
        network, counters, self._epoch = self.network, self._counters, epoch
        network.look()
        network.enforce_changes()
        network.complete_update()
        now = (epoch, network.steps - counters.step_offset)
        due = self._timetable.due(now, counters)
        if due is None or now[1] == counters.last[1]:  # before a step there is nothing to decide by
            return None
        if self._driver is not None:
            known = len(counters.history)
            with counters.update_by_method(now):
                self._driver.update(self._progress())
            return counters.history[-1] if len(counters.history) > known else None
        rate = due.prune_rate
        density = None if due.density is None else self._rules.next_density(network, due)
        if density is None and not due.moves:
            return None
        record = partial(counters.record, len(counters.history), now, rate, None)
        network.rewire(self._rules.recipe, rate, density=density, record=record)
        return counters.history[-1]

    def gradients_ready(self, optimizer: Optimizer) -> None:
        """Let a method work with the gradients of a step: reduced over processes, unscaled, and not yet clipped.

        Args:
            optimizer: The optimizer that is about to step.

        Raises:
            RuntimeError: If `attach` was not called.
        """
        if self._driver is None:
            return
        if not self.network.optimizers:
            raise InvalidStateError(
                expected="an optimizer that is attached", got="none", cure="call attach(optimizer) before the loop"
            )
        if not self.network.is_stepped_by(optimizer):
            return
        step = self._steps_of.get(id(optimizer), self._first_step)
        self._driver.gradients_ready(optimizer, Progress(step, self._epoch, self._length.in_steps()))
        self._steps_of[id(optimizer)] = step + 1
        self._steps_begun = max(self._steps_begun, step + 1)

    def _progress(self) -> Progress:
        return Progress(self._steps_begun, self._epoch, self._length.in_steps())

    def finish(self) -> None:
        """Leave an ordinary sparse network, after the last step, and let go of the optimizers.

        Raises:
            RuntimeError: If the method needs gradients before each step, and `gradients_ready` was never called.
        """
        if self._driver is not None:
            listens = type(self._driver.method).gradients_ready is not Method.gradients_ready
            if listens and not self._steps_begun and self.network.steps > self._counters.step_offset:
                raise InvalidStateError(
                    expected=f"gradients before each step, by which {type(self._driver.method).__name__} decides",
                    got="none",
                    cure="call gradients_ready(optimizer) between backward pass and step",
                )
            self._driver.finish()
            self._driver.release()
        self.network.enforce()
        self.network.detach()
        complaint = self._rules.unreached(self.network) if self._driver is None else self._driver.unreached()
        if complaint is not None:
            warnings.warn(complaint, stacklevel=2)

    def state_dict(self) -> dict[str, Any]:
        """Return masks, random state, counters, history and the method's state; tensors and plain Python values only.

        Save it with the model's and the optimizers' own states. A `SparseTrainingCallback` loads it, too.
        """
        signals = self._rules.signals if self._driver is None else self._driver.method.signals
        network = self.network.state_dict(gradients="gradient" in signals)
        method = {} if self._driver is None else {"method": self._driver.state_dict()}
        return with_checksum(
            {"network": network, **self._counters.to_dict(), "steps_begun": self._steps_begun, **method}
        )

    def _load(self, state: Mapping[str, Any]) -> None:
        verify_checksum(state, _STATE, "state_dict() of a SparseTraining", _OPTIONAL)
        if ("method" in state) != (self._driver is not None):
            raise InvalidValueError(
                expected="the state of a run with " + ("a recipe" if self._driver is None else "this method"),
                got="another",
                cure="resume with the recipe or method of the run that was saved",
            )
        counters = Counters.from_dict(state)
        self.network.load_state_dict(state["network"])
        self._counters = counters
        self._steps_begun = state.get("steps_begun", self.network.steps - counters.step_offset)
        self._first_step = self._steps_begun
        self._plan()
