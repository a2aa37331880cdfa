"""`transact` runs a function once for each instance and name, and refuses a run whose claim was taken over."""

import asyncio
import contextlib
import threading
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from peerjob import INJECTED, Context, Job, JobFailed, JobTimedOut, Node, OptionError, OwnershipLost, Retry, TableError
from peerjob.sql import OutboxRelay, transact
from support.inbox_site import Bank, Claims, Invoice, bank_of, outbox, write, write_async
from support.postgres import Database
from support.waiting import until


@pytest.fixture(params=["postgres", "sqlite"])
async def bank(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bank]:
    database: Database | None = request.getfixturevalue("postgres") if request.param == "postgres" else None
    async with bank_of(database, tmp_path / "bank.db") as made:
        yield made


INVOICE = Invoice(7, datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("way", ["async engine", "engine in an async body", "engine in a sync body"])
async def test_a_function_runs_once_for_an_instance(bank: Bank, way: str) -> None:
    seen: list[Any] = []

    async def in_async(context: Context = INJECTED) -> None:
        if way == "async engine":
            seen.append(await transact(context, bank.async_engine, write_async, 7))
        else:
            seen.append(await transact(context, bank.engine, write, 7))
        if context.attempt < 3:
            raise Retry(after=0)

    def in_sync(context: Context = INJECTED) -> None:
        seen.append(transact(context, bank.engine, write, 7))
        if context.attempt < 3:
            raise Retry(after=0)

    job = Job("book", in_sync if "sync body" in way and "async" not in way else in_async, max_retries=5)
    async with Node("memory://", jobs=[job]) as node:
        await (await node.schedule(job)).result(30)
        assert seen == [INVOICE] * 3
        assert bank.written() == [7]
        # another instance is another key
        await (await node.schedule(job)).result(30)
        assert bank.written() == [7, 7]


async def test_names_are_apart_and_values_may_be_none(bank: Bank) -> None:
    async def none(session: AsyncSession, number: int) -> object:
        await write_async(session, number)
        return None

    async def body(context: Context = INJECTED) -> tuple[Any, ...]:
        first = await transact(context, bank.async_engine, none, 1, name="first")
        second = await transact(context, bank.async_engine, none, 2, name="second")
        third = await transact(context, bank.async_engine, write_async, 3)
        if context.attempt == 1:
            raise Retry(after=0)
        return first, second, third.number

    job = Job("book", body, max_retries=1)
    async with Node("memory://", jobs=[job]) as node:
        assert tuple(await (await node.schedule(job)).result(30)) == (None, None, 3)
    assert bank.written() == [1, 2, 3]
    assert sorted(row[1] for row in bank.kept()) == ["first", "second", "write_async"]


async def test_an_error_rolls_back_and_the_name_can_be_used_again(bank: Bank) -> None:
    async def fails(session: AsyncSession) -> None:
        await write_async(session, 1)
        await session.commit()  # a commit of the session does not end the transaction
        raise ZeroDivisionError

    async def unfit(session: AsyncSession) -> object:
        await write_async(session, 2)
        return object()

    async def body(context: Context = INJECTED) -> None:
        with contextlib.suppress(ZeroDivisionError):
            await transact(context, bank.async_engine, fails, name="x")
        with pytest.raises(TypeError, match="cannot be stored"):
            await transact(context, bank.async_engine, unfit, name="x")
        await transact(context, bank.async_engine, write_async, 3, name="x")

    job = Job("book", body, max_retries=0)
    async with Node("memory://", jobs=[job]) as node:
        await (await node.schedule(job)).result(30)
    assert bank.written() == [3]


async def test_a_call_that_waits_for_a_thread_does_not_outlast_its_run(bank: Bank) -> None:
    loop, full, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))

    async def body(context: Context = INJECTED) -> None:
        loop.run_in_executor(None, go_on.wait)
        full.set()
        await transact(context, bank.engine, write, 1)

    job = Job("book", body, timeout="200ms", max_retries=0)
    async with Node("memory://", jobs=[job]) as node:
        instance = await node.schedule(job)
        with pytest.raises(JobTimedOut):
            await instance.result(30)
        assert full.is_set()
        go_on.set()
        await loop.run_in_executor(None, lambda: None)
    assert bank.written() == []


@pytest.mark.parametrize("is_async", [True, False])
async def test_after_a_later_claim_has_written_no_write_of_an_earlier_one_commits(
    bank: Bank, *, is_async: bool
) -> None:
    claims = Claims()

    async def run(fence: int, number: int, name: str) -> Any:
        if is_async:
            return await transact(claims.run(fence), bank.async_engine, write_async, number, name=name)
        return await transact(claims.run(fence), bank.engine, write, number, name=name)

    await run(5, 1, "a")
    await run(9, 2, "b")
    for name in ("a", "b", "c"):
        with pytest.raises(OwnershipLost, match="under fence 5 any more: a later claim has written"):
            await run(5, 3, name)
    assert (await run(9, 4, "a")).number == 1
    await run(9, 5, "c")
    assert bank.written() == [1, 2, 5]
    assert [(str(row[0]), row[1]) for row in bank.kept("peerjob_inbox_fence")] == [(claims.id, 9)]


