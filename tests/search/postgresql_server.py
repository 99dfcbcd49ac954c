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
    if RUNS_AS:
        shutil.chown(place, RUNS_AS["user"], RUNS_AS["group"])
    # Reads to the end of its input, which comes when this process is killed, too.
    ending = 'read -r _; "$0" stop --pgdata="$1/data" --mode=immediate; rm -r "$1"'
    with (place / "output").open("ab") as output:
        files: dict[str, Any] = {"cwd": "/", "stdout": output, "stderr": output, "start_new_session": True}
        command = ["sh", "-c", ending, _program("pg_ctl"), str(place)]
        end = subprocess.Popen(command, stdin=subprocess.PIPE, **files, **RUNS_AS)

        def call(name: str, *options: str) -> None:
            command = [_program(name), f"--pgdata={place / 'data'}", *options]
            if subprocess.run(command, stdin=subprocess.DEVNULL, **files, **RUNS_AS).returncode:
                raise RuntimeError(f"{name} failed: {(place / 'output').read_text()}")

        try:
            call("initdb", "--username=tester", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
            call("pg_ctl", "start", "-w", f"--options=-k {place} -c listen_addresses= -c fsync=off")
            yield f"postgresql://tester@/postgres?host={place}"
        finally:
            end.communicate()
