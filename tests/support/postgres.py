"""A PostgreSQL of a test, from Debian's packages or in a container, on a Unix socket."""

import os
import shlex
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString, NamedTuple

import psycopg
from psycopg import sql

from support.containers import ContainerProcess, image_of
from support.processes import ChildProcess
from support.servers import MissingServerError

INITDB = ("--auth=trust", "--username=postgres", "--no-sync", "--pgdata")
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
    image = None
    try:
        found = programs()
    except MissingServerError:
        image, found = image_of("postgres"), Path()
        if image is None:
            raise
    with tempfile.TemporaryDirectory(prefix="peerjob-postgres-") as folder:
        home = Path(folder)
        with _in_container(image, home, output) if image is not None else _in_process(found, home, output) as server:
            server.wait_for("ready to accept connections")
            with psycopg.connect(host=str(home), user="postgres", dbname="postgres"):
                yield home


def _in_process(found: Path, home: Path, output: Path) -> ChildProcess:
    if USER is not None:
        shutil.chown(home, USER)
    data = home / "data"
    initdb: list[str | Path] = [found / "initdb", *INITDB, data]
    subprocess.run(initdb, check=True, user=USER, cwd=home, capture_output=True)
    command: list[str | Path] = [found / "postgres", "-D", data, *_settings(home)]
    if USER is not None:
        command = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *command]
    return ChildProcess(command, output=output)


def _in_container(image: str, home: Path, output: Path) -> ChildProcess:
    """Keep the data in the container: another user owns them, and a test could not remove them."""
    home.chmod(0o777)
    serve = shlex.join(["postgres", "-D", "/tmp/data", *_settings(home)])
    command = ["sh", "-c", f"{shlex.join(['initdb', *INITDB, '/tmp/data'])} >/dev/null && exec {serve}"]
    return ContainerProcess(image, command, folder=home, output=output, user="postgres")


def _settings(home: Path) -> list[str]:
    options = {"listen_addresses": "", "unix_socket_directories": str(home), "fsync": "off", "jit": "off"}
    options["max_prepared_transactions"] = "4"
    return [f"--{name}={value}" for name, value in options.items()]


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

    def execute(statement: LiteralString) -> None:
        # a test can end all connections
        with psycopg.connect(host=str(host), user="postgres", dbname="postgres", autocommit=True) as admin:
            admin.execute(sql.SQL(statement).format(sql.Identifier(name)))

    execute("CREATE DATABASE {}")
    try:
        yield Database(host, name)
    finally:
        execute("DROP DATABASE {} WITH (FORCE)")
