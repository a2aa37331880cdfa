"""How a client finds a node, goes on to another, and what it never does twice."""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, cast

import grpc
import pytest

from peerjob import (
    INJECTED,
    AuthError,
    Client,
    Instance,
    Job,
    Node,
    NodeStateError,
    NodeStoppedError,
    NodeUnavailableError,
    OptionError,
    PayloadTooLargeError,
    PeerjobError,
    Query,
    RemoteError,
    Role,
    Server,
    State,
    StoreFullError,
    Token,
    Tokens,
    UnauthenticatedError,
)
from peerjob.model.ids import IdSource, derived_id
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.client import connection, node_address
from peerjob.remote.client.connection import split_target
from peerjob.remote.wire.errors import status_of
from peerjob.remote.wire.rpcs import RPCS, SERVICE, Resend
from support.factories import shared_url
from support.rpc import forwarding, kept_port, open_calls, served
from support.waiting import until


async def work(number: int) -> int:
    return number


async def hang() -> None:
    await asyncio.Event().wait()


WORK, HANG = Job("work", work), Job("hang", hang)


class Stub:
    """A server whose every call ends as the test wants it, and which counts calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.requests: list[bytes] = []
        self.answer: Callable[[str, Any], Any] | None = None
        self.hangs = False
        self.hanging: list[str] = []
        """The open calls of a server that hangs."""
        self.probed = asyncio.Semaphore(0)
        """Released whenever it was asked whether it is there."""
        self.port = 0

    async def _serve(self, name: str, request: bytes, context: Any) -> bytes:
        if self.hangs:
            self.calls.append(name)
            self.hanging.append(name)
            try:
                await asyncio.Event().wait()
            finally:
                self.hanging.remove(name)
        if name == "GetVersion":
            self.probed.release()
            return pb.VersionResponse(version="stub").SerializeToString()
        self.calls.append(name)
        self.requests.append(request)
        assert self.answer is not None
        return cast(bytes, await self.answer(name, context))

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncGenerator["Stub"]:
        def handler(name: str) -> Any:
            async def handle(request: bytes, context: Any) -> bytes:
                return await self._serve(name, request, context)

            return grpc.unary_unary_rpc_method_handler(cast(Any, handle))

        server = grpc.aio.server()
        handlers = {method.name: handler(method.name) for method in SERVICE.methods}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield self
        finally:
            await server.stop(0)


class Unasked(Client):
    """A client whose start asks nothing, so that a short timeout is for what the test asks alone."""

    async def version(self) -> str:
        return ""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address is not passed over because this machine stood still for a moment; one that refuses is, at once."""
    monkeypatch.setattr(connection, "MAX_CONNECT", 20.0)


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    async with Stub().listening() as listening:
        yield listening


@contextlib.asynccontextmanager
async def two_nodes() -> AsyncGenerator[tuple[tuple[Node, Server], tuple[Node, Server]]]:
    """Two nodes that serve, with one store."""
    url = shared_url()
    async with served(WORK, HANG, store=url) as one, served(WORK, HANG, store=url) as other:
        yield one, other


def both(*servers: Server) -> str:
    return ",".join(server.target for server in servers)


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "addresses"),
    [
        ("host:1", ["host:1"]),
        ("host", ["host:59051"]),
        ("[::1]:5", ["[::1]:5"]),
        ("[::1]", ["[::1]:59051"]),
        ("a:1, b:2 ,c", ["a:1", "b:2", "c:59051"]),
        ("a:1,a:1", ["a:1"]),
        ("a:1,b:65535", ["a:1", "b:65535"]),
    ],
)
def test_a_target_names_addresses(target: str, addresses: list[str]) -> None:
    assert split_target(target) == addresses


@pytest.mark.parametrize(
    "target", ["", ",", "a:1,", ":1", "a:x", "a:0", "a:65536", "::1", "http://a:1", "a/b", "[::1:5"]
)
def test_a_target_that_is_none_is_refused(target: str) -> None:
    with pytest.raises(OptionError, match="target"):
        Client(target)


