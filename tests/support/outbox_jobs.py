"""Transfers between accounts, with `transact` and without."""

import asyncio
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from peerjob import INJECTED, Context, Job
from peerjob.sql import Outbox, transact

ACCOUNTS = 10
outbox = Outbox()


async def move(session: AsyncSession, number: int, giver: int, taker: int, cents: int) -> int:
    """Move money, and write the number of the transfer."""
    for account, change in sorted(((giver, -cents), (taker, cents))):
        await session.execute(
            text("UPDATE accounts SET cents = cents + :change WHERE id = :id"), {"id": account, "change": change}
        )
    await session.execute(text("INSERT INTO transfers VALUES (:number)"), {"number": number})
    return number


def transfers_of(url: str, *, plain: bool = False) -> Job[..., Any, Any]:
    """The job `transfer`; with `plain`, one that does not know whether an earlier run has written."""
    engine: AsyncEngine = create_async_engine(url, pool_size=10)

    async def transfer(number: int, giver: int, taker: int, cents: int, context: Context = INJECTED) -> int:
        if plain:
            async with AsyncSession(engine) as session, session.begin():
                answer = await move(session, number, giver, taker, cents)
        else:
            answer = await transact(context, engine, move, number, giver, taker, cents)
        await asyncio.sleep(0.03)  # the time between the commit here and the commit of the outcome
        return answer

    return Job("transfer", transfer, max_crashes=1_000, max_retries=20, backoff="50ms", retention="0s")


def make_bank(url: str) -> None:
    """Make the tables, with the same money on each account."""
    engine = create_engine(url)
    with engine.begin() as connection:
        outbox.create_table(connection)
        connection.execute(text("CREATE TABLE accounts (id integer PRIMARY KEY, cents bigint NOT NULL)"))
        connection.execute(text("CREATE TABLE transfers (number integer NOT NULL)"))
        for account in range(ACCOUNTS):
            connection.execute(text("INSERT INTO accounts VALUES (:id, 100000)"), {"id": account})
    engine.dispose()
