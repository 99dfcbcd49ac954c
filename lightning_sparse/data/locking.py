"""File locks between processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def exclusive(file: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a file lock in the body of a ``with``; continue without one where the file system has no locks.

    Args:
        file: Lock file; its folder is made.
        timeout: Seconds to wait for another process; < 0: no limit.

    Raises:
        Timeout: If another process still holds the lock.
    """
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=timeout)
    except Timeout:
        raise
    except (OSError, NotImplementedError):  # a read-only folder, or one whose file system has no locks
        pass
    try:
        yield
    finally:
        lock.release()  # no effect if it was not acquired