@pytest.mark.parametrize("token", ["", " x", "x\n", "ü"])
def test_an_invalid_token_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(OptionError) as caught:
        Client(token=token)
    assert "ü" not in str(caught.value)


# -- starting ----------------------------------------------------------------------------------------------------------


async def test_no_server_listens() -> None:
    with pytest.raises(NodeUnavailableError, match=r"127\.0\.0\.1:1, localhost:2") as caught:
        await asyncio.wait_for(Client("127.0.0.1:1,localhost:2", connect_timeout=0.5).start(), 30)

    assert isinstance(caught.value, ConnectionError)
    assert "refused" in str(caught.value)


async def test_a_client_that_is_not_started_says_so() -> None:
    client = Client()
    with pytest.raises(NodeStateError, match="not started"):
        await client.count()
    await client.stop()


async def test_a_client_starts_again_after_a_stop() -> None:
    async with served(WORK) as (_, server):
        client = Client(server.target)
        for _ in range(2):
            async with client:
                assert await client.count() == 0
                with pytest.raises(NodeStateError, match="started already"):
                    await client.start()


async def test_tokens_and_roles() -> None:
    tokens = Tokens([Token.of("read", Role.READER), Token.of("act", Role.OPERATOR)])
    async with served(WORK, tokens=tokens) as (node, server):
        with pytest.raises(UnauthenticatedError):
            await Client(server.target).start()
        with pytest.raises(UnauthenticatedError, match="not known"):
            await Client(server.target, token="wrong").start()
        async with Client(server.target, token="read") as reader:
            assert await reader.count() == 0
            with pytest.raises(AuthError, match="operator"):
                await reader.schedule(WORK, 1)
            with pytest.raises(AuthError, match="admin"):
                await reader.clear()
        async with Client(server.target, token="act") as operator:
            assert await (await operator.schedule(WORK, 1)).result(10) == 1
            with pytest.raises(AuthError, match="admin"):
                await operator.clear_logs()
        assert await node.count() == 1


# -- going on elsewhere ------------------------------------------------------------------------------------------------


async def test_a_client_goes_on_with_another_node() -> None:
    async with two_nodes() as ((_, one), (_, other)), Client(both(one, other)) as client:
        made = await client.schedule(WORK, 1)
        await one.stop(grace=0)

        assert await made.result(10) == 1
        assert await (await client.schedule(WORK, 2)).result(10) == 2
        assert await client.count(Query(state=State.COMPLETED)) == 2


async def test_a_wait_continues_on_another_node() -> None:
    async with two_nodes() as ((_, one), (node, other)), Client(both(one, other)) as client:
        made = await client.schedule(HANG)
        waiting = asyncio.ensure_future(made.wait())
        await until(lambda: _open(one, 1))
        await one.stop(grace=0)
        await until(lambda: _open(other, 1))
        assert not waiting.done()
        await node.cancel_instance(made.id)

        assert (await asyncio.wait_for(waiting, 10)).state is State.CANCELLED


async def test_a_watch_goes_on_elsewhere() -> None:
    async with two_nodes() as ((_, one), (node, other)), Client(both(one, other)) as client:
        begun, seen = asyncio.Semaphore(0), asyncio.Semaphore(0)

        async def begin() -> None:
            begun.release()

        async def watch() -> None:
            async for event in client.watch(Query(kind="work"), on_begin=begin):
                if event.state is State.COMPLETED:
                    seen.release()

        watching = asyncio.ensure_future(watch())
        async with asyncio.timeout(20):
            for server in (one, None):
                await begun.acquire()
                await node.schedule(WORK, 1)
                await seen.acquire()
                if server is not None:
                    await server.stop(grace=0)
        watching.cancel()


async def test_followed_logs_go_on_elsewhere_where_they_were() -> None:
    async with two_nodes() as ((_, one), (node, other)), Client(both(one, other)) as client:
        asked = asyncio.Event()

        async def wait(instance: Instance[Any] = INJECTED) -> None:
            instance.log.info("begun")
            await asked.wait()
            instance.log.info("asked")

        node.register(Job("wait", wait))
        made = await client.schedule("wait", allow_unknown=True)
        lines = client.iter_logs(made.id, follow=True)
        assert (await anext(lines)).message == "begun"
        await one.stop(grace=0)
        asked.set()

        assert [line.message async for line in lines] == ["asked"]


