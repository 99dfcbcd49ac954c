"""One process at a time, where there are locks."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from lightning_sparse.data.locking import exclusive


def test_another_one_is_kept_out_and_let_in_afterwards(tmp_path: Path) -> None:
    file = tmp_path / "new" / "lock"
    with exclusive(file, timeout=0), pytest.raises(Timeout), FileLock(file, timeout=0):
        pass
    with FileLock(file, timeout=0), pytest.raises(Timeout), exclusive(file, timeout=0):
        pytest.fail("let in")
    with exclusive(file, timeout=0):
        pass


@pytest.mark.parametrize("failure", [OSError("read-only"), NotImplementedError()], ids=["read-only", "no locks"])
def test_where_there_are_no_locks_what_is_done_is_done(
    failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise failure

    monkeypatch.setattr("filelock.FileLock.acquire", fail)
    entered = False
    with exclusive(tmp_path / "lock", timeout=0):
        entered = True
    assert entered


def test_an_error_inside_is_not_taken_for_one_of_the_lock(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="inside"), exclusive(tmp_path / "lock"):
        raise OSError("inside")
    with FileLock(tmp_path / "lock", timeout=0):
        pass
