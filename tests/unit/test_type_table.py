"""What is returned is what is got: one table of types, over every way that needs no service."""

import dataclasses
import functools
import pickle
from collections.abc import Callable, Coroutine
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any, Self, cast

import pytest

from peerjob import (
    Client,
    Instance,
    Job,
    JobFailed,
    Node,
    Recovered,
    ResultTypeError,
    State,
    SystemClock,
)
from peerjob.model.codec import has_secret
from peerjob.node.body import conversion
from peerjob.testing import drain, running_node
from support import bodies
from support.factories import shared_url
from support.rpc import served
from support.trips import wrong_on_the_way, wrongly_taken
from support.typed_values import ECHOES, IN_PROCESS, JOBS, ROWS, Colour, Pair, Point, Row


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_call_in_place_takes_and_gives_the_value_itself(row: Row) -> None:
    assert ECHOES[row.name](row.expected) is row.value


class Worded(int, Enum):
    """A number by its class, and a text by its value."""

    ONE = 1, "one"

    def __new__(cls, number: int, text: str) -> Self:
        member = int.__new__(cls, number)
        member._value_ = text  # pyright: ignore[reportAttributeAccessIssue]
        return member


@dataclasses.dataclass
class Numbered(list[int]):
    items: list[int]


async def test_on_a_node() -> None:
    async with running_node(JOBS) as node:
        assert await wrong_on_the_way(node) == []
        assert await wrongly_taken(node) == []


async def test_in_a_process() -> None:
    async with running_node(IN_PROCESS, store=shared_url(), clock=SystemClock(), workers=1) as node:
        assert await wrong_on_the_way(node) == []
        assert await wrongly_taken(node) == []


@pytest.mark.parametrize("known", [JOBS, []], ids=["registered", "passed"])
async def test_through_a_client(known: list[Job[..., Any, Any]]) -> None:
    async with served(JOBS) as (_, server), Client(server.target, jobs=known) as client:
        assert await wrong_on_the_way(client) == []
        assert await wrongly_taken(client) == []


async def test_a_client_that_does_not_know_the_job_gets_plain_data() -> None:
    async with served(JOBS) as (_, server), Client(server.target) as client:
        made = await client.schedule("echo.dataclass", {"x": 1, "y": 2.5}, allow_unknown=True)
        assert await made.result(timeout=30) == {"x": 1, "y": 2.5}
        with_job = await client.lookup_instance(made.id, ECHOES["dataclass"])
        assert await with_job.result() == Point(1, 2.5)


async def test_by_kind_where_the_job_is_registered() -> None:
    async with running_node(JOBS) as node:
        made = await node.schedule("echo.enum", "RED")
        assert await made.result() is Colour.RED
        for found in (await node.lookup_instance(made.id), *await node.lookup_instances()):
            assert found.outcome() is Colour.RED
        again = await made.retry()
        assert await again.result() is Colour.RED
        assert made.to_dict()["result"] == 1


def test_with_blocking_verbs() -> None:
    with Node(jobs=JOBS).blocking() as manager:
        made = manager.schedule(ECHOES["named_tuple"], Pair(1, Colour.BLUE))
        left, right = made.result(timeout=30)
        assert (left, right) == (1, Colour.BLUE)
        assert manager.lookup_instance(made.id).result() == Pair(1, Colour.BLUE)


async def test_processors_are_given_what_the_job_returned() -> None:
    given: list[Any] = []

    def remember(instance: Instance[Any], result: Any) -> None:
        given.extend([result, instance.outcome()])

    async with running_node([one.with_options(on_complete=remember) for one in ECHOES.values()]) as node:
        await (await node.schedule("echo.dataclass", Point(1, 2.5))).result()
        await drain(node)
    assert given == [Point(1, 2.5), Point(1, 2.5)]


# -- annotations of results


async def returned(body: Callable[..., Any], **options: Any) -> Any:
    async with running_node(Job("body", body, **options)) as node:
        return await (await node.schedule("body")).result()


async def test_of_an_async_function_and_of_an_awaitable() -> None:
    async def later() -> Point:
        return Point(1)

    def begun() -> Coroutine[Any, Any, Point]:
        return later()

    assert await returned(later) == await returned(begun) == Point(1)


async def test_of_callables_of_other_shapes() -> None:
    class Shape:
        async def __call__(self) -> Point:
            return Point(1)

        def method(self) -> Point:
            return Point(1)

    def with_argument(x: int) -> Point:
        return Point(x)

    shapes: list[Any] = [Shape(), Shape().method, functools.partial(with_argument, 1), functools.partial(Point, 1)]
    assert [await returned(one) for one in shapes] == [Point(1)] * 4
    async with running_node(Job("class", Point)) as node:
        assert await (await node.schedule("class", 1)).result() == Point(1)