async def test_a_server_that_comes_back_is_found_again() -> None:
    with kept_port() as port:
        async with served(WORK, port=port) as (node, server), Client(server.target) as client:
            assert await client.count() == 0
            await server.stop(grace=0)
            asking = asyncio.ensure_future(client.count())
            await asyncio.sleep(0.3)
            assert not asking.done()
            async with Server(node, server.target):
                assert await asking == 0


async def test_a_node_that_is_far_away_is_reached_and_not_passed_over() -> None:
    async with (
        two_nodes() as ((_, one), (_, other)),
        forwarding(one, delay=0.5) as far,
        Client(f"{far},{other.target}") as client,
    ):
        assert client._connection._current == 0  # pyright: ignore[reportPrivateUsage]


async def test_a_node_that_has_stopped_sends_clients_on() -> None:
    async with two_nodes() as ((node, one), (_, other)), Client(both(one, other)) as client:
        await node.stop(grace=0)

        assert await (await client.schedule(WORK, 3)).result(10) == 3


@pytest.mark.parametrize("stream", ["watch_instance", "iter_logs"])
async def test_a_node_that_has_stopped_sends_streams_on(stream: str) -> None:
    """Its server still answers, so the client must not ask it again and again."""
    async with two_nodes() as ((node, one), (other_node, other)), Client(both(one, other)) as client:
        instance = await client.schedule(HANG)
        answers: AsyncIterator[object] = client.watch_instance(instance.id)
        if stream == "iter_logs":
            answers = client.iter_logs(instance.id, follow=True)

        async def read() -> None:
            async for _ in answers:
                pass

        reading = asyncio.ensure_future(read())
        await until(lambda: open_calls(one))
        await node.stop(grace=0)
        await until(lambda: open_calls(other))
        await other_node.cancel_instance(instance.id)
        await asyncio.wait_for(reading, 20)


def test_a_client_sends_only_changes_once_that_a_second_time_would_change_again() -> None:
    again = {"ScheduleJob", "ScheduleJobs", "PutSchedule", "PauseSchedule", "ResumeSchedule", "Backfill"}
    again |= {"RunNow", "RetryInstance", "RetryInstances", "TriggerSchedule"}
    again |= {"SetLimit", "SetKeyLimit", "PauseKind", "ResumeKind", "ScheduleFlow", "Signal"}
    changing = {rpc.name for rpc in RPCS.values() if rpc.role is not Role.READER} - {"ListAudit"}

    assert changing - again == {rpc.name for rpc in RPCS.values() if rpc.resend is Resend.NEVER}


def test_the_table_has_every_rpc_of_the_service_with_its_messages() -> None:
    assert {name: (rpc.request.DESCRIPTOR, rpc.response.DESCRIPTOR) for name, rpc in RPCS.items()} == {
        method.name: (method.input_type, method.output_type) for method in SERVICE.methods
    }


