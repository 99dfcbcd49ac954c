"""What our own errors say."""

from __future__ import annotations

import re

# Also as a process that reads data passes them on.
_OURS = re.compile(r"\A(?:Caught \w+ in .+\n\w+: )?(Expected .+; got .+\bCure: .+)", re.DOTALL)


def refusal(error: BaseException) -> str | None:
    """Return what an error of ours says, to which a traceback adds nothing; None for other errors.

    >>> refusal(ValueError("Expected 2 of them; got 3. Cure: take one away."))
    'Expected 2 of them; got 3. Cure: take one away.'
    """
    found = _OURS.match(str(error))
    return None if found is None else found[1].strip()
