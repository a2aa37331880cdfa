"""What a node supplies: parameters that callers leave out, and resources."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import Literal, assert_type

from peerjob import (
    INJECTED,
    PLACEHOLDER,
    BlockingInstance,
    BlockingManager,
    Context,
    Depends,
    Fail,
    Instance,
    Manager,
    Node,
    Retry,
    Worker,
    job,
)


@job
async def sleep(d: timedelta, ctx: Context = INJECTED) -> None:
    await ctx.sleep(d)


@job
async def first(ctx: Context = INJECTED, *, text: str) -> str:
    return f"{ctx.id} {text}"


@job(kind="all")
async def everything_injected(
    number: int,
    ctx: Context = INJECTED,
    manager: Manager = INJECTED,
    node: Node = INJECTED,
    worker: Worker = INJECTED,
    instance: Instance[str] = INJECTED,
) -> str:
    ctx.progress(0.5, "half way")
    ctx.raise_if_cancelled()
    assert_type(ctx.cancelled, bool)
    assert_type(ctx.reason, Literal["user", "timeout", "drain", "lost"] | None)
    assert_type(ctx.deadline, datetime | None)
    assert_type(ctx.fence, int)
    await ctx.assert_owner()
    follow_up = await manager.schedule(sleep, timedelta(seconds=1))
    await node.schedule(sleep, timedelta(seconds=1))
    return f"{worker.number} {instance.attempts} {number} {follow_up.id}"


@job(kind="sync")
def in_a_thread(number: int, blocking: BlockingManager = INJECTED, ctx: Context = INJECTED) -> int:
    if ctx.wait("1s"):
        raise Retry(after="5s")
    one = blocking.schedule(sleep, timedelta(seconds=1))
    assert_type(one, BlockingInstance[None])
    if number < 0:
        raise Fail("negative")
    return number


@job(kind="snooze")
async def not_yet(ready: bool) -> int:
    if not ready:
        Context.current().snooze(60)
    return 1  # after the line above, checkers know that it is ready


async def callers(node: Node) -> None:
    assert_type(await node.schedule(sleep, timedelta(seconds=1)), Instance[None])
    assert_type(await node.schedule(first, text="x"), Instance[str])
    assert_type(await (await node.schedule(everything_injected, 1)).result(), str)
    assert_type(await node.schedule(in_a_thread, 1), Instance[int])
    assert_type(await node.schedule(sleep, timedelta(seconds=1), PLACEHOLDER), Instance[None])
    await sleep(timedelta(0))
    assert_type(in_a_thread(1), int)
    await node.schedule(sleep)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await node.schedule(sleep, "5s")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await node.schedule(first, "x")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


# -- resources --------------------------------------------------------------------------------------------------------


class Pool:
    async def __aenter__(self) -> "Pool":
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    def fetch(self, number: int) -> str:
        return str(number)


class Settings:
    def __init__(self) -> None:
        self.limit = 10


def get_settings() -> Settings:
    return Settings()


async def get_pool() -> Pool:
    return Pool()


@asynccontextmanager
async def open_pool(settings: Settings = Depends(get_settings)) -> AsyncGenerator[Pool, None]:
    async with Pool() as pool:
        yield pool


@contextmanager
def open_file() -> Generator[int, None, None]:
    yield 3


assert_type(Depends(get_settings), Settings)
assert_type(Depends(get_pool, scope="node"), Pool)
assert_type(Depends(open_pool, scope="node"), Pool)
assert_type(Depends(Pool), Pool)
assert_type(Depends(open_file), int)


@job
async def with_resources(
    number: int,
    pool: Pool = Depends(open_pool, scope="node"),
    settings: Settings = Depends(get_settings),
    file: int = Depends(open_file, scope="attempt"),
) -> str:
    return pool.fetch(min(number, settings.limit) + file)


@job
def wrong_resource(pool: Pool = Depends(get_settings)) -> None: ...  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]


Depends(get_pool, scope="request")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


@asynccontextmanager
async def lifespan(node: Node) -> AsyncGenerator[None, None]:
    await node.schedule(sleep, timedelta(seconds=1))
    yield


async def running() -> None:
    node = Node(jobs=[sleep, with_resources], lifespan=lifespan)
    node.override(get_pool, Pool)
    async with node:
        assert_type(await (await node.schedule(with_resources, 3)).result(), str)