async def unavailable(name: str, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")


async def test_what_must_be_done_once_is_not_asked_again_when_the_answer_is_lost(stub: Stub) -> None:
    async with served(WORK) as (_, server), Client(f"{stub.target},{server.target}") as client:
        stub.answer = unavailable
        acts: list[Callable[[], Any]] = [
            lambda: client.cancel_instances(Query.all()),
            lambda: client.remove_schedule("x"),
            lambda: client.resize_workers(3),
        ]
        for number, act in enumerate(acts, 1):
            client._connection._current = 0  # pyright: ignore[reportPrivateUsage]
            with pytest.raises(NodeUnavailableError, match="gone"):
                await act()
            assert len(stub.calls) == number


def losing_answers_of(server: Server, stub: Stub) -> Callable[[str, Any], Any]:
    """Let the server do what the stub is asked for, and lose the answer."""

    async def pass_on_and_fail(name: str, context: Any) -> None:
        path, sent = f"/{SERVICE.full_name}/{name}", stub.requests[-1]
        async with grpc.aio.insecure_channel(server.target) as channel:
            await cast(Any, channel).unary_unary(path)(sent)
        await unavailable(name, context)

    return pass_on_and_fail


async def test_nothing_is_scheduled_twice_when_the_answer_is_lost(stub: Stub) -> None:
    async with served(WORK) as (node, server), Client(f"{stub.target},{server.target}") as client:
        stub.answer = losing_answers_of(server, stub)
        acts: list[Callable[[], Any]] = [
            lambda: client.schedule(WORK, 1),
            lambda: client.schedule("work", 2),
            lambda: client.schedule(WORK.with_options(key="k"), 3),
            lambda: client.schedule_many([WORK.call(4), WORK.call(5)]),
        ]
        for act in acts:
            client._connection._current = 0  # pyright: ignore[reportPrivateUsage]
            made = await act()
            for instance in made if isinstance(made, list) else [made]:
                assert instance.is_new
                assert await instance.result(10) == instance.args[0]
        assert stub.calls == ["ScheduleJob", "ScheduleJob", "ScheduleJob", "ScheduleJobs"]
        assert await node.count() == 5


@pytest.mark.parametrize(
    "first", [NodeUnavailableError(["a"], "gone"), NodeStoppedError("stopping")], ids=["lost", "refused"]
)
async def test_an_error_of_the_store_is_unsure_if_a_node_before_may_have_acted(stub: Stub, first: Exception) -> None:
    async def fail(name: str, context: Any) -> None:
        status = status_of(first)
        await context.abort(grpc.StatusCode.UNAVAILABLE, status.text, status.metadata)

    async def refuse(name: str, context: Any) -> None:
        status = status_of(StoreFullError("full"))
        await context.abort(status.code, status.text, status.metadata)

    async with Stub().listening() as other, Client(f"{stub.target},{other.target}") as client:
        stub.answer, other.answer = fail, refuse
        with pytest.raises(StoreFullError) as caught:
            await client.schedule(WORK, 1)
        assert stub.calls == other.calls == ["ScheduleJob"]
        assert caught.value.is_unsure is isinstance(first, NodeUnavailableError)


async def test_nothing_is_retried_or_triggered_twice_when_the_answer_is_lost(stub: Stub) -> None:
    tick = WORK.with_options(name="tick", every="1d")
    async with served(WORK) as (node, server), Client(f"{stub.target},{server.target}") as client:
        await node.add_schedule(tick, 7)
        await (made := await node.schedule(WORK, 3)).wait(10)
        client._connection._current = 1  # pyright: ignore[reportPrivateUsage]
        old = await client.lookup_instance(made.id)
        stub.answer = losing_answers_of(server, stub)
        acts: list[Callable[[], Any]] = [
            old.retry,
            lambda: client.retry_instance(old.id),
            lambda: client.retry_instances(Query(uuid=old.id)),
            lambda: client.trigger_schedule("tick"),
        ]
        for number, act in enumerate(acts, 2):
            client._connection._current = 0  # pyright: ignore[reportPrivateUsage]
            answer = await act()
            (instance,) = answer if isinstance(answer, list) else [answer]
            assert await instance.result(10) == instance.args[0]
            assert await node.count() == number
        assert len(await node.fires("tick")) == 1
        assert stub.calls == ["RetryInstance", "RetryInstance", "RetryInstances", "TriggerSchedule"]


async def test_nothing_runs_twice_when_the_answer_to_run_now_is_lost(stub: Stub) -> None:
    async with served(WORK) as (node, server), Client(f"{stub.target},{server.target}") as client:
        made = await node.schedule(WORK.with_options(after="1h"), 3)
        client._connection._current = 1  # pyright: ignore[reportPrivateUsage]
        late = await client.lookup_instance(made.id)
        stub.answer = losing_answers_of(server, stub)
        client._connection._current = 0  # pyright: ignore[reportPrivateUsage]
        assert await late.run_now()
        assert await late.result(10) == 3
        assert stub.calls == ["RunNow"]


async def test_a_repeated_request_has_the_answer_of_the_first() -> None:
    tick = WORK.with_options(name="tick", every="1d", overlap="skip")
    async with two_nodes() as ((node, one), (_, other)), Client(one.target) as first, Client(other.target) as second:
        await node.add_schedule(tick, 7)
        old = await (await node.schedule(WORK, 3)).wait(10)
        ids = IdSource(node.clock).take(4)
        for client in (first, second, first):
            assert (await client.retry_instance(old.id, id=ids[0])).id == ids[0]
            (made,) = await client.retry_instances(Query(uuid=old.id), id=ids[1])
            assert (made.id, str(made.retry_of)) == (derived_id(ids[1], old.id), old.id)
            triggered = await client.trigger_schedule("tick", id=ids[2])
            assert triggered is not None
            assert triggered.id == ids[2]
            await node.wait(timeout=10)
            scheduled = await client.schedule_as(ids[3], WORK.call(4 if client is first else 5))
            assert (scheduled.args, scheduled.id) == ((4,), ids[3])
        assert not scheduled.is_new
        assert await node.count() == 5
        with pytest.raises(OptionError, match="a UUID"):
            await first.retry_instance(old.id, id="x")
        with pytest.raises(OptionError, match="a UUIDv7 of about now"):
            await first.trigger_schedule("tick", id="bff6212e-ba3e-41ac-904e-2baf1abfdf45")


async def test_what_can_be_asked_again_is_asked_elsewhere(stub: Stub) -> None:
    async with served(WORK) as (_, server), Client(f"{stub.target},{server.target}") as client:
        stub.answer = unavailable

        assert await client.count() == 0
        assert stub.calls == ["CountInstances"]
        assert (await client.stats()).nodes == 1
        assert stub.calls == ["CountInstances"], "it keeps to the node that answered"


async def test_of_all_jobs_that_an_older_node_lists_one_kind_is_taken(stub: Stub) -> None:
    async def all_jobs(name: str, context: Any) -> bytes:
        return pb.ListRegisteredJobsResponse(jobs=[pb.Job(kind="one"), pb.Job(kind="other")]).SerializeToString()

    stub.answer = all_jobs
    async with Client(stub.target) as client:
        assert [job.kind for job in await client.registered_jobs("other")] == ["other"]
        assert [job.kind for job in await client.registered_jobs()] == ["one", "other"]


async def test_a_call_that_is_never_answered_ends(stub: Stub) -> None:
    async def never(name: str, context: Any) -> None:
        await asyncio.Event().wait()

    stub.answer = never
    async with Unasked(stub.target, timeout=0.2) as client:
        with pytest.raises(TimeoutError, match=r"CountInstances was not answered within 0\.2 s"):
            await client.count()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.INTERNAL, RemoteError),
        (grpc.StatusCode.UNIMPLEMENTED, RemoteError),
        (grpc.StatusCode.PERMISSION_DENIED, AuthError),
        (grpc.StatusCode.UNAUTHENTICATED, UnauthenticatedError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, TimeoutError),
    ],
    ids=str,
)
async def test_a_status_that_tells_no_more(stub: Stub, code: grpc.StatusCode, error: type[Exception]) -> None:
    async def end(name: str, context: Any) -> None:
        await context.abort(code, "so it is")

    stub.answer = end
    async with Client(stub.target) as client:
        with pytest.raises(error) as caught:
            await client.count()
        assert type(caught.value) is error


