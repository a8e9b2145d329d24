"""A PostgreSQL of one's own, in a folder that goes away with it."""

import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import glob
from itertools import count
from pathlib import Path

# Debian keeps the programs of a PostgreSQL server away from the path.
os.environ["PATH"] = ":".join([os.environ["PATH"], *glob("/usr/lib/postgresql/*/bin")])


@contextmanager
def cluster() -> Iterator[Callable[[], str]]:
    """Makes an empty database at each call, and returns its URL."""
    programs = Path(shutil.which("pg_ctl") or "").resolve().parent
    folder = Path(tempfile.mkdtemp(prefix="mochi-pg"))
    user = "postgres" if os.getuid() == 0 else getpass.getuser()
    if os.getuid() == 0:
        shutil.chown(folder, user)

    def call(program: str, *words: str) -> None:
        where = {"user": user} if os.getuid() == 0 else {}
        command = [str(programs / program), *words]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, timeout=300, **where)

    data = str(folder / "data")
    call("initdb", "-D", data, "-A", "trust", "-U", "mochi", "--no-sync", "-E", "UTF8")
    settings = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
    log = ["-l", str(folder / "log")]
    call("pg_ctl", "-D", data, *log, "-o", f"{settings} -c max_connections=200", "-w", "start")
    names = (f"test{number}" for number in count())

    def make() -> str:
        name = next(names)
        call("createdb", "-h", str(folder), "-U", "mochi", name)
        return f"postgresql://mochi@/{name}?host={folder}"

    try:
        yield make
    finally:
        call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)
