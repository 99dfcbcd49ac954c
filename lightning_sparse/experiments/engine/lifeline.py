"""A training ends with whoever started it, even if that is killed: a pipe as standard input is closed by the system."""

from __future__ import annotations

import os
import signal
import threading

# The last argument of a training whose standard input is such a pipe.
LIFELINE = "lifeline"


def end_with_parent() -> None:
    """End this process, and what it has started, when the other end of its standard input is closed.

    Processes that it starts have the same standard input, and watch it on their own if they call this.
    """
    threading.Thread(target=_wait_and_end, name=LIFELINE, daemon=True).start()


def _wait_and_end() -> None:
    # Not sys.stdin: a thread that holds its lock makes Python abort at the end of a process.
    while os.read(0, 1):
        pass
    if hasattr(os, "killpg") and os.getsid(0) == os.getpgid(0):  # the group is the training's own
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
