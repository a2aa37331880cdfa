"""The external scaler as KEDA sees it: names and numbers of its messages, what counts, and what is refused."""

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncGenerator
from pathlib import Path

import grpc
import pytest
import yaml
from google.protobuf.descriptor import FieldDescriptor

from peerjob import Job, Node, OptionError, ScalerServer, SystemClock
from peerjob.proto.externalscaler import externalscaler_pb2 as pb
from peerjob.remote.scaler.demand import DemandReader
from peerjob.remote.scaler.metadata import Trigger, read_trigger
from peerjob.remote.scaler.server import SERVICE
from peerjob.testing import VirtualClock, running_node
from support.factories import flaky_store
from support.keda import Keda, ref
from support.waiting import until

FIELDS = {
    "ScaledObjectRef": {"name": (1, "string"), "namespace": (2, "string"), "scalerMetadata": (3, "map")},
    "IsActiveResponse": {"result": (1, "bool")},
    "GetMetricSpecResponse": {"metricSpecs": (1, "MetricSpec")},
    "MetricSpec": {"metricName": (1, "string"), "targetSize": (2, "int64"), "targetSizeFloat": (3, "double")},
    "GetMetricsRequest": {"scaledObjectRef": (1, "ScaledObjectRef"), "metricName": (2, "string")},
    "GetMetricsResponse": {"metricValues": (1, "MetricValue")},
    "MetricValue": {"metricName": (1, "string"), "metricValue": (2, "int64"), "metricValueFloat": (3, "double")},
}
RPCS = {
    "IsActive": ("ScaledObjectRef", "IsActiveResponse", False),
    "StreamIsActive": ("ScaledObjectRef", "IsActiveResponse", True),
    "GetMetricSpec": ("ScaledObjectRef", "GetMetricSpecResponse", False),
    "GetMetrics": ("GetMetricsRequest", "GetMetricsResponse", False),
}
TYPES = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_DOUBLE: "double",
}


def type_of(field: FieldDescriptor) -> str:
    if field.message_type is None:
        return TYPES[field.type]
    return "map" if field.message_type.GetOptions().map_entry else str(field.message_type.name)


def test_messages_and_rpcs_are_those_of_keda() -> None:
    file = pb.DESCRIPTOR
    assert file.package == "externalscaler"
    assert {
        name: {field.name: (field.number, type_of(field)) for field in message.fields}
        for name, message in file.message_types_by_name.items()
    } == FIELDS
    assert SERVICE.full_name == "externalscaler.ExternalScaler"
    assert {
        method.name: (method.input_type.name, method.output_type.name, method.server_streaming)
        for method in SERVICE.methods
    } == RPCS


# -- what a trigger says ----------------------------------------------------------------------------------------------


def test_a_trigger_that_says_nothing_counts_every_kind_by_the_workers_of_the_node() -> None:
    assert read_trigger({}, 10) == Trigger(kinds=(), jobs_per_replica=10)


def test_a_trigger_may_say_everything_and_brings_what_is_for_keda() -> None:
    metadata = {
        "scalerAddress": "peerjob-scaler.jobs:9091",
        "enableTLS": "true",
        "kinds": "mail, report ,mail",
        "jobsPerReplica": "2.5",
        "activationJobs": "3",
        "includeDelayedFromEnv": "True",
    }
    assert read_trigger(metadata, 10) == Trigger(
        kinds=("mail", "report"), jobs_per_replica=2.5, activation_jobs=3, include_delayed=True
    )


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"kinds": ""}, "kinds: expected names of kinds"),
        ({"kinds": "a,,b"}, "kinds: expected names of kinds"),
        ({"jobsPerReplica": "0"}, "jobsPerReplica: expected a number of 0.001 or more, got '0'"),
        ({"jobsPerReplica": "many"}, "jobsPerReplica"),
        ({"jobsPerReplica": "nan"}, "jobsPerReplica"),
        ({"jobsPerReplica": "inf"}, "jobsPerReplica"),
        ({"activationJobs": "-1"}, "activationJobs: expected a number of 0 or more, got '-1'"),
        ({"includeDelayed": "maybe"}, "includeDelayed: expected true or false, got 'maybe'"),
        ({"kind": "mail"}, "metadata: expected kinds, jobsPerReplica, activationJobs or includeDelayed, got 'kind'"),
    ],
)
def test_what_a_trigger_cannot_say_is_named(metadata: dict[str, str], expected: str) -> None:
    with pytest.raises(OptionError) as caught:
        read_trigger(metadata, 10)
    assert expected in str(caught.value)


