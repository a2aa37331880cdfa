"""The client: a manager for a process that is not a node."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar, cast
from uuid import UUID

from peerjob.handles.flow_instance import FlowInstance
from peerjob.handles.instance import Instance
from peerjob.handles.schedule import Schedule
from peerjob.model.arguments import typed_except_secrets, whole_number
from peerjob.model.clock import Clock, SystemClock
from peerjob.model.durations import Duration, to_seconds
from peerjob.model.errors import NodeStateError, OptionError, StoreError
from peerjob.model.flow import Flow
from peerjob.model.ids import checked_id
from peerjob.model.job import Call, Job
from peerjob.model.limits import MAX_SIZE, MAX_WORKERS
from peerjob.model.listen_address import GRPC_PORT
from peerjob.model.record import Record
from peerjob.model.spec import decode_spec
from peerjob.model.worker import Worker
from peerjob.node.body.registry import Registry
from peerjob.node.manager.blocking import StartableManager
from peerjob.node.manager.call_encoder import CallEncoder
from peerjob.node.manager.jobs import JobSource
from peerjob.node.node import MAX_PAYLOAD
from peerjob.node.observe.tracing import make_tracing
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire import rpcs
from peerjob.remote.wire.cluster import worker_of
from peerjob.remote.wire.flows import flow_request
from peerjob.remote.wire.requests import MAX_BULK, job_request, kind_request
from peerjob.remote.wire.schedules import row_of
from peerjob.remote.wire.tls import ClientTls
from peerjob.remote.wire.values import span

from .client_clock import ClientClock
from .connection import Connection, split_target
from .new_ids import NewIds
from .remote_manager import ANSWER, RemoteManager, long_poll

R = TypeVar("R")

logger = logging.getLogger("peerjob.client")

MAX_MESSAGE = 16 << 20
CHUNK_BYTES = 2 << 20
"""The approximate bytes of one request of `schedule_many`, which splits its calls into several requests."""
MAX_WARNED = 1_000
"""The number of kinds for which the client remembers a warning, so that each kind is warned about only once."""


class Client(RemoteManager, StartableManager):
    """Manages a cluster from outside, through any node that serves gRPC.

    Use the client as an async context manager, or with `start()` and `stop()`. `target` is "host:port", or several of
    them separated by commas: the client uses one, and the next when that node goes away. `token` identifies the caller,
    and `tls` encrypts the connection. The client checks calls of `jobs` as a node does; it runs none of them. `timeout`
    limits one call, and `connect_timeout` the search for a node that answers; verbs that wait have their own timeouts.
    `max_payload` limits the arguments of one call and `max_message` a whole request, in bytes.
    """

    @typed_except_secrets("token")
    def __init__(
        self,
        target: str = f"127.0.0.1:{GRPC_PORT}",
        *,
        token: str | None = None,
        tls: ClientTls | None = None,
        jobs: JobSource = (),
        timeout: Duration = 30.0,
        connect_timeout: Duration = 5.0,
        max_payload: int = MAX_PAYLOAD,
        max_message: int = MAX_MESSAGE,
        clock: Clock | None = None,
    ) -> None:
        _check_token(token)
        self._clock = ClientClock(clock or SystemClock())
        self.clock: Clock = self._clock
        self.addresses = split_target(target)
        self._registry = Registry()
        self._remake: Callable[[], Client] = lambda: Client(
            target,
            token=token,
            tls=tls,
            jobs=self._registry.jobs(),
            timeout=timeout,
            connect_timeout=connect_timeout,
            max_payload=max_payload,
            max_message=max_message,
            clock=clock,
        )
        self._connection = Connection(
            self.addresses,
            tls=tls,
            token=token,
            timeout=to_seconds(timeout, "timeout"),
            connect_timeout=to_seconds(connect_timeout, "connect_timeout"),
            max_message=whole_number("max_message", max_message, 1, MAX_SIZE),
            clock=self.clock,
        )
        self._call_encoder = CallEncoder(
            clock=self.clock,
            registry=self._registry,
            max_payload=whole_number("max_payload", max_payload, 1, MAX_SIZE),
            timezone="UTC",
            local_objects=lambda: None,
        )
        self._ids = NewIds(self._connection, self._clock, self._call_encoder.ids)
        self._started = False
        self._warned: set[str] = set()
        self.register(jobs)

    def trace(self) -> None:
        """Send the context of the caller's OpenTelemetry trace, so that nodes continue the trace.

        Raises MissingExtraError without peerjob[otel].
        """
        self._connection.carrier = make_tracing(self.clock).carrier

    # -- starting and stopping ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, and check that a node accepts this client; raises NodeUnavailableError or AuthError."""
        if self._started:
            raise NodeStateError("this client is started already")
        self._started = True
        self._connection.open()
        try:
            await self._ids.compare()
        except GeneratorExit:
            raise  # Python destroys this coroutine because its event loop was closed
        except BaseException:
            await self.stop()
            raise

    async def stop(self, grace: Duration = 0.0) -> None:
        """Disconnect and cancel open calls; idempotent. `grace` has no effect: a node takes it too."""
        self._started = False
        await self._connection.close()

    def remake(self) -> Client:
        """A new client with the same settings and jobs, not started."""
        made = self._remake()
        made._connection.carrier = self._connection.carrier
        return made

    # -- jobs --------------------------------------------------------------------------------------------------------

    def register(self, source: JobSource) -> None:
        """Add jobs whose calls the client checks. Nodes do not see them."""
        self._registry.add(source)

    def unregister(self, kind: str) -> Job[..., Any, Any]:
        return self._registry.remove(kind)

    def jobs(self) -> list[Job[..., Any, Any]]:
        """The jobs that were registered here, by kind; `registered_jobs` asks a node for its jobs."""
        return self._registry.jobs()

    def job(self, kind: str) -> Job[..., Any, Any]:
        return self._registry.job(kind)

    # -- scheduling --------------------------------------------------------------------------------------------------

    async def _schedule(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Instance[Any]:
        await self._ids.follow_clock()
        return await self._scheduled(self._request(target, args, kwargs), _job_of(target))

    async def schedule_as(self, id: str, call: Call[R]) -> Instance[R]:
        return await self._schedule_as(id, self._request(call, (), {}), call.job)

    async def schedule_known(self, id: str, call: Call[R]) -> Instance[R]:
        """Like `schedule_as(id, call)`, but raises UnknownKindError for a kind that no node has published."""
        return await self._schedule_as(id, self._request(call, (), {}, known=True), call.job)

    async def _schedule_as(self, id: str, request: pb.ScheduleJobRequest, job: Job[..., Any, Any]) -> Instance[Any]:
        request.uuid = checked_id(id)
        return await self._made(await self._ids.send(rpcs.SCHEDULE_JOB, request, None), job)

    async def _scheduled(self, request: pb.ScheduleJobRequest, job: Job[..., Any, Any] | None) -> Instance[Any]:
        """Send a request with an id of this client's own."""

        def renew() -> None:
            request.uuid = self._ids.one()

        answer = await self._ids.send(rpcs.SCHEDULE_JOB, request, renew)
        return await self._made(answer, job, own_id=request.uuid)

    async def schedule_many(self, calls: Iterable[Call[R]]) -> list[Instance[R]]:
        """Store many runs, in requests of up to 1,000. All calls are checked before the first request."""
        taken = list(calls)
        await self._ids.follow_clock()
        ids_made = self._ids.changes
        requests = [self._request(call, (), {}) for call in taken]
        jobs = iter(taken)
        made: list[Instance[R]] = []
        for chunk in _chunks(requests):
            request = pb.ScheduleJobsRequest(jobs=chunk, view=pb.INSTANCE_VIEW_ENCODED)
            try:
                answer = await self._ids.send(rpcs.SCHEDULE_JOBS, request, partial(self._renew, request), made=ids_made)
            except StoreError as error:
                error.is_unsure |= bool(made)  # the requests before this one are stored
                raise
            made += [
                await self._made(scheduled, next(jobs).job, own_id=sent.uuid)
                for scheduled, sent in zip(answer.scheduled, request.jobs, strict=True)
            ]
        return made

    async def schedule_flow(
        self, flow: Flow, *, tags: Iterable[str] = (), id: str | UUID | None = None
    ) -> FlowInstance:
        await self._ids.follow_clock()
        request = flow_request(flow, tags, lambda call: self._request(call, (), {}))
        if id is None:
            answer = await self._ids.call(rpcs.SCHEDULE_FLOW, request, "uuid")
        else:
            request.uuid = checked_id(id, "id")
            answer = await self._ids.send(rpcs.SCHEDULE_FLOW, request, None)
        made = FlowInstance.of(await self._whole_instance(answer.instance))
        made.is_new = id is None or not answer.repeated
        for kind in answer.unserved:
            self._warn_unserved(kind)
        return made

    def _renew(self, request: pb.ScheduleJobsRequest) -> None:
        for job in request.jobs:
            job.uuid = self._ids.one()

    async def _add_schedule(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Schedule:
        return await self._put_schedule(self._request(target, args, kwargs, recurs=True))

    async def add_known_schedule(self, call: Call[Any]) -> Schedule:
        """Like `add_schedule(call)`, but raises UnknownKindError for a kind that no node has published."""
        return await self._put_schedule(self._request(call, (), {}, recurs=True, known=True))

    async def _put_schedule(self, job: pb.ScheduleJobRequest) -> Schedule:
        request = pb.PutScheduleRequest(job=job)
        answer = await self._connection.call(rpcs.PUT_SCHEDULE, request)
        if answer.unserved:
            self._warn_unserved(answer.schedule.kind)
        return Schedule(self, row_of(answer.schedule))

    def _request(
        self,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        recurs: bool = False,
        known: bool = False,
    ) -> pb.ScheduleJobRequest:
        """The request for a call. Raises an error here for an invalid call of a registered job."""
        if isinstance(target, str) and self._registry.find(target) is None:
            allowed = bool(kwargs.pop("allow_unknown", False))
            return kind_request(target, args, kwargs, id=self._ids.one(), known=not allowed)
        call = self._call_encoder.resolve(target, args, kwargs)
        if recurs:
            _, definition = self._call_encoder.definition(call)
            return job_request(call.job, decode_spec(definition.spec).args, definition.key, new=None, known=known)
        new = self._call_encoder.new(call)
        return job_request(call.job, decode_spec(new.spec).args, new.key, new=new, known=known)

    async def _made(
        self, answer: pb.ScheduleJobResponse, job: Job[..., Any, Any] | None, *, own_id: str = ""
    ) -> Instance[Any]:
        instance = await self._whole_instance(answer.instance, job)
        # an instance with an id that this client made exists only by an earlier try of the same call
        instance.is_new = not answer.existed and (not answer.repeated or instance.id == own_id)
        if answer.unserved:
            self._warn_unserved(instance.kind)
        return instance

    def _warn_unserved(self, kind: str) -> None:
        if kind in self._warned:
            return
        if len(self._warned) >= MAX_WARNED:
            self._warned.clear()
        self._warned.add(kind)
        logger.warning("no live node runs the kind %r; its instances wait until one does", kind)

    def read_result(self, record: Record, job: Job[..., Any, Any] | None = None) -> Any:
        return self._call_encoder.read_result(record, job)

    # -- the node that answers ---------------------------------------------------------------------------------------

    async def version(self) -> str:
        """The release of the node that answers."""
        return (await self._connection.call(rpcs.GET_VERSION, pb.VersionRequest())).version

    async def workers(self) -> list[Worker]:
        """The workers of the node that answers, each with the instance that it runs."""
        answer = await self._connection.call(rpcs.LIST_WORKERS, pb.ListWorkersRequest())
        return [worker_of(worker, answer.node) for worker in answer.workers]

    async def resize_workers(self, n: int, *, node: str | None = None) -> str:
        request = pb.ResizeWorkersRequest(workers=whole_number("resize_workers", n, 1, MAX_WORKERS), node=node)
        return (await self._connection.call(rpcs.RESIZE_WORKERS, request)).node

    async def drain(self, timeout: Duration | None = None, *, node: str | None = None) -> str:
        seconds = None if timeout is None else to_seconds(timeout, "timeout")
        begun = False

        async def wait(left: float) -> pb.DrainResponse | None:
            nonlocal begun
            request = pb.DrainRequest(timeout=span(round(left * 1_000_000)), node=node, begun=begun)
            begun = True
            answer = await self._connection.call(rpcs.DRAIN, request, timeout=left + ANSWER)
            return answer if answer.drained else None

        drained = await long_poll(wait, seconds)
        if drained is None:
            who = "the node" if node is None else f"node {node!r}"
            raise TimeoutError(f"{who} is not drained after {seconds:g} s; it still drains")
        return drained.node

    async def undrain(self, *, node: str | None = None) -> str:
        return (await self._connection.call(rpcs.UNDRAIN, pb.UndrainRequest(node=node))).node


def _job_of(target: object) -> Any:
    if isinstance(target, Call):
        return cast("Any", target).job
    return cast("Any", target) if isinstance(target, Job) else None


def _chunks(requests: list[pb.ScheduleJobRequest]) -> Iterator[list[pb.ScheduleJobRequest]]:
    chunk: list[pb.ScheduleJobRequest] = []
    size = 0
    for request in requests:
        weight = request.ByteSize()
        if chunk and (len(chunk) >= MAX_BULK or size + weight > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(request)
        size += weight
    if chunk:
        yield chunk


def _check_token(token: str | None) -> None:
    if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token != ""):
        raise OptionError("token", "…", "printable ASCII text without blanks around it")