async def test_an_answer_that_is_no_message(stub: Stub) -> None:
    async def rubbish(name: str, context: Any) -> bytes:
        return b"\xff\xff"

    stub.answer = rubbish
    async with Client(stub.target) as client:
        with pytest.raises(RemoteError, match="CountInstancesResponse"):
            await client.count()


async def test_a_request_over_the_limit_is_not_sent(stub: Stub) -> None:
    async with Client(stub.target, max_message=1_000) as client:
        with pytest.raises(PayloadTooLargeError, match="request of ScheduleJob"):
            await client.schedule(WORK, cast(Any, 10**4000))
    assert stub.calls == []


async def test_a_request_of_exactly_the_limit_is_sent(stub: Stub) -> None:
    query = Query(kind="x" * 200)
    async with Client(stub.target, max_message=100) as client:
        with pytest.raises(PayloadTooLargeError) as caught:
            await client.count(query)
    for most, sent in ((caught.value.size - 1, False), (caught.value.size, True)):
        async with Client(stub.target, max_message=most) as client:
            with contextlib.suppress(PayloadTooLargeError, RemoteError):
                await client.count(query)
        assert bool(stub.calls) is sent


@pytest.mark.parametrize("count", [0, -1, 2**31, 2.5, True, "3"])
async def test_a_number_that_cannot_be_is_refused_without_a_call(stub: Stub, count: Any) -> None:
    async with Client(stub.target) as client:
        with pytest.raises(OptionError, match="resize_workers"):
            await client.resize_workers(count)
    assert stub.calls == []


