"""A server of PostgreSQL for tests, where its programs are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# The server refuses to be run by root.
RUNS_AS: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


def why_no_server() -> str:
    """Return what is missing, "" if nothing is."""
    if not all(map(_program, ("initdb", "pg_ctl"))):
        return "no server of PostgreSQL: apt-get install postgresql"
    if find_spec("psycopg") is None:
        return "no driver of PostgreSQL: pip install 'psycopg[binary]'"
    if RUNS_AS and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        return "no user postgres: apt-get install postgresql"
    return ""


def _program(name: str) -> str:
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(installed[-1]) if installed else "")


@contextmanager
def server() -> Iterator[str]:
    """Start a server, which listens on a socket in a folder of its own only, and give the URL of a database."""
    place = Path(tempfile.mkdtemp())  # the folders of pytest can't be entered by other users

    def call(name: str, *options: str) -> None:
        command = [_program(name), f"--pgdata={place / 'data'}", *options]
        with (place / "output").open("ab") as output:  # a pipe would wait for the server's end
            done = subprocess.run(command, cwd=place, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **RUNS_AS)
        if done.returncode:
            raise RuntimeError(f"{name} failed: {(place / 'output').read_text()}")

    try:
        if RUNS_AS:
            shutil.chown(place, RUNS_AS["user"], RUNS_AS["group"])
        call("initdb", "--username=tester", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
        call("pg_ctl", "start", "-w", f"--options=-k {place} -c listen_addresses= -c fsync=off")
        try:
            yield f"postgresql://tester@/postgres?host={place}"
        finally:
            call("pg_ctl", "stop", "--mode=immediate")
    finally:
        shutil.rmtree(place)
