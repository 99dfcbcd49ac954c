"""A lock excludes other processes, where the file system has locks."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from lightning_sparse.data.locking import exclusive


def test_a_lock_excludes_another_process_until_it_is_released(tmp_path: Path) -> None:
    file = tmp_path / "new" / "lock"
    with exclusive(file, timeout=0), pytest.raises(Timeout), FileLock(file, timeout=0):
        pass
    with FileLock(file, timeout=0), pytest.raises(Timeout), exclusive(file, timeout=0):
        pytest.fail("let in")
    with exclusive(file, timeout=0):
        pass


@pytest.mark.parametrize("failure", [OSError("read-only"), NotImplementedError()], ids=["read-only", "no locks"])
def test_without_locks_in_the_file_system_the_body_still_runs(
    failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise failure

    monkeypatch.setattr("filelock.FileLock.acquire", fail)
    entered = False
    with exclusive(tmp_path / "lock", timeout=0):
        entered = True
    assert entered


def test_an_error_in_the_body_is_raised_unchanged(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="inside"), exclusive(tmp_path / "lock"):
        raise OSError("inside")
    with FileLock(tmp_path / "lock", timeout=0):
        pass
