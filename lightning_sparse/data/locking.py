"""One process at a time, where the file system can tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def exclusive(file: Path, timeout: float = -1) -> Iterator[None]:
    """Keep other processes out for as long as this one is in here or lives; let it in where there are no locks.

    Args:
        file: Stands for what is done; its folder is made.
        timeout: Seconds to wait for another process; < 0: for as long as it takes.

    Raises:
        Timeout: If another process is still in there.
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
        lock.release()  # which does nothing for one that was not acquired
