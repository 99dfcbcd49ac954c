"""Messages of the command line for errors."""

from __future__ import annotations

from lightning_sparse.validation.errors import UsageError


def user_message(error: BaseException) -> str | None:
    """Return the message of a `UsageError`, or of one in an error's chain of causes; None for other errors.

    >>> from lightning_sparse.validation.errors import InvalidValueError
    >>> user_message(InvalidValueError(expected="two of them", got="three", cure="take one away"))
    'Expected two of them; got three. Cure: take one away.'
    """
    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, UsageError):
            # A data loading process passes its traceback on as text, which ends with type and message.
            return str(reason).rpartition(f"{type(reason).__name__}: ")[2].strip()
        reason = reason.__cause__ or reason.__context__
    return None
