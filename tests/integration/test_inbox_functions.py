"""What a function of `transact` may do with its transaction, and `transact` in the process of a body."""

import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from peerjob import DecodeError, Job, JobFailed, Node, OptionError
from peerjob.sql import transact
from support.inbox_site import Bank, Claims, bank_of, book, book_later, write
from support.postgres import Database


@pytest.fixture(params=["postgres", "sqlite"])
async def bank(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bank]:
    database: Database | None = request.getfixturevalue("postgres") if request.param == "postgres" else None
    async with bank_of(database, tmp_path / "bank.db") as made:
        yield made


def commits_connection(session: Session) -> None:
    session.connection().commit()


def commits_and_ignores_the_error(session: Session) -> None:
    with contextlib.suppress(OptionError):
        session.connection().commit()


def says_commit(session: Session) -> None:
    session.execute(text(" commit"))
    write(session, 2)


def says_commit_after_comments(session: Session) -> None:
    session.execute(text("-- the end\n/* of\nit */ COMMIT"))


def says_end(session: Session) -> None:
    session.execute(text("END"))


def rolls_session_back(session: Session) -> None:
    session.rollback()
    write(session, 2)


def rolls_connection_back(session: Session) -> None:
    session.connection().rollback()


ENDS: list[tuple[Callable[[Session], None], str]] = [
    (commits_connection, "a commit inside"),
    (commits_and_ignores_the_error, "a commit inside"),
    (says_commit, "COMMIT inside"),
    (says_commit_after_comments, "COMMIT inside"),
    (says_end, "END inside"),
    (rolls_session_back, "a rollback inside"),
    (rolls_connection_back, "a rollback inside"),
]


@pytest.mark.parametrize(("end", "told"), ENDS, ids=[end.__name__ for end, _ in ENDS])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_a_function_that_ends_its_transaction_is_refused_and_writes_nothing(
    bank: Bank, end: Callable[[Session], None], told: str, *, is_async: bool
) -> None:
    def ends(session: Session) -> None:
        write(session, 1)
        end(session)

    async def ends_later(session: AsyncSession) -> None:
        await session.run_sync(ends)

    context = Claims().run(1)
    call = (
        transact(context, bank.async_engine, ends_later, name="ends")
        if is_async
        else transact(context, bank.engine, ends, name="ends")
    )
    with pytest.raises(OptionError, match=rf"function: expected .* its transaction .*{told} of transact 'ends'"):
        await call
    assert (bank.written(), bank.kept()) == ([], [])
    # neither engine keeps a connection whose transaction is open
    assert (await transact(context, bank.engine, write, 5)).number == 5
    assert bank.written() == [5]


def commits_driver(session: Session) -> None:
    driver: Any = session.connection().connection.driver_connection
    driver.commit()


def commits_after_another_statement(session: Session) -> None:
    session.connection().exec_driver_sql("SELECT 1; COMMIT")


@pytest.mark.parametrize("end", [commits_driver, commits_after_another_statement])
@pytest.mark.parametrize("goes_on", [False, True])
async def test_the_database_refuses_a_commit_that_sqlalchemy_does_not_see(
    postgres: Database, tmp_path: Path, end: Callable[[Session], None], *, goes_on: bool
) -> None:
    def ends(session: Session) -> None:
        write(session, 1)
        try:
            end(session)
        except Exception:
            if not goes_on:
                raise
        session.connection().connection.driver_connection.execute("INSERT INTO written VALUES (2)")  # type: ignore[union-attr]

    async with bank_of(postgres, tmp_path) as bank:
        claims = Claims()
        with pytest.raises(OptionError, match=r"got .a commit of the driver's connection"):
            await transact(claims.run(1), bank.engine, ends, name="ends")
        assert (bank.written(), bank.kept(), bank.kept("peerjob_inbox_fence")) == ([], [], [])
        assert (await transact(claims.run(1), bank.engine, write, 5)).number == 5
        # the next name, and a later run that finds the value
        assert (await transact(claims.run(1), bank.engine, write, 6, name="next")).number == 6
        assert (await transact(claims.run(2), bank.engine, write, 7)).number == 5
        assert bank.written() == [5, 6]


async def test_the_commit_of_an_asynchronous_driver_is_refused(postgres: Database, tmp_path: Path) -> None:
    async def ends(session: AsyncSession) -> None:
        await session.execute(text("INSERT INTO written VALUES (1)"))
        driver: Any = (await (await session.connection()).get_raw_connection()).driver_connection
        await driver.execute("COMMIT")

    async with bank_of(postgres, tmp_path) as bank:
        with pytest.raises(OptionError, match=r"got .a commit of the driver's connection"):
            await transact(Claims().run(1), bank.async_engine, ends)
        assert (bank.written(), bank.kept()) == ([], [])