async def test_of_a_subclass_of_a_builtin_class() -> None:
    moment = datetime(2026, 7, 1, 12, 30, tzinfo=UTC)

    def gives_moment() -> date:
        return moment

    def gives_bool() -> int:
        return True

    assert await returned(gives_moment) == moment
    assert await returned(gives_bool) is True


async def test_none_fits_every_annotation_and_an_annotation_of_none_fits_every_result() -> None:
    def forgets() -> Point:
        return cast("Point", None)

    def returns() -> None:
        return cast("None", {"a": 1})

    assert await returned(forgets) is None
    assert await returned(returns) == {"a": 1}


@pytest.mark.parametrize(
    ("annotation", "value"), [(tuple, Pair(1, Colour.BLUE)), (int, Worded.ONE), (list, Numbered([1]))], ids=str
)
async def test_an_object_of_a_subclass_that_is_stored_as_something_else_is_refused(annotation: Any, value: Any) -> None:
    """Before, the instance was Completed, and `result()` raised ResultTypeError."""

    def body() -> Any:
        return value

    body.__annotations__["return"] = annotation
    with pytest.raises(JobFailed, match="does not fit the result type"):
        await returned(body)


async def test_a_result_that_does_not_fit_its_annotation_is_refused_where_it_was_made() -> None:
    def lies() -> list[Point]:
        return [Point(1), cast("Point", {"x": "one"})]

    with pytest.raises(JobFailed, match=r"value\[1\]\['x'\]: does not fit the result type list\[.*Point\]: .*integer"):
        await returned(lies)


async def test_recovered_results_are_converted_and_checked_too() -> None:
    def fails() -> Point:
        raise LookupError("nothing")

    def recovers(instance: Instance[Any], error: BaseException) -> Recovered:
        return Recovered(Point(7))

    def recovers_with_text(instance: Instance[Any], error: BaseException) -> Recovered:
        return Recovered("seven")

    assert await returned(fails, on_terminate=recovers) == Point(7)
    with pytest.raises(JobFailed, match="does not fit the result type"):
        await returned(fails, on_terminate=recovers_with_text)


async def test_a_stored_result_of_another_shape_leaves_the_instance_completed() -> None:
    url = shared_url()

    def old() -> dict[str, Any]:
        return {"x": "one", "y": 2.5}

    def new() -> Point:
        return Point(1)

    results: list[Any] = []
    kind = "shape"
    async with running_node(Job(kind, old), store=url) as node:
        made = await node.schedule(kind)
        await made.wait()
    job = Job(kind, new, on_complete=lambda _instance, result: results.append(result))
    async with running_node(job, store=url) as node:
        found = await node.lookup_instance(made.id)
        assert found.state is State.COMPLETED
        for read in (found.result, (await node.lookup_instance(made.id, job)).result):
            with pytest.raises(ResultTypeError, match=r"result\['x'\].*integer") as caught:
                await read()
            assert caught.value.raw == {"x": "one", "y": 2.5}
            assert (caught.value.uuid, caught.value.kind) == (made.id, kind)
            copied = pickle.loads(pickle.dumps(caught.value))
            assert (str(copied), copied.raw) == (str(caught.value), caught.value.raw)
        assert (await found.refresh()).state is State.COMPLETED
        assert found.to_dict()["result"] == {"x": "one", "y": 2.5}


async def test_a_secret_in_a_result_stays_one_in_a_process() -> None:
    async with running_node(
        Job("secret", bodies.secret, run_in="process"), store=shared_url(), clock=SystemClock()
    ) as node:
        made = await node.schedule("secret")
        await made.wait(60)
        assert made.record.result is not None
        assert has_secret(made.record.result)
        assert await made.result() == ["hunter2"]


async def test_the_adapter_of_a_result_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    make = conversion.make_converter

    def counted(annotation: Any) -> Any:
        made.append(annotation)
        return make(annotation)

    monkeypatch.setattr(conversion, "make_converter", counted)

    def gives() -> list[Point]:
        return [Point(1)]

    job = Job("gives", gives)
    async with running_node(job) as node:
        for _ in range(5):
            assert await (await node.schedule(job.with_options(priority=1))).result() == [Point(1)]
            assert await (await node.schedule("gives")).result() == [Point(1)]
    assert made == [list[Point]]