async def test_a_call_that_is_cancelled_here_is_cancelled_there() -> None:
    async with served(WORK, HANG) as (node, server), Client(server.target) as client:
        made: Instance[None] = await client.schedule(HANG)
        waiting = asyncio.ensure_future(made.wait())
        await until(lambda: _open(server, 1))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await until(lambda: _open(server, 0), 10)
        assert await client.count() == 1
        assert node.running


async def _open(server: Server, count: int) -> bool:
    return open_calls(server) == count


# -- nodes that hang ---------------------------------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that hangs is soon asked whether it is there; it has nearly as long as by default to say so."""
    monkeypatch.setattr(connection, "MAX_SILENCE", 2.0)
    monkeypatch.setattr(node_address, "PROBE_SHARE", 0.1)


@pytest.mark.usefixtures("hasty")
async def test_what_can_be_asked_again_goes_on_while_a_node_hangs(stub: Stub) -> None:
    async with served(WORK) as (node, server), Client(f"{stub.target},{server.target}") as client:
        acts: list[Callable[[], Any]] = [client.nodes, client.count, lambda: client.schedule(WORK, 1)]
        for act in acts:
            client._connection._current = 0  # pyright: ignore[reportPrivateUsage]
            client._connection._nodes[0]._remember_answer()  # pyright: ignore[reportPrivateUsage]
            stub.hangs = True
            await act()
        assert stub.calls == ["ListNodes", "GetVersion", "CountInstances", "GetVersion", "ScheduleJob", "GetVersion"]
        assert await node.count() == 1


@pytest.mark.usefixtures("hasty")
async def test_a_node_that_takes_its_time_is_waited_for(stub: Stub) -> None:
    async with served(WORK) as (_, server), Client(f"{stub.target},{server.target}") as client:

        async def later(name: str, context: Any) -> bytes:
            for _ in range(15):
                await stub.probed.acquire()
            return pb.CountInstancesResponse(count=42).SerializeToString()

        stub.answer = later

        assert await client.count() == 42, "later than a node that hangs is left"
        assert stub.calls == ["CountInstances"]


LAST = ["cancel_instances", "clear_logs", "pause_schedule"]
"""What is not asked again of another node while the first may go on: for what it does, and for what it would undo."""


def acting(client: Client, verb: str) -> Any:
    arguments: dict[str, list[Any]] = {"cancel_instances": [Query.all()], "pause_schedule": ["work"]}
    return getattr(client, verb)(*arguments.get(verb, []))


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("verb", LAST)
async def test_what_is_done_once_is_not_sent_to_a_node_that_hangs(stub: Stub, verb: str) -> None:
    recurring = WORK.with_options(every=3600)
    async with served() as (node, server), Client(f"{stub.target},{server.target}") as client:
        await node.add_schedule(recurring, 1)
        client._connection._nodes[0]._last_answer -= 60  # pyright: ignore[reportPrivateUsage]  # nothing was asked for a minute
        stub.hangs = True

        await acting(client, verb)

        assert stub.calls == ["GetVersion"]


