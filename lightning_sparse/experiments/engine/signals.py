"""Signals that end a command are exceptions while trainings run, so that these are ended, too."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ending_signals_raise() -> Iterator[None]:
    """Turn signals that end the process into SystemExit: Python would otherwise end without running `finally`."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
        yield
        return
    ending = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in ending}
    handled = [number for number in ending if before[number] != signal.SIG_IGN]  # nohup ignores SIGHUP
    for number in handled:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])
