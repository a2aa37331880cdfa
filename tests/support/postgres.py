"""A PostgreSQL of a test, from Debian's packages, on a Unix socket."""

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg import sql

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
        options["max_prepared_transactions"] = "4"
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


class Database(NamedTuple):
    """A database on a server of the tests."""

    host: Path
    name: str

    def url(self, driver: str = "psycopg") -> str:
        """The URL of SQLAlchemy."""
        return f"postgresql+{driver}://postgres@/{self.name}?host={self.host}"

    @property
    def conninfo(self) -> str:
        """What psycopg takes."""
        return f"host={self.host} user=postgres dbname={self.name}"


@contextmanager
def new_database(host: Path) -> Generator[Database]:
    """Make a database, and remove it with the connections to it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(host=str(host), user="postgres", dbname="postgres", autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield Database(host, name)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