@pytest.mark.parametrize("verb", LAST)
async def test_what_is_done_once_is_not_asked_again_when_a_node_begins_to_hang(stub: Stub, verb: str) -> None:
    async with served(WORK) as (_, server), Unasked(f"{stub.target},{server.target}", timeout=0.6) as client:
        client._connection._nodes[0]._last_answer = float("inf")  # pyright: ignore[reportPrivateUsage]  # it is there
        stub.hangs = True

        with pytest.raises(TimeoutError, match=r"was not answered within 0\.6 s"):
            await acting(client, verb)

        assert len(stub.calls) <= 1, "none, where even the first was late"
        client._connection._timeout = 30  # pyright: ignore[reportPrivateUsage]
        assert await client.count() == 0, "the next call goes to the other node"


@pytest.mark.usefixtures("hasty")
async def test_a_node_that_hung_is_avoided_while_another_can_be_asked(stub: Stub) -> None:
    async with Stub().listening() as other, Client(f"{stub.target},{other.target}") as client:

        async def fail_once(name: str, context: Any) -> bytes:
            if other.calls.count("CountInstances") == 2:
                await unavailable(name, context)
            return pb.CountInstancesResponse(count=7).SerializeToString()

        stub.hangs, other.answer = True, fail_once
        assert [await client.count(), await client.count()] == [7, 7]
        assert stub.calls == ["CountInstances", "GetVersion"]
        assert other.calls == ["CountInstances"] * 3


@pytest.mark.usefixtures("hasty")
async def test_a_call_that_went_on_elsewhere_ends_at_the_node_that_hangs(stub: Stub) -> None:
    async with served(WORK) as (_, server), Client(f"{stub.target},{server.target}", timeout=120) as client:
        stub.hangs = True
        assert await client.count() == 0
        assert stub.calls == ["CountInstances", "GetVersion"]
        await until(lambda: not stub.hanging, 20)


async def test_a_node_that_answers_with_an_error_is_not_asked_whether_it_is_there(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_SILENCE", 60.0)

    async def not_found(_name: str, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "none")
        raise AssertionError

    async with Stub().listening() as other, Unasked(f"{stub.target},{other.target}", timeout=120) as client:
        stub.answer = not_found
        await stub.probed.acquire()  # by the start
        client._connection._nodes[0]._last_answer = -math.inf  # pyright: ignore[reportPrivateUsage]
        for act in (client.count, lambda: client.pause_schedule("none")):
            with pytest.raises(PeerjobError):
                await act()
        assert stub.calls == ["CountInstances", "PauseSchedule"]
        assert stub.probed.locked()


async def test_another_node_has_the_time_that_is_left(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_SILENCE", 0.2)
    given, ask = list[float](), node_address.NodeAddress.ask

    async def noted(node: Any, rpc: Any, data: bytes, *, timeout: float, **options: Any) -> bytes:
        if rpc.name == "CountInstances":
            given.append(timeout)
        return await ask(node, rpc, data, timeout=timeout, **options)

    monkeypatch.setattr(node_address.NodeAddress, "ask", noted)
    async with served(WORK) as (_, server), Unasked(f"{stub.target},{server.target}", timeout=30) as client:
        stub.hangs = True
        assert await client.count() == 0
    assert len(given) == 2
    assert given[1] <= given[0] - 0.2


async def test_when_all_nodes_hang_a_call_ends_in_time(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_SILENCE", 0.2)  # so that both have their turn early on
    async with Stub().listening() as other, Unasked(f"{stub.target},{other.target}", timeout=3) as client:
        stub.hangs = other.hangs = True
        with pytest.raises(TimeoutError, match="CountInstances was not answered within 3 s"):
            await asyncio.wait_for(client.count(), 30)
        assert stub.calls.count("CountInstances") >= 1
        assert other.calls.count("CountInstances") >= 1


# -- blocking ----------------------------------------------------------------------------------------------------------


async def test_the_blocking_verbs() -> None:
    async with served(WORK) as (_, server):

        def use() -> tuple[int, int, list[str]]:
            with Client(server.target).blocking() as blocking:
                made = blocking.schedule(WORK, 7)
                result = made.result(10)
                return result, blocking.count(), [one.kind for one in blocking.lookup_instances()]

        assert await asyncio.to_thread(use) == (7, 1, ["work"])