def test_a_node_without_workers_has_no_default_for_a_replica() -> None:
    with pytest.raises(OptionError, match="jobsPerReplica"):
        read_trigger({}, 0)
    assert read_trigger({"jobsPerReplica": "4"}, 0).jobs_per_replica == 4


@pytest.mark.parametrize("path", ["docs/autoscaling.md", "k8s/components/keda/scaledobject.yaml"])
def test_the_examples_say_what_can_be_said(path: str) -> None:
    text = (Path(__file__).parents[3] / path).read_text()
    found = re.search(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (trigger,) = yaml.safe_load(text if found is None else found[1])["spec"]["triggers"]
    assert trigger["type"] == "external"
    assert read_trigger(trigger["metadata"], 4).jobs_per_replica == 10


# -- what counts ------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def asked(node: Node) -> AsyncGenerator[Keda]:
    async with ScalerServer(node, "127.0.0.1:0") as server, grpc.aio.insecure_channel(server.target) as channel:
        yield Keda(channel)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every question read the store."""
    monkeypatch.setattr("peerjob.remote.scaler.demand.FRESH", 0.0)


@pytest.mark.usefixtures("fresh")
async def test_what_waits_and_what_runs_counts_and_what_is_delayed_when_asked() -> None:
    leave = threading.Event()
    held = Job("held", lambda: leave.wait(60))
    mail = Job("mail", lambda: None)
    async with running_node(held, clock=SystemClock(), workers=2) as node, asked(node) as keda:
        node.register(Job("mail"))
        assert (await keda.jobs(), await keda.active()) == (0, False)

        await node.schedule_many(held.call() for _ in range(5))
        await node.schedule_many(mail.with_options(after="1h").call() for _ in range(3))
        try:
            await until(lambda: running(node, 2))
            assert await keda.jobs() == 5
            assert await keda.jobs(kinds="held") == 5
            assert await keda.jobs(kinds="mail") == 0
            assert await keda.jobs(kinds="held,mail", includeDelayed="true") == 8
            assert await keda.jobs(kinds="unknown") == 0
            assert await keda.active(kinds="held", activationJobs="4")
            assert not await keda.active(kinds="held", activationJobs="5")
            assert not await keda.active(kinds="mail")
        finally:
            leave.set()
        await until(lambda: done(keda))


async def running(node: Node, count: int) -> bool:
    return node.vitals().busy == count


async def done(keda: Keda) -> bool:
    return await keda.jobs() == 0


async def test_the_target_is_what_one_replica_is_for() -> None:
    async with running_node(clock=SystemClock(), workers=7) as node, asked(node) as keda:
        (spec,) = (await keda.call("GetMetricSpec", ref({}))).metricSpecs
        assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == ("peerjob-jobs", 7, 7.0)
        (spec,) = (await keda.call("GetMetricSpec", ref({"jobsPerReplica": "2.5"}))).metricSpecs
        assert (spec.targetSize, spec.targetSizeFloat) == (3, 2.5)


async def test_bad_metadata_is_an_invalid_argument_that_names_it() -> None:
    bad = ref({"jobsPerReplica": "many"})
    async with running_node(clock=SystemClock()) as node, asked(node) as keda:
        for name in ("IsActive", "GetMetricSpec"):
            code, text = await keda.refusal(name, bad)
            assert (code, "jobsPerReplica" in text) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        code, text = await keda.refusal("GetMetrics", pb.GetMetricsRequest(scaledObjectRef=bad))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        code, text = await keda.refusal("GetMetrics", pb.GetMetricsRequest(metricName="other"))
        assert (code, "peerjob-jobs" in text) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        with pytest.raises(grpc.aio.AioRpcError, match="jobsPerReplica"):
            await keda.stream(jobsPerReplica="many").read()


@pytest.mark.usefixtures("fresh")
async def test_a_stream_tells_at_once_and_then_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerjob.remote.scaler.handlers.FRESH", 0.02)
    go = threading.Event()
    async with running_node(Job("held", lambda: go.wait(60)), clock=SystemClock()) as node, asked(node) as keda:
        stream = keda.stream()
        assert not await Keda.is_active(stream)
        await node.schedule("held")
        assert await Keda.is_active(stream)
        go.set()
        assert not await Keda.is_active(stream)


async def test_a_scaler_that_stops_ends_its_streams() -> None:
    async with (
        running_node(clock=SystemClock()) as node,
        ScalerServer(node, "127.0.0.1:0") as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        stream = Keda(channel).stream()
        await stream.read()
        async with asyncio.timeout(60):
            await server.stop(grace=3600)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_store_that_is_away_is_unavailable_and_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    flaky = flaky_store(clock)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    node = Node(flaky.store, clock=clock)
    async with node, asked(node) as keda:
        for fault, patience in ((flaky.fail("due"), 20), (flaky.stall("due"), 0.05)):
            monkeypatch.setattr("peerjob.remote.scaler.demand.READ_TIMEOUT", patience)
            code, text = await keda.refusal("IsActive", ref({}))
            assert code is grpc.StatusCode.UNAVAILABLE
            assert text == f"the store of node {node.name!r} does not answer"
            fault.release()
        monkeypatch.setattr("peerjob.remote.scaler.demand.READ_TIMEOUT", 20)
        assert not await keda.active()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("how", ["fails", "stalls"])
async def test_a_stream_goes_on_after_the_store_was_away(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr("peerjob.remote.scaler.handlers.FRESH", 0.02)
    clock = SystemClock()
    flaky = flaky_store(clock)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async with Node(flaky.store, workers=0, clock=clock) as node, asked(node) as keda:
        stream = keda.stream(jobsPerReplica="1")
        assert not await Keda.is_active(stream)
        monkeypatch.setattr("peerjob.remote.scaler.demand.READ_TIMEOUT", 0.05)
        fault = flaky.fail("due") if how == "fails" else flaky.stall("due")
        missed = flaky.calls["due"] + 2
        await until(lambda: flaky.calls["due"] >= missed)
        monkeypatch.setattr("peerjob.remote.scaler.demand.READ_TIMEOUT", 20)
        fault.release()
        await node.schedule("work", allow_unknown=True)
        assert await Keda.is_active(stream)


async def test_before_its_node_starts_it_is_unavailable() -> None:
    async with asked(Node("memory://")) as keda:
        code, _ = await keda.refusal("IsActive", ref({}))
        assert code is grpc.StatusCode.UNAVAILABLE


async def test_the_store_is_read_at_most_once_a_second(clock: VirtualClock) -> None:
    flaky = flaky_store(clock)
    async with running_node(clock=clock, store=flaky.store) as node:
        reader = DemandReader(node)
        await clock.run(asyncio.gather(*(reader.read() for _ in range(20))))
        assert (flaky.calls["due"], flaky.calls["health"]) == (1, 1)
        await clock.advance(1)
        await clock.run(reader.read())
        assert flaky.calls["due"] == 2


async def test_a_taken_port_is_refused_by_its_option() -> None:
    node = Node("memory://")
    async with ScalerServer(node, "127.0.0.1:0") as server:
        with pytest.raises(OptionError, match="scaler_listen: expected an address of this machine"):
            await ScalerServer(node, server.target).start()
    with pytest.raises(OptionError, match=r"scaler_listen: expected host:port, such as 127\.0\.0\.1:9091"):
        ScalerServer(node, "9091")
