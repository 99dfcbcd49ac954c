"""Checks of options that are words."""

from __future__ import annotations

from lightning_sparse.validation.errors import InvalidValueError


def check_choice(option: str, choice: object, choices: tuple[str, ...]) -> None:
    """Raise a ValueError unless an option's value is one of its choices."""
    if choice not in choices:
        raise InvalidValueError(
            expected=f"{option} from {', '.join(choices)}", got=repr(choice), cure="use one of these"
        )


def check_log_name(name: object) -> None:
    """Raise a ValueError unless a name for the log is None or a string that is not blank."""
    if name is not None and not (isinstance(name, str) and name.strip()):
        raise InvalidValueError(expected="name to be a word, or None", got=repr(name), cure="name='val', for instance")
