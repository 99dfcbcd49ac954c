"""Checks of a gradient flow callback's options and of its place in a Trainer."""

from __future__ import annotations

import warnings

from lightning_sparse._compat import Callback, ConfigurationError, Trainer, callbacks_of
from lightning_sparse.callbacks.gradient_flow.measurement import GradientMeasurement
from lightning_sparse.validation.errors import InvalidValueError


def check_choices(masks: str, normalize: str | None) -> None:
    """Raise a ValueError unless both options are among their choices."""
    if masks not in ("auto", "zeros", "dense"):
        raise InvalidValueError(
            expected="masks as 'auto', 'zeros' or 'dense'", got=repr(masks), cure="'auto' finds them"
        )
    if normalize not in (None, "active"):
        raise InvalidValueError(
            expected="normalize as None or 'active'", got=repr(normalize), cure="None is the paper's"
        )


def check_name(trainer: Trainer, callback: Callback, kind: type[Callback]) -> None:
    """Raise if another callback of the same kind has the same name.

    Raises:
        MisconfigurationException: If there is one in the Trainer.
    """
    others = [other for other in callbacks_of(trainer) if isinstance(other, kind) and other is not callback]
    name = getattr(callback, "_name", None)
    if any(getattr(other, "_name", None) == name for other in others):
        raise ConfigurationError(
            expected="another name of each GradientFlowCallback in a Trainer, which distinguishes its metrics",
            got=f"{name!r} of two",
            cure="GradientFlowCallback(name='fixed_batches'), for instance",
        )


def warn_of_nothing(trainer: Trainer, measurement: GradientMeasurement) -> None:
    """Warn at the end of a run of some steps that no layer was trained when there was something to measure."""
    history, steps = measurement.history, measurement.steps.most
    if trainer.is_global_zero and steps and not (history.fetched or history.waiting):
        warnings.warn(
            f"Expected trained layers to measure the gradients of; got none in {steps} steps: all of them are frozen. "
            "Cure: unfreeze some, or leave GradientFlowCallback out.",
            stacklevel=2,
        )
