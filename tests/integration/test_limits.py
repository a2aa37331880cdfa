"""The limits that docs/limits.md names: a call at the limit is taken on each store, one over it is refused."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from peerjob import (
    ArgumentError,
    Job,
    JobFailed,
    Node,
    OptionError,
    PayloadTooLargeError,
    Query,
    StoreFullError,
    StoreLimits,
)
from peerjob.model.spec import encode_arguments
from support.limits import number, rows

ROWS = rows()
ELEMENTS = next(name for name in ROWS if name.startswith("elements of a value"))


def echo(value: Any = None) -> Any:
    return value


ECHO = Job("echo", echo)
LATER = ECHO.with_options(after="1h")


@pytest.fixture
async def node(store_url: str, namespace: str) -> AsyncIterator[Node]:
    async with Node(store_url, namespace=namespace, jobs=[ECHO], workers=2) as node:
        yield node
        await node.cancel_instances(Query.all())


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth - 1):
        value = [value]
    return value


async def arguments(node: Node, size: int) -> None:
    around = len(encode_arguments(("x" * (size // 2),), {})) - size // 2
    # the options of the instance count, too
    await node.schedule(LATER, "x" * (size - around - (64 if size <= 1 << 20 else -64)))


async def digits(node: Node, count: int) -> None:
    await node.schedule(LATER, 10 ** (count - 1))


async def tag(node: Node, size: int) -> None:
    await node.schedule(LATER.with_options(tags=["ü" * size]))


async def tags(node: Node, count: int) -> None:
    widest = [f"{number:03}" + "€" * 197 for number in range(count)]
    instance = await node.schedule(LATER.with_options(tags=widest))
    assert len(await node.lookup_instances(Query(tag=widest[-1]))) == 1
    schedule = await node.add_schedule(LATER.with_options(every="1h", tags=widest, name=f"tagged {count}"))
    made = await schedule.trigger()
    assert made is not None
    assert await made.cancel()
    assert await instance.cancel()


async def key(node: Node, size: int) -> None:
    await node.schedule(LATER.with_options(key="€" * size))


async def kind(node: Node, size: int) -> None:
    made = await node.schedule(Job("€" * size))
    assert len(await node.lookup_instances(Query(kind=made.kind))) == 1


async def schedule_name(node: Node, size: int) -> None:
    schedule = await node.add_schedule(ECHO.with_options(every="1h", name="€" * size))
    assert (await node.lookup_schedule("€" * size)).name == schedule.name


async def note(node: Node, size: int) -> None:
    schedule = await node.add_schedule(ECHO.with_options(every="1h", name="noted"))
    assert (await schedule.pause("€" * size)).note == "€" * size


async def aliases(node: Node, count: int) -> None:
    node.register(Job("aliased", echo, aliases=[f"alias {number}" for number in range(count)]))


async def description(node: Node, size: int) -> None:
    await node.add_schedule(ECHO.with_options(every="1h", description="€" * size))


async def page(node: Node, size: int) -> None:
    await node.lookup_instances(Query(limit=size))


async def elements(node: Node, count: int) -> None:
    # the containers around it count 4 each, as its own does
    await node.schedule(LATER, [0] * (count - 16))


async def depth(node: Node, levels: int) -> None:
    # the list of arguments is a container, too
    await node.schedule(LATER, nested(levels - 1))


CASES: dict[str, tuple[Callable[[Node, int], Awaitable[None]], type[Exception]]] = {
    "arguments of one instance, encoded": (arguments, PayloadTooLargeError),
    ELEMENTS: (elements, ArgumentError),
    "depth of a value": (depth, ArgumentError),
    "digits of an integer or a Decimal": (digits, ArgumentError),
    "kind": (kind, OptionError),
    "idempotency key": (key, OptionError),
    "name of a schedule": (schedule_name, OptionError),
    "tag": (tag, OptionError),
    "tags of an instance": (tags, OptionError),
    "aliases of a job": (aliases, OptionError),
    "description": (description, OptionError),
    "note beside a pause": (note, OptionError),
    "page of a lookup": (page, OptionError),
}


@pytest.mark.parametrize("name", CASES)
async def test_the_limit_is_taken_and_one_over_is_refused(node: Node, name: str) -> None:
    do, error = CASES[name]
    default, _, above = ROWS[name]
    limit = number(default)
    assert f"`{error.__name__}`" in above
    await do(node, limit)
    before = len(await node.lookup_instances()), len(await node.schedules())
    with pytest.raises(error):
        await do(node, limit + 1)
    assert (len(await node.lookup_instances()), len(await node.schedules())) == before


async def test_a_result_over_the_limit_ends_the_instance(node: Node) -> None:
    limit = number(ROWS["result, encoded"][0])
    node.register(Job("large", lambda size: "x" * size))
    assert len(await (await node.schedule("large", limit - 8)).result(timeout=60)) == limit - 8
    with pytest.raises(JobFailed, match="PayloadTooLargeError"):
        await (await node.schedule("large", limit + 1)).result(timeout=60)


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", ""])
async def test_a_text_that_cannot_be_stored_is_refused_everywhere(node: Node, text: str) -> None:
    for refused in (
        lambda: node.schedule(LATER.with_options(key=text)),
        lambda: node.schedule(LATER.with_options(tags=[text])),
        lambda: node.schedule(Job(text)),
        lambda: node.lookup_instances(Query(kind=text)),
        lambda: node.lookup_instances(Query(tag=text)),
        lambda: node.add_schedule(ECHO.with_options(every="1h", name=text)),
    ):
        with pytest.raises(OptionError):
            await refused()


async def test_kinds_of_a_namespace_are_bounded(store_url: str, namespace: str) -> None:
    limits = StoreLimits(max_kinds=5)
    async with Node(store_url, namespace=namespace, jobs=[ECHO], workers=1, store_limits=limits) as node:
        for number_of in range(5):
            await node.schedule(Job(f"unknown {number_of}"))
        with pytest.raises(StoreFullError, match="5 kinds or more"):
            await node.schedule(Job("one too many"))
        await node.schedule(Job("unknown 3"))
        assert await (await node.schedule("echo", 7)).result(timeout=30) == 7
        await node.cancel_instances(Query.all())
    async with Node(store_url, namespace=namespace, workers=0, store_limits=limits) as gateway:
        with pytest.raises(StoreFullError):
            await gateway.schedule(Job("another"))
        await gateway.schedule("echo", 7)


async def test_kinds_of_a_node_are_bounded(namespace: str) -> None:
    limit = number(ROWS["kinds and aliases of a node"][0])
    node = Node("memory://", namespace=namespace, jobs=[Job(f"kind {one}", echo) for one in range(limit)])
    with pytest.raises(OptionError, match="5,001 kinds and aliases"):
        node.register(ECHO)
    assert len(node.jobs()) == limit
