"""Checks of the arguments of `ImageClassifier`, and the network that they name."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import nn

from lightning_sparse.models.factory import create_model, has_option, model_names
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError
from lightning_sparse.validation.numbers import check_integer

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


def make_network(model: str | nn.Module, options: dict[str, Any] | None, num_classes: int) -> nn.Module:
    """Return the network itself, or make it from its name, with `num_classes` outputs if the name has that option.

    Raises:
        ValueError: If there is no such name, or the options don't fit it, aren't plain values or come with a module.
    """
    if isinstance(model, nn.Module):
        if options:
            raise InvalidValueError(
                expected="model_options with the name of a model only",
                got=f"{options!r} with a {type(model).__name__}",
                cure="give them to the model itself, or name it",
            )
        return model
    options = {} if options is None else options
    if not isinstance(options, dict) or not _is_plain(options):
        raise InvalidValueError(
            expected="model_options as a dictionary of plain Python values",
            got=repr(options),
            cure="give names instead of objects, or the model itself",
        )
    if options.get("num_classes", num_classes) != num_classes:
        raise InvalidValueError(
            expected="one number of classes",
            got=f"num_classes={num_classes} and {options['num_classes']!r} in model_options",
            cure="give num_classes only",
        )
    classes = {"num_classes": num_classes} if has_option(model, "num_classes") else {}
    return create_model(model, **{**classes, **options})


def _is_plain(value: object) -> bool:
    """Tell whether a checkpoint that is read with ``weights_only=True`` can hold a value."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)


def check_classifier_options(lr_interval: str, num_classes: int, compile_mode: str | None) -> None:
    """Raise a ValueError if an option is outside its range."""
    check_integer(num_classes, 2, expected="num_classes >= 2", cure="give the number of the model's outputs")
    if lr_interval not in ("step", "epoch"):
        raise InvalidValueError(
            expected="lr_interval 'step' or 'epoch'",
            got=repr(lr_interval),
            cure="use one of these",
        )
    if compile_mode is not None and compile_mode not in get_args(CompileMode):
        modes = ", ".join(map(repr, get_args(CompileMode)))
        raise InvalidValueError(
            expected=f"compile_mode as None or one of {modes}",
            got=repr(compile_mode),
            cure="'default'",
        )


def check_booleans(**switches: object) -> None:
    """Raise a TypeError unless all arguments are bools."""
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise InvalidTypeError(
                expected=f"{name} as True or False",
                got=repr(value),
                cure="use one of these",
            )


def check_argument_types(model: object, optimizer: object, lr_scheduler: object) -> None:
    """Raise a TypeError if an argument has the wrong type."""
    if not isinstance(model, (str, nn.Module)):
        raise InvalidTypeError(
            expected="a torch.nn.Module or a name as model",
            got=repr(model),
            cure=f"LeNet300100(), for instance, or one of {', '.join(model_names())}",
        )
    for name, maker in (("optimizer", optimizer), ("lr_scheduler", lr_scheduler)):
        if not callable(maker) and not (name == "lr_scheduler" and maker is None):
            raise InvalidTypeError(
                expected=f"a function that makes the {name}",
                got=f"a {type(maker).__name__}",
                cure="functools.partial(torch.optim.SGD, lr=0.1), for instance, without the parameters",
            )
