"""A PostgreSQL of a test, from Debian's packages, on a Unix socket."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from support.processes import ChildProcess
from support.servers import MissingServerError

# a root user may not run PostgreSQL
USER = "postgres" if os.geteuid() == 0 else None


def programs() -> Path:
    """The folder of initdb and postgres; raises MissingServerError."""
    found = shutil.which("postgres")
    if found is not None:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda one: float(one.parent.name))
    if not folders:
        raise MissingServerError("no `postgres` on the PATH: apt-get install postgresql")
    return folders[-1]


@contextmanager
def running_postgres(output: Path) -> Generator[Path]:
    """Run a new server; yields the folder of its socket, which is its host. Its user `postgres` needs no password."""
    found = programs()
    with tempfile.TemporaryDirectory(prefix="peerjob-postgres-") as folder:
        home = Path(folder)
        if USER is not None:
            shutil.chown(home, USER)
        data = home / "data"
        initdb: list[str | Path] = [
            found / "initdb",
            "--auth=trust",
            "--username=postgres",
            "--no-sync",
            "--pgdata",
            data,
        ]
        subprocess.run(initdb, check=True, user=USER, cwd=home, capture_output=True)
        options = {"listen_addresses": "", "unix_socket_directories": str(home), "fsync": "off", "jit": "off"}
        command: list[str | Path] = [
            found / "postgres",
            "-D",
            data,
            *(f"--{name}={value}" for name, value in options.items()),
        ]
        if USER is not None:
            command = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *command]
        with ChildProcess(command, output=output) as server:
            server.wait_for("ready to accept connections")
            with psycopg.connect(host=str(home), user="postgres", dbname="postgres"):
                yield home
