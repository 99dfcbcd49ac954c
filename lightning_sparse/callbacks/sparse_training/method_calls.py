"""The places of a Lightning run at which a method is called."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer

from lightning_sparse._compat import Trainer
from lightning_sparse.callbacks.cadence import counted_per_step, run_length
from lightning_sparse.methods import Method, MethodDriver, Progress
from lightning_sparse.methods.density_plan import ScheduledDensity
from lightning_sparse.methods.registry import as_method
from lightning_sparse.methods.rules import check_density_of, check_no_rate
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.budget import Density
from lightning_sparse.topology.plan import LayerChange
from lightning_sparse.validation.errors import InvalidValueError


def chosen_method(
    method: str | Method | None,
    recipe: object,
    density: ScheduledDensity | None,
    prune_rate: object,
    schedule: object,
) -> Method | None:
    """Return the method of a callback, or None for one that follows a recipe.

    Raises:
        ValueError: If both are given, a recipe's prune rate or schedule beside a method, or a density that changes,
            which is a method's own affair.
    """
    if method is None:
        return None
    if recipe not in ("sparse_momentum", "static"):  # the default, and what it stands for
        raise InvalidValueError(
            expected="a recipe or a method",
            got=f"recipe={recipe!r} and method={method!r}",
            cure="drop one of them",
        )
    found = as_method(method)
    check_density_of(found, density)
    check_no_rate(prune_rate, schedule)
    return found


class MethodCalls:
    """A method at work in a Lightning run.

    Args:
        method: The method as the user gave it, which stays as it is.
        network: Network that it works on.
        density: Density that the user asks for.
        trainer: Trainer of the run.
        record: Function of completed epochs, optimizer steps and changes that records an update of the method.
    """

    def __init__(
        self,
        method: Method,
        network: SparseNetwork,
        density: Density,
        trainer: Trainer,
        record: Callable[[int, int, tuple[LayerChange, ...]], None],
    ) -> None:
        reduce = trainer.strategy.reduce if trainer.world_size > 1 else None
        self._driver = MethodDriver(copy.deepcopy(method), network, density, reduce, record)
        self._total_steps = float("inf")
        # Version of the masks when it was asked last whether they changed.
        self._seen_version = 0

    @property
    def network(self) -> SparseNetwork:
        """The network that the method works on."""
        return self._driver.network

    def start(self, state: Mapping[str, Any] | None) -> None:
        """Begin the run, or resume it from a state."""
        self._driver.start(state)

    def attach(self, trainer: Trainer) -> None:
        """Act in the steps of the Trainer's optimizers, before their states are restored."""
        self._driver.attach(trainer.optimizers)

    def measure_run(self, trainer: Trainer, max_epochs: int | None) -> None:
        """Find out how long the run is."""
        self._total_steps = run_length(trainer, max_epochs).in_steps()

    def progress(self, trainer: Trainer) -> Progress:
        """Return how far the run is."""
        steps = trainer.global_step // counted_per_step(trainer)
        return Progress(steps, trainer.current_epoch, self._total_steps)

    def gradients_ready(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Let the method work with the gradients of a step, unscaled, even if the optimizer does that itself."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = 1.0
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scale = float(scaler.get_scale())
        _multiply_gradients(optimizer, 1 / scale)
        self._driver.gradients_ready(optimizer, self.progress(trainer))
        _multiply_gradients(optimizer, scale)

    def have_masks_changed(self) -> bool:
        """Tell whether masks are others than when this was asked last."""
        version, self._seen_version = self._seen_version, self.network.mask_version
        return version != self._seen_version

    def update(self, trainer: Trainer) -> None:
        """Let the method update the topology."""
        self._driver.update(self.progress(trainer))

    def finish(self) -> None:
        """Let the method leave an ordinary sparse network."""
        self._driver.finish()

    def unreached(self) -> str | None:
        """Return what is to be said if the density that the method is to reach isn't, after `finish`; else None."""
        return self._driver.unreached()

    def release(self) -> None:
        """Let go of the steps and of the model."""
        self._driver.release()

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs."""
        return self._driver.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that was restored in training."""
        self._driver.load_state_dict(state)


def _multiply_gradients(optimizer: Optimizer, factor: float) -> None:
    if factor == 1:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)  # a power of two, in general, which rounds nothing


def start_method(
    method: Method | None,
    network: SparseNetwork,
    density: Density | None,
    trainer: Trainer,
    earlier: MethodCalls | None,
    saved: Mapping[str, Any] | None,
    record: Callable[[int, int, tuple[LayerChange, ...]], None],
) -> MethodCalls | None:
    """Begin or resume the method of a run, if it has one, before optimizers are attached.

    Args:
        method: The method as the user gave it, or None.
        network: Network of the run.
        density: Density that the user asks for; None for that of masks that were taken over.
        trainer: Trainer of the run.
        earlier: Calls of the fit before, which is continued if it had the same network.
        saved: State of the callback that the run resumes from.
        record: Function of completed epochs, optimizer steps and changes that records an update of the method.

    Raises:
        ValueError: If the saved state is one of a run without this method.
    """
    if (method is None) != ("method" not in saved if saved is not None else method is None):
        raise InvalidValueError(
            expected=f"the state of a run with {'a recipe' if method is None else type(method).__name__}",
            got="one of a run with a method" if method is None else "one of a run with a recipe",
            cure="resume with the recipe or method of the run that was saved",
        )
    if method is None:
        return None
    state = None if saved is None else saved["method"]
    if saved is None and earlier is not None and earlier.network is network:
        state = earlier.state_dict()
    calls = MethodCalls(method, network, network.density if density is None else density, trainer, record)
    try:
        calls.start(state)
    except BaseException:
        calls.release()  # what it has prepared
        raise
    return calls
