"""What optimizers do besides steps that hooks see: told by what they have."""

from __future__ import annotations

from torch.optim import LBFGS, Optimizer

from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError


def check_optimizer(optimizer: Optimizer) -> None:
    """Raise unless weights can be masked wherever an optimizer uses them.

    Raises:
        TypeError: If it is no optimizer.
        ValueError: If it exchanges weights elsewhere, or evaluates a closure that it was given elsewhere.
    """
    if not isinstance(optimizer, Optimizer):
        raise InvalidTypeError(
            expected="a torch.optim.Optimizer",
            got=repr(optimizer),
            cure="attach the optimizer itself",
        )
    if callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None)):
        raise InvalidValueError(
            expected="an optimizer that changes weights in its steps",
            got=f"a {type(optimizer).__name__}, whose train()/eval() swap in unmasked weights",
            cure="an optimizer that is not schedule-free",
        )
    if callable(getattr(optimizer, "set_closure", None)):
        raise InvalidValueError(
            expected="an optimizer whose steps are given the closure that they evaluate",
            got=f"a {type(optimizer).__name__}, whose set_closure() hides forward passes with unmasked weights",
            cure="one whose step() takes a closure",
        )


def is_seen(optimizer: Optimizer) -> bool:
    """Tell whether PyTorch's hooks see the steps of an optimizer: its base class's constructor arranges that."""
    return bool(getattr(getattr(type(optimizer), "step", None), "hooked", False))


def takes_two_calls(optimizer: Optimizer) -> bool:
    """Tell whether an optimizer can be asked to change weights for a second forward pass outside of its step."""
    return all(callable(getattr(optimizer, name, None)) for name in ("first_step", "second_step"))


def unmasked_pass(optimizer: Optimizer) -> InvalidValueError:
    """Return the error about an optimizer whose second forward pass was made with unmasked weights."""
    return InvalidValueError(
        expected="masked weights in every forward pass",
        got=f"a {type(optimizer).__name__}, whose first_step() changed inactive weights before the second one",
        cure="give its step() a closure, or call enforce() of the SparseNetwork (callback.network) after first_step()",
    )


def searches_along_gradients(optimizer: Optimizer) -> bool:
    """Tell whether an optimizer is known to compare losses along a direction that it makes of gradients: L-BFGS."""
    # By name, too: there are several versions of it, most of them not derived from PyTorch's.
    return isinstance(optimizer, LBFGS) or any("LBFGS" in base.__name__.upper() for base in type(optimizer).__mro__)


def evaluates_once(optimizer: Optimizer) -> bool:
    """Tell whether an optimizer is known to evaluate a closure once, before it changes weights: most of PyTorch's."""
    return f"{type(optimizer).__module__}.".startswith("torch.optim.") and not isinstance(optimizer, LBFGS)


def has_skipped(optimizer: Optimizer) -> bool:
    """Tell whether a fused optimizer left the weights alone in this step, as a gradient scaler told it to."""
    # Only while such an optimizer steps, and for what else the scaler would have asked the device before the step.
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)
