"""What a server and a client keep in memory: nothing of a call that has ended."""

import asyncio
import contextlib
from typing import Any

from peerjob import INJECTED, Client, Context, Job, Query, Role, Token, Tokens
from peerjob.model.errors import PeerjobError
from support.kept import grown, kept
from support.rpc import served
from support.waiting import IN_TIME, until


async def fail() -> None:
    raise ValueError


async def work(context: Context = INJECTED) -> int:
    context.progress(0.5)
    return 1


async def hang() -> None:
    await asyncio.Event().wait()


WORK, FAIL, HANG = Job("work", work), Job("fail", fail), Job("hang", hang)


NO_INSTANCE = "00000000-0000-7000-8000-000000000000"


async def use(client: Client) -> None:
    """Make calls of each kind: short ones, waits and streams, to their end, given up, and refused."""
    begun = asyncio.Event()
    watching = asyncio.ensure_future(_all(client.watch(Query(kind="hang"), on_begin=_told(begun))))
    await begun.wait()
    hanging = await client.schedule(HANG)
    instances = await client.schedule_many([WORK.call(), FAIL.call()])
    for instance in instances:
        await instance.wait()
        await _all(instance.watch())
        await _all(client.iter_logs(instance.id))
    for refused in (
        client.lookup_instance(NO_INSTANCE),
        client.wait_final(hanging.id, 0.01),
        client.pause_schedule("none"),
    ):
        with contextlib.suppress(PeerjobError, TimeoutError):
            await refused
    given_up = asyncio.ensure_future(_all(hanging.watch()))
    await asyncio.sleep(0)
    given_up.cancel()
    await client.cancel_instances(Query(kind="hang"))
    watching.cancel()
    await asyncio.wait([watching, given_up])
    assert await client.count(Query(kind="work"))


async def _all(events: Any) -> None:
    async for _ in events:
        pass


def _told(begun: asyncio.Event) -> Any:
    async def tell() -> None:
        begun.set()

    return tell


async def test_a_server_and_a_client_keep_nothing_of_calls_that_have_ended() -> None:
    tokens = Tokens([Token.of(text, Role.ADMIN) for text in "abcd"])
    async with (
        served(WORK, FAIL, HANG, tokens=tokens) as (_, server),
        Client(server.target, token="a") as client,
    ):

        async def use_from_new_caller(token: str) -> None:
            await use(client)
            async with Client(server.target, token=token) as other:
                await other.stats()

        for token in "bc":  # the latest events are kept in the form of messages
            await use_from_new_caller(token)
        before = kept((server, client))
        await use_from_new_caller("d")
        try:
            await until(lambda: not grown(before, kept((server, client))), IN_TIME)
        except TimeoutError:
            assert grown(before, kept((server, client))) == {}
