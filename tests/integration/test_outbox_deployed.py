"""An outbox as operators see it: migrations, `jobd run --outbox`, `jobd check`, and the guide on PostgreSQL."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Engine, create_engine, inspect

import peerjob.sql.alembic
from peerjob import Job, Node, OptionError, State
from peerjob.sql import Outbox, OutboxRelay
from peerjob.sql.alembic import CreateOutbox, DropOutbox
from support.jobd import Jobd
from support.outbox_base import Base
from support.pages import DOCS, files
from support.postgres import Database
from support.processes import ChildProcess

outbox = Outbox()
double = Job("double", lambda x: 2 * x)
TABLES = {"peerjob_outbox", "peerjob_outbox_bad", "peerjob_inbox", "peerjob_inbox_fence"}


@pytest.fixture(params=["postgres", "sqlite"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path}/own.db" if request.param == "sqlite" else request.getfixturevalue("postgres").url()
    made = create_engine(url)
    yield made
    made.dispose()


@pytest.fixture
def jobd(tmp_path: Path) -> Iterator[Jobd]:
    made = Jobd(tmp_path)
    with contextlib.ExitStack() as stack:
        yield made
        for child in made.children:
            stack.callback(child.close)


def test_operations_of_alembic_make_and_remove_the_tables(engine: Engine) -> None:
    assert peerjob.sql.alembic.__all__ == ["CreateOutbox", "DropOutbox"]
    with engine.begin() as connection:
        op: Any = Operations(MigrationContext.configure(connection))
        op.create_outbox()
        op.create_outbox()
    assert set(inspect(engine).get_table_names()) == TABLES
    with engine.begin() as connection:
        Operations(MigrationContext.configure(connection)).invoke(CreateOutbox().reverse())
    assert inspect(engine).get_table_names() == []
    assert isinstance(DropOutbox("x").reverse(), CreateOutbox)


def test_a_migration_can_be_written_as_sql() -> None:
    lines: list[str] = []
    buffer: Any = type("Buffer", (), {"write": lambda _self, text: lines.append(text), "flush": lambda _self: None})()
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True, "output_buffer": buffer})
    op: Any = Operations(context)
    op.create_outbox("app.orders")
    text = "".join(lines)
    assert "CREATE TABLE IF NOT EXISTS app.orders (" in text
    assert "CREATE TABLE IF NOT EXISTS app.peerjob_inbox (" in text


async def checked(jobd: Jobd, *options: str, status: int = 0) -> dict[str, list[tuple[str, str]]]:
    child = jobd.launch("check", "--json", *options)
    assert await child.exit() == status, child.lines
    told: dict[str, list[tuple[str, str]]] = {}
    for finding in json.loads(child.lines[-1]):
        told.setdefault(finding["subject"], []).append((finding["verdict"], finding["text"]))
    return told


async def test_jobd_relays_and_checks_an_outbox(
    jobd: Jobd, postgres: Database, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    file = tmp_path / "outbox-url"
    file.write_text(postgres.url().replace("postgresql+psycopg", "postgresql"))
    file.chmod(0o600)
    options = ("--store", redis_url, "--namespace", namespace, "--outbox-file", str(file))
    ((verdict, text),) = (await checked(jobd, *options, status=1))["outbox"]
    assert verdict == "fail"
    assert "CREATE TABLE IF NOT EXISTS peerjob_outbox" in text
    with psycopg.connect(postgres.conninfo) as connection:
        outbox.create_table(connection)
        row = outbox.schedule(connection, double.call(21))
        connection.execute(
            "INSERT INTO peerjob_outbox_bad SELECT gen_random_uuid(), '', now(), NULL, 'broken' FROM peerjob_outbox"
        )
    told = (await checked(jobd, *options))["outbox"]
    assert told[0][0] == "ok"
    assert told[0][1].startswith("peerjob_outbox: 1 row(s) wait, the oldest for ")
    assert told[1] == ("warn", "1 row(s) cannot be sent; the table peerjob_outbox_bad has them with their errors")
    with psycopg.connect(postgres.conninfo) as connection:
        connection.execute("UPDATE peerjob_outbox SET created = now() - interval '2 hours'")
    assert (await checked(jobd, *options))["outbox"][0][0] == "warn"
    jobd.run(*options)
    async with Node(redis_url, namespace=namespace, workers=0) as node:
        assert await row.result(node, 30) == 42
        assert (await node.lookup_instance(row.id)).state is State.COMPLETED


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nonsense", "a text that is no URL"),
        ("mysql://root:secret@h/d", "mysql"),
        ("postgresql+nothing://u:secret@h/d", r"postgresql\+nothing"),
    ],
)
def test_a_bad_url_is_refused_without_its_password(url: str, problem: str) -> None:
    with pytest.raises(OptionError, match=f"outbox: .*{problem}") as caught:
        OutboxRelay.at(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("driver", ["asyncpg", "aiosqlite"])
async def test_a_relay_takes_the_url_of_an_asynchronous_program(
    request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path, driver: str
) -> None:
    database: Database | None = request.getfixturevalue("postgres") if driver == "asyncpg" else None
    base = Base(driver, database, tmp_path / "own.db")
    with base.engine.begin() as connection:
        row = outbox.schedule(connection, double.call(21))
    relay = OutboxRelay.at(base.relay_engine.url.render_as_string(hide_password=False))
    assert (await relay.state()).rows == 1
    async with Node(redis_url, jobs=[double], namespace=namespace, outbox=relay) as node:
        assert await row.result(node, 30) == 42
    await base.close()


def test_what_is_no_engine_is_refused() -> None:
    with pytest.raises(OptionError, match="engine: expected an Engine or AsyncEngine of SQLAlchemy, got 'str'"):
        OutboxRelay("postgresql://")
    with pytest.raises(OptionError, match="outbox: expected a Relay or None") as caught:
        Node("memory://", outbox="postgresql://u:secret@h/d")  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("driver", ["psycopg", pytest.param("asyncpg", marks=pytest.mark.matrix("another driver"))])
async def test_the_guide_on_postgresql(postgres: Database, redis_url: str, tmp_path: Path, driver: str) -> None:
    for name, code in files(DOCS / "guides" / "outbox.md").items():
        (tmp_path / name).write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:anyio", "-p", "no:xdist"]
    command += ["-o", "asyncio_default_fixture_loop_scope=function"]
    command += ["-o", "asyncio_mode=auto", "-W", "error", str(tmp_path)]
    env = {"SHOP_DATABASE": postgres.url(driver), "PEERJOB_STORE": redis_url, "PYTHONPATH": str(tmp_path)}
    with ChildProcess(command, output=tmp_path / "output", env=env, cwd=tmp_path) as child:
        assert await child.exit() == 0, child.lines
    with psycopg.connect(postgres.conninfo) as connection:
        assert connection.execute("SELECT count(*) FROM invoices").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM peerjob_outbox").fetchone() == (0,)
