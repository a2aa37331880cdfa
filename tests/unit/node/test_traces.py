"""Traces of OpenTelemetry, from the scheduling call to the body."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode, Tracer

from peerjob import ArgumentError, Client, Fail, Job, Node, NodeStateError, Query, Server, SystemClock
from peerjob.model.spec import decode_spec
from peerjob.node.observe.spans import Tracing
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import advance, drain
from support.factories import flaky_store, shared_url

EXPORTED = InMemorySpanExporter()
PROVIDER = TracerProvider()
PROVIDER.add_span_processor(SimpleSpanProcessor(EXPORTED))
TRACER: Tracer = PROVIDER.get_tracer("application")


@pytest.fixture(autouse=True)
def _exported() -> Iterator[None]:
    EXPORTED.clear()
    yield
    EXPORTED.clear()


def spans(name: str) -> list[ReadableSpan]:
    return [one for one in EXPORTED.get_finished_spans() if one.name == name]


def span(name: str) -> ReadableSpan:
    (one,) = spans(name)
    return one


def id_of(one: ReadableSpan) -> int:
    assert one.context is not None
    return int(one.context.span_id)


def trace_of(one: ReadableSpan) -> int:
    assert one.context is not None
    return int(one.context.trace_id)


def parent_of(one: ReadableSpan) -> int | None:
    return None if one.parent is None else one.parent.span_id


def linked(one: ReadableSpan) -> set[int]:
    return {link.context.span_id for link in one.links}


async def work(seconds: float = 1) -> None:
    with TRACER.start_as_current_span("inside"):
        await asyncio.sleep(seconds)


def work_in_a_thread() -> None:
    with TRACER.start_as_current_span("inside"):
        pass


def fail() -> None:
    raise LookupError("no such customer")


def give_up() -> None:
    raise Fail("out of luck")


WORK = Job("work", work)
THREAD = Job("thread", work_in_a_thread)
FAIL = Job("fail", fail, max_retries=1)
JOBS: Sequence[Job] = (WORK, THREAD, FAIL, Job("give up", give_up))


def traced(clock: VirtualClock, *, store: str = "memory://", name: str = "node", workers: int = 10) -> Node:
    node = Node(store, jobs=JOBS, clock=clock, name=name, workers=workers)
    node.trace(PROVIDER)
    return node


@pytest.mark.parametrize("job", [WORK, THREAD], ids=["async", "thread"])
async def test_one_trace_leads_from_the_caller_into_the_body(clock: VirtualClock, job: Job) -> None:
    async with traced(clock) as node:
        with TRACER.start_as_current_span("request") as request:
            instance = await node.schedule(job)
        await drain(node)

    schedule, run, inside = span(f"schedule {job.kind}"), span(f"run {job.kind}"), span("inside")
    assert parent_of(schedule) == request.get_span_context().span_id
    assert parent_of(run) == id_of(schedule)
    assert parent_of(inside) == id_of(run)
    assert len({trace_of(one) for one in (span("request"), schedule, run, inside)}) == 1
    assert (schedule.kind, run.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert run.attributes is not None
    assert run.attributes["messaging.message.id"] == instance.id
    assert run.attributes["messaging.destination.name"] == job.kind
    assert run.attributes["peerjob.outcome"] == "complete"
    assert run.status.status_code is StatusCode.UNSET


async def test_calls_that_are_stored_together_keep_their_traces(clock: VirtualClock) -> None:
    traces: dict[str, int] = {}

    async def request(node: Node) -> None:
        with TRACER.start_as_current_span("request") as current:
            made = await node.schedule(THREAD)
        traces[made.id] = current.get_span_context().trace_id

    async with traced(clock) as node:
        await asyncio.gather(*(request(node) for _ in range(20)))
        await drain(node)

    runs = {str((run.attributes or {})["messaging.message.id"]): trace_of(run) for run in spans("run thread")}
    assert runs == traces
    assert len(set(traces.values())) == 20


async def test_a_span_lasts_as_long_as_its_body_by_the_clock_of_the_node(clock: VirtualClock) -> None:
    async with traced(clock) as node:
        await node.schedule(WORK, 3)
        await drain(node)

    run = span("run work")
    assert run.start_time is not None
    assert run.end_time is not None
    assert (run.end_time - run.start_time) / 1e9 == pytest.approx(3, abs=0.01)


async def test_it_leads_to_another_node(clock: VirtualClock) -> None:
    url = shared_url()
    async with traced(clock, store=url, name="web", workers=0) as web, traced(clock, store=url, name="worker"):
        await web.schedule(WORK)
        await drain(web)

    run = span("run work")
    assert parent_of(run) == id_of(span("schedule work"))
    assert run.attributes is not None
    assert run.attributes["peerjob.node"] == "worker"


async def test_each_attempt_is_a_span_with_its_error(clock: VirtualClock) -> None:
    async with traced(clock) as node:
        await node.schedule(FAIL)
        await drain(node)

    first, second = spans("run fail")
    assert parent_of(first) == parent_of(second) == id_of(span("schedule fail"))
    for number, outcome, one in ((1, "retry", first), (2, "terminate", second)):
        assert one.attributes is not None
        assert (one.attributes["peerjob.attempt"], one.attributes["peerjob.outcome"]) == (number, outcome)
        assert one.attributes["error.type"] == "LookupError"
        assert (one.status.status_code, one.status.description) == (StatusCode.ERROR, "LookupError: no such customer")
        (event,) = one.events
        assert event.attributes is not None
        assert event.attributes["exception.message"] == "no such customer"
        assert "in fail" in str(event.attributes["exception.stacktrace"])


async def test_claims_and_commits_are_linked_to_what_they_were_about(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    node = Node(flaky.store, jobs=JOBS, clock=clock)
    node.trace(PROVIDER)
    await node.start()
    flaky.slow(0.25, "turn")
    await node.schedule_many([WORK.call(1), WORK.call(1)])
    await drain(node)
    await clock.run(node.stop())

    (schedule,) = spans("schedule work")
    assert schedule.attributes is not None
    assert schedule.attributes["messaging.batch.message_count"] == 2
    runs = spans("run work")
    assert {parent_of(run) for run in runs} == {id_of(schedule)}
    assert set().union(*map(linked, spans("claim"))) == {id_of(schedule)}
    assert set().union(*map(linked, spans("commit"))) == {id_of(run) for run in runs}
    for one in (*spans("claim"), *spans("commit")):
        assert one.start_time is not None
        assert one.end_time is not None
        assert (one.end_time - one.start_time) / 1e9 == pytest.approx(0.25, abs=0.01)
        assert one.parent is None


async def test_what_was_scheduled_without_a_trace_begins_one_of_its_own(clock: VirtualClock) -> None:
    """The trace in which the node was started is not continued."""
    url = shared_url()
    plain = Node(url, jobs=JOBS, clock=clock, workers=0)
    node = traced(clock, store=url)
    with TRACER.start_as_current_span("startup"):
        await node.start()
    async with plain:
        await plain.schedule(WORK)
        await drain(plain)
    await node.stop()

    run = span("run work")
    assert run.parent is None
    assert trace_of(run) != trace_of(span("startup"))
    assert not spans("claim")


async def test_each_fire_of_a_schedule_is_a_trace(clock: VirtualClock) -> None:
    async with traced(clock) as node:
        with TRACER.start_as_current_span("request"):
            await node.add_schedule(WORK.with_options(every="10s"))
        await advance(node, 25)

    runs = spans("run work")
    assert len(runs) >= 2
    assert {run.parent for run in runs} == {None}
    assert len({trace_of(run) for run in runs}) == len(runs)


async def test_a_repeated_instance_is_in_the_trace_of_who_repeats_it(clock: VirtualClock) -> None:
    async with traced(clock) as node:
        instance = await node.schedule("give up")
        await drain(node)
        with TRACER.start_as_current_span("again") as again:
            await instance.retry()
        await drain(node)

    first, second = spans("run give up")
    assert parent_of(first) == id_of(span("schedule give up"))
    assert parent_of(second) == again.get_span_context().span_id


async def test_a_refused_call_has_its_error_on_its_span(clock: VirtualClock) -> None:
    async with traced(clock) as node:
        with pytest.raises(ArgumentError):
            await node.schedule("work", "no number")

    schedule = span("schedule work")
    assert schedule.status.status_code is StatusCode.ERROR
    assert [event.name for event in schedule.events] == ["exception"]


async def test_what_is_not_sampled_makes_no_span(clock: VirtualClock) -> None:
    exported = InMemorySpanExporter()
    provider = TracerProvider(sampler=ALWAYS_OFF)
    provider.add_span_processor(SimpleSpanProcessor(exported))
    node = Node("memory://", jobs=JOBS, clock=clock)
    node.trace(provider)
    async with node:
        instance = await node.schedule("thread")
        await drain(node)
        trace = decode_spec((await instance.refresh()).record.spec).trace

    assert int(trace["traceparent"].rpartition("-")[2], 16) & 1 == 0
    assert not exported.get_finished_spans()


async def test_a_node_that_does_not_trace_stores_nothing_of_it(clock: VirtualClock) -> None:
    async with Node("memory://", jobs=JOBS, clock=clock) as node:
        with TRACER.start_as_current_span("request"):
            instance = await node.schedule(WORK)
        await drain(node)

    assert decode_spec(instance.record.spec).trace == {}
    assert b"trace" not in instance.record.spec
    assert [one.name for one in EXPORTED.get_finished_spans()] == ["request", "inside"]


async def test_tracing_begins_before_the_node() -> None:
    async with Node("memory://") as node:
        with pytest.raises(NodeStateError, match=r"trace\(\) comes before"):
            node.trace(PROVIDER)


def test_blocking_callers_are_followed_too() -> None:
    node = Node("memory://", jobs=JOBS)
    node.trace(PROVIDER)
    with node.blocking() as manager:
        with TRACER.start_as_current_span("request") as request:
            manager.schedule(THREAD).result(timeout=60)
        manager.wait(Query.all(), timeout=60)

    assert parent_of(span("schedule thread")) == request.get_span_context().span_id
    assert trace_of(span("inside")) == request.get_span_context().trace_id


@pytest.mark.parametrize("schedules_itself", [True, False], ids=["schedule", "schedule_many"])
async def test_callers_over_the_network_are_followed_too(schedules_itself: bool) -> None:
    node = Node("memory://", jobs=JOBS)
    node.trace(PROVIDER)
    async with node, Server(node, "127.0.0.1:0") as server:
        made = Client(server.target, jobs=JOBS)
        made.trace()
        async with made.remake() as client:
            with TRACER.start_as_current_span("request") as request:
                if schedules_itself:
                    instance = await client.schedule(THREAD)
                else:
                    (instance,) = await client.schedule_many([THREAD.call()])
            await instance.wait(60)

    assert parent_of(span("schedule thread")) == request.get_span_context().span_id
    assert parent_of(span("run thread")) == id_of(span("schedule thread"))


async def test_what_callers_send_is_ignored_by_a_node_that_does_not_trace() -> None:
    async with Node("memory://", jobs=JOBS) as node, Server(node, "127.0.0.1:0") as server:
        client = Client(server.target)
        client.trace()
        async with client:
            with TRACER.start_as_current_span("request"):
                instance = await client.schedule("thread", allow_unknown=True)
            await instance.wait(60)

    assert decode_spec(instance.record.spec).trace == {}
    assert not spans("run thread")


def test_rubbish_from_callers_begins_a_trace_of_its_own() -> None:
    tracing = Tracing(SystemClock(), PROVIDER)
    for sent in ([], [("traceparent", "rubbish")], [("traceparent", b"00-1"), ("tracestate", "x" * 10_000)]):
        with tracing.within(sent), tracing.scheduling(["work"]):
            pass

    assert [one.parent for one in spans("schedule work")] == [None] * 3


def test_nothing_of_it_is_imported_unasked() -> None:
    code = """
import asyncio, sys
from peerjob import Job, Node
from peerjob.node.observe.metrics import Metrics

async def main():
    async with Node("memory://", jobs=Job("nothing", print)) as node:
        Metrics(node)
        await (await node.schedule("nothing")).wait(60)

asyncio.run(main())
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