@pytest.mark.parametrize("checks_keys", [False, True])
async def test_sqlite_refuses_a_commit_of_the_driver_if_it_checks_foreign_keys(
    tmp_path: Path, *, checks_keys: bool
) -> None:
    def ends(session: Session) -> None:
        write(session, 1)
        commits_driver(session)

    async with bank_of(None, tmp_path / "bank.db") as bank:
        if checks_keys:
            event.listen(bank.engine, "connect", lambda driver, _: driver.execute("PRAGMA foreign_keys = ON"))
            bank.engine.dispose()
        expected = sqlite3.IntegrityError if checks_keys else OptionError
        told = "FOREIGN KEY" if checks_keys else "got .a commit of the driver's connection, which leaves writes without"
        claims = Claims()
        with pytest.raises(expected, match=told):
            await transact(claims.run(1), bank.engine, ends, name="ends")
        written = [] if checks_keys else [1]  # the writes before the commit are in the database
        assert (bank.written(), bank.kept()) == (written, [])
        for fence in (2, 3):
            assert (await transact(claims.run(fence), bank.engine, write, fence)).number == 2
        assert bank.written() == [*written, 2]


async def test_a_function_may_undo_a_part_and_commit_its_session(bank: Bank) -> None:
    def parts(session: Session) -> str:
        session.execute(text("CREATE TABLE once (number integer PRIMARY KEY)"))
        for number in (1, 1, 2):
            try:
                with session.begin_nested():
                    write(session, number)
                    session.execute(text("INSERT INTO once VALUES (:number)"), {"number": number})
            except IntegrityError:
                pass
        session.execute(text("SAVEPOINT own"))
        write(session, 3)
        session.execute(text("ROLLBACK TO SAVEPOINT own"))
        session.commit()
        write(session, 4)
        return "kept"

    claims = Claims()
    assert [await transact(claims.run(fence), bank.engine, parts, name="parts") for fence in (1, 2)] == ["kept"] * 2
    assert bank.written() == [1, 2, 4]


class Base(DeclarativeBase):
    pass


class Written(Base):
    __tablename__ = "written"
    number: Mapped[int] = mapped_column(primary_key=True)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_objects_of_the_session_are_written(bank: Bank, *, is_async: bool) -> None:
    def adds(session: Session) -> None:
        session.add(Written(number=1))

    async def adds_later(session: AsyncSession) -> None:
        session.add(Written(number=1))

    context = Claims().run(1)
    if is_async:
        await transact(context, bank.async_engine, adds_later, name="adds")
    else:
        await transact(context, bank.engine, adds, name="adds")
    assert bank.written() == [1]


async def test_an_error_of_the_database_stays_the_error_of_the_function(bank: Bank) -> None:
    def fails(session: Session) -> None:
        session.execute(text("CREATE TABLE once (number integer PRIMARY KEY)"))
        for _ in range(2):
            session.execute(text("INSERT INTO once VALUES (1)"))

    with pytest.raises(IntegrityError):
        await transact(Claims().run(1), bank.engine, fails, name="fails")


async def test_a_kept_value_of_another_type_is_told(tmp_path: Path) -> None:
    async with bank_of(None, tmp_path / "bank.db") as bank:
        claims = Claims()
        await transact(claims.run(1), bank.engine, write, 1)
        with bank.engine.begin() as connection:
            connection.execute(text("UPDATE peerjob_inbox SET value = 0"))
        with pytest.raises(DecodeError, match=r"value 'write' of .* in the inbox is int, and not bytes"):
            await transact(claims.run(2), bank.engine, write, 2)
        assert bank.written() == [1]


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_transact_works_in_the_process_of_a_body(bank: Bank, way: str) -> None:
    sync = Job("book", book, run_in="process", max_retries=1)
    later = Job("later", book_later, run_in="process", max_retries=1)
    async with Node("memory://", jobs=[sync, later], workers=1) as node:
        for number in (1, 2):
            call = sync.call(bank.url, number) if way == "sync" else later.call(bank.async_url, number)
            written, pid = await (await node.schedule(call)).result(60)
            assert written == number
            assert pid != os.getpid()
    assert bank.written() == [1, 2]


async def test_a_pool_of_an_ended_event_loop_is_told(postgres: Database, tmp_path: Path) -> None:
    """Asyncpg cannot use a connection in the next event loop of a process."""
    later = Job("later", book_later, run_in="process", max_retries=1, backoff="0s")
    async with bank_of(postgres, tmp_path) as bank, Node("memory://", jobs=[later], workers=1) as node:
        with pytest.raises(JobFailed, match="an AsyncEngine with poolclass=NullPool, or an Engine"):
            await (await node.schedule(later, bank.async_url, 1, True)).result(60)
        assert bank.written() == [1], "the first attempt"
