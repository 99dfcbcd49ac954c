"""RigL: weights that move where the gradients of one batch are largest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import floor
from typing import Any

from torch import Tensor

from lightning_sparse.methods.base import Method, Progress
from lightning_sparse.methods.driver import are_finite, gradients
from lightning_sparse.methods.optimizer_state import clear_state
from lightning_sparse.network import SparseNetwork
from lightning_sparse.topology.layer import LayerView, uses
from lightning_sparse.topology.plan import LayerChange
from lightning_sparse.topology.recipes import RIGL
from lightning_sparse.topology.schedule import cosine
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.numbers import check_integer, check_real, is_integer, is_real

_STATE = {"steps", "updated", "position"}


def number_to_move(active: int, prune_rate: float, step: int, end: float) -> int:
    """Return how many weights of a layer an update of RigL drops and grows (Evci et al. 2020, section 3).

    Args:
        active: Number of active weights of the layer.
        prune_rate: Fraction in [0, 1] of them at the start of training.
        step: Steps so far, from 0 to `end`.
        end: Number of steps at which updates end, where the fraction is zero.

    Returns:
        `floor(f * active)` with `f = prune_rate / 2 * (1 + cos(pi * step / end))`, in double precision.

    >>> [number_to_move(100, 0.3, step, 750) for step in (0, 300, 375, 700)]
    [30, 19, 15, 0]
    """
    return floor(prune_rate * cosine(step / end) * active)


class RigL(Method):
    """Dynamic sparse training by gradients (RigL, Evci et al. 2020, arXiv 1911.11134), as it was published.

    An update drops the smallest weights of each layer and grows as many where the gradients of the present batch are
    largest in magnitude, among all that were not kept, just dropped ones included. A weight that is dropped and grown
    in the same update keeps its value. One that was inactive before starts at zero, and what its optimizer keeps of it
    (momentum, second moments) does so too. The step of that batch is left out, as the authors' code chooses between an
    update and a step. The recipe "rigl" has the same rules between steps, and leaves none out.

    When updates are due follows `rigl/sparse_optimizers_base.py` of google-research/rigl: in the very first step, and
    whenever weights were trained in `every_n_steps` steps since. Steps that are left out don't count, so that updates
    are `every_n_steps + 1` batches apart. With several optimizers each counts for its own weights, and only these are
    updated where its gradients are ready. Where gradients are infinite or NaN, as in a step that a gradient scaler
    skips, the update waits for the next step; a weight without a gradient stays as it is.

    Differences to the paper and to that code: ties go to the lower index, where the code adds noise of 1e-5 to the
    magnitudes. Numbers are rounded down in double precision, not in single. The last update is before the end, as in
    the paper; the code has one at the very end, too, which moves nothing and leaves a step out. Where `until` is a
    fraction, it is that of all steps of the run, and schedules of learning rates count all of them; the code counts
    those that train. The paper keeps the first layer dense in uniform distributions, which `dense` of the network does.

    Args:
        every_n_steps: Steps between updates; the paper's 100.
        until: End of updates and of the decay of the prune rate: a number of steps (an integer) or a fraction of the
            run (a float in (0, 1]); the paper's 0.75.
        prune_rate: Fraction in [0, 1] of each layer's active weights that the first update moves; the paper's 0.3. It
            decays by half a cosine to zero.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, every_n_steps: int = 100, until: int | float = 0.75, prune_rate: float = 0.3) -> None:
        self._every = check_integer(
            every_n_steps, 1, expected="a number every_n_steps of at least 1", cure="the paper's is 100"
        )
        self._until: int | float = _checked_end(until)
        self._prune_rate = check_real(
            prune_rate, 0, 1, expected="a prune_rate in [0, 1], a fraction of active weights", cure="the paper's is 0.3"
        )
        self._restart()

    def _restart(self) -> None:
        # By weight: the steps that trained it, and their number at its last update.
        self._steps: dict[str, int] = {}
        self._updated: dict[str, int] = {}
        # Steps of the run when gradients were ready last.
        self._position = 0

    def begin(self, network: SparseNetwork, density: object) -> None:
        """Count steps from zero."""
        self._restart()

    def gradients_ready(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        """Update the layers of an optimizer if that is due, and leave its step out.

        Raises:
            ValueError: If the end is a fraction of a run that may last forever.
            NonFiniteError: If a weight is NaN or infinite.
        """
        if progress.step < self._position:  # another run of the same network
            self._restart()
        self._position = progress.step
        step = max(self._steps.get(name, 0) for name in names)
        due = max(self._updated.get(name, -self._every) for name in names) + self._every
        end = self._until if isinstance(self._until, int) else self._until * progress.known()
        if not due <= step < end:
            return
        found = gradients(network, names)
        if not are_finite(found.values()):
            network.check_finite()  # else a gradient scaler skips this step
            return
        active = {name: layer.active for name, layer in network.layers.items()}
        numbers = {name: number_to_move(active[name], self._prune_rate, step, end) for name in found}
        self._update(network, names, found, numbers, step)
        self.skip_step = True

    def _update(
        self,
        network: SparseNetwork,
        names: Sequence[str],
        found: Mapping[str, Tensor],
        numbers: Mapping[str, int],
        step: int,
    ) -> None:
        @uses()
        def count(layer: LayerView) -> int:
            return numbers.get(layer.name, 0)

        before = {name: _mask(network, name) for name, number in numbers.items() if number}
        record = partial(self._complete, network, before, dict.fromkeys(names, step))
        network.rewire(replace(RIGL, count=count), signals={"gradient": found}, record=record)

    def _complete(
        self,
        network: SparseNetwork,
        before: Mapping[str, Tensor],
        updated: Mapping[str, int],
        changes: tuple[LayerChange, ...],
    ) -> None:
        """Do what belongs to an update besides masks and weights; may be called twice for the same one."""
        for name, mask in before.items():
            clear_state(network, name, _mask(network, name) & ~mask)
        self._updated |= updated
        if self.record is not None:
            self.record(changes)

    def after_step(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        """Count a step that trained weights."""
        for name in names:
            self._steps[name] = self._steps.get(name, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of steps by weight, and the position in the run."""
        return {"steps": dict(self._steps), "updated": dict(self._updated), "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            ValueError: If it is not one of this method.
        """
        usable = isinstance(state, Mapping) and set(state) == _STATE and is_integer(state["position"], 0)
        if not (usable and _are_counts(state["steps"]) and _are_counts(state["updated"])):
            raise InvalidValueError(
                expected="the state of a RigL: numbers of steps by weight, and the position in the run",
                got=repr(state)[:80],
                cure="resume with the method of the run that was saved",
            )
        self._steps, self._updated = dict(state["steps"]), dict(state["updated"])
        self._position = int(state["position"])


def _checked_end(until: object) -> int | float:
    if is_integer(until, 1):
        return int(until)
    if is_real(until, 0, 1) and not is_integer(until) and until > 0:
        return float(until)
    raise InvalidValueError(
        expected="an end of updates: a number of steps of at least 1, or a fraction of the run in (0, 1]",
        got=repr(until),
        cure="the paper's is 0.75; 1.0 is the whole run, and 1 a single step",
    )


def _are_counts(counts: object) -> bool:
    return isinstance(counts, Mapping) and all(
        isinstance(name, str) and is_integer(count, 0) for name, count in counts.items()
    )


def _mask(network: SparseNetwork, name: str) -> Tensor:
    """Return a copy of a mask, bool."""
    mask = network.local_mask(name)
    assert mask is not None  # as it is a masked weight
    return mask != 0