async def test_an_earlier_claim_that_is_within_its_transaction_ends_before_the_later_one(bank: Bank) -> None:
    claims, inside, go_on = Claims(), asyncio.Event(), asyncio.Event()

    async def slow(session: AsyncSession) -> int:
        await write_async(session, 1)
        inside.set()
        await go_on.wait()
        return 1

    async def quick(session: AsyncSession) -> int:
        await write_async(session, 2)
        return 2

    loop = asyncio.get_running_loop()
    early = loop.create_task(transact(claims.run(1), bank.async_engine, slow, name="x"))
    await inside.wait()
    late = loop.create_task(transact(claims.run(2), bank.async_engine, quick, name="x"))
    await asyncio.sleep(0.2)
    assert not late.done()
    go_on.set()
    assert (await early, await late) == (1, 1)
    assert bank.written() == [1]


async def test_bad_calls_are_refused_before_anything_is_written(bank: Bank) -> None:
    async def body(context: Context = INJECTED) -> None:
        async def nests(session: AsyncSession) -> None:
            await transact(context, bank.async_engine, write_async, 1, name="inner")

        with pytest.raises(OptionError, match="transact: expected a call after the end of transact 'outer'"):
            await transact(context, bank.async_engine, nests, name="outer")
        await transact(context, bank.async_engine, write_async, 1, name="twice")
        with pytest.raises(OptionError, match="name: expected a name that this run has not used"):
            await transact(context, bank.async_engine, write_async, 2, name="twice")
        wrong: Any = transact
        with pytest.raises(OptionError, match="function: expected an async function, for an AsyncEngine"):
            wrong(context, bank.async_engine, write, 1)
        with pytest.raises(OptionError, match="function: expected a function that is not async, for an Engine"):
            wrong(context, bank.engine, write_async, 1)
        with pytest.raises(OptionError, match="engine: expected an Engine or AsyncEngine"):
            wrong(context, "postgresql://", write, 1)
        with pytest.raises(OptionError, match="name: expected a name, because the function has none"):
            wrong(context, bank.engine, lambda session: 1)
        with pytest.raises(OptionError, match="context: expected the Context of the job that runs"):
            wrong(None, bank.engine, write, 1)
        commits = bank.engine.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(OptionError, match="in autocommit"):
            await transact(context, commits, write, 5)

    job = Job("book", body, max_retries=0)
    async with Node("memory://", jobs=[job]) as node:
        await (await node.schedule(job)).result(30)
    with pytest.raises(OptionError, match=r"context: .* got 'the context of no job'"):
        transact(Context.current(), bank.engine, write, 1)
    assert bank.written() == [1]


async def test_a_missing_inbox_is_told_with_its_ddl(bank: Bank) -> None:
    bank.execute("DROP TABLE peerjob_inbox_fence")
    with pytest.raises(TableError, match=r"table peerjob_inbox_fence is missing(.|\n)*CREATE TABLE"):
        await transact(Claims().run(1), bank.async_engine, write_async, 1)
    assert bank.written() == []


async def test_the_relay_cleans_the_inbox_of_instances_that_are_over(bank: Bank) -> None:
    go_on = asyncio.Event()

    async def body(hold: bool, context: Context = INJECTED) -> None:
        await transact(context, bank.async_engine, write_async, 1)
        if hold:
            await go_on.wait()

    job = Job("book", body)
    async with Node("memory://", jobs=[job], namespace=f"n{uuid.uuid4().hex[:8]}") as first:
        over = await first.schedule(job, False)
        await over.result(30)
        held = await first.schedule(job, True)
        await until(lambda: len(bank.kept()) == 2)
        fresh = await first.schedule(job, False)
        await fresh.result(30)
        gone = Claims()
        await transact(gone.run(1), bank.async_engine, write_async, 1)
        old = "'2020-01-01'"
        for id in (over.id, held.id, gone.id):
            bank.execute(f"UPDATE peerjob_inbox_fence SET written = {old} WHERE instance = :id", id=id)
        relay: Any = OutboxRelay(bank.engine)
        async with Node(first._store, outbox=relay, workers=0) as second:  # pyright: ignore[reportPrivateUsage]
            assert second.running
            await until(lambda: {str(row[0]) for row in bank.kept("peerjob_inbox_fence")} == {held.id, fresh.id})
            assert {str(row[0]) for row in bank.kept()} == {held.id, fresh.id}


def test_clean_removes_old_instances_without_a_relay(tmp_path: Path) -> None:
    bank = Bank(f"sqlite:///{tmp_path}/bank.db", f"sqlite+aiosqlite:///{tmp_path}/bank.db")
    claims = [Claims() for _ in range(3)]
    for one in claims:
        transact(one.run(1), bank.engine, write, 1)
    bank.execute("UPDATE peerjob_inbox_fence SET written = '2020-01-01' WHERE instance <> :id", id=claims[0].id)
    with bank.engine.begin() as connection:
        assert outbox.clean(connection, limit=1) == 1
        assert outbox.clean(connection) == 1
        assert outbox.clean(connection) == 0
        assert outbox.clean(connection, older="0s") in (0, 1)
    bank.engine.dispose()


async def test_a_failed_body_keeps_what_was_committed(bank: Bank) -> None:
    async def body(context: Context = INJECTED) -> None:
        await transact(context, bank.async_engine, write_async, 1)
        raise ValueError("later")

    job = Job("book", body, max_retries=2, backoff="0s")
    async with Node("memory://", jobs=[job]) as node:
        with pytest.raises(JobFailed):
            await (await node.schedule(job)).result(30)
    assert bank.written() == [1]
