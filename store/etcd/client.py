"""Calls to one member at a time, and to the next member if it does not answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from peerjob.model.child_tasks import end
from peerjob.model.clock import Clock
from peerjob.model.errors import OptionError, PeerjobError, StoreError, StoreUnavailableError
from peerjob.store.calls import opened_before_fork
from peerjob.store.per_loop import PerLoop

from .address import EtcdAddress
from .api import EtcdEndpoint, Metadata, aio, codes, etcd
from .errors import bad_token, never_sent, no_space, translated

CALL_TIMEOUT = 5.0
CALL_TIMEOUT_OF_SEVERAL = 2.5
"""Seconds for a call if there are several members: shorter than CALL_TIMEOUT, because another member can answer."""
_CLOSING = 0.05
"""Seconds that a closing client leaves to gRPC, which reports its last calls to the event loop. The event loop must
still be open."""
_RENEWALS = 5
"""How often a call gets a new token. Each change of users or roles can end a token before the call arrives with it."""
_SILENT_AFTER = 0.1
"""If a caller cancels a call after this many seconds or more, the member counts as not answering."""


class EtcdClient:
    """The members of one etcd, each with one connection; one member at a time is in use."""

    def __init__(self, address: EtcdAddress, clock: Clock) -> None:
        self.address = address
        self.timeout = CALL_TIMEOUT if len(address.endpoints) == 1 else CALL_TIMEOUT_OF_SEVERAL
        self.revision = 0
        """The highest revision of etcd that any answer has reported."""
        self.on_move: set[Callable[[], None]] = set()
        """Functions that the client calls when it changes to another member."""
        self.out_of_space = False
        """Whether etcd refused a write for lack of space since the client last checked the alarms of etcd."""
        self._clock = clock
        self._endpoints: list[EtcdEndpoint] = []
        self._at = clock.random.randrange(len(address.endpoints))
        self._metadata: Metadata = ()
        self._authenticating = PerLoop(asyncio.Lock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._process = 0
        """The id of the process that opened the client."""

    async def open(self) -> None:
        address = self.address
        self._process = os.getpid()
        try:
            files = [
                path.read_bytes() if path is not None else None for path in (address.ca, address.cert, address.key)
            ]
        except OSError as error:
            raise OptionError("store", address.url, f"a readable file ({error})") from error
        self._endpoints = [EtcdEndpoint(target, address, files) for target in address.endpoints]
        if address.username:
            await self.renew_token(())

    async def close(self) -> None:
        if self._is_inherited:
            return  # gRPC waits for threads that only the parent has
        tasks, self._tasks = self._tasks, set()
        endpoints, self._endpoints = self._endpoints, []
        await end(tasks)
        for endpoint in endpoints:
            await endpoint.close()
        if endpoints:
            await asyncio.sleep(_CLOSING)

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Start a task, which `close` cancels. It serves all callers, so it has no context variables of this one."""
        task = asyncio.create_task(work, name=name, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @property
    def endpoint(self) -> EtcdEndpoint:
        """The member in use."""
        if not self._endpoints:
            raise StoreUnavailableError(self.address.url, "this store is not open")
        if self._is_inherited:
            raise StoreError(opened_before_fork(self.address.url))
        endpoint = self._endpoints[self._at]
        if endpoint.is_loop_closed:
            raise StoreError(f"the event loop in which this store at {self.address.url} was opened is closed")
        return endpoint

    @property
    def _is_inherited(self) -> bool:
        return bool(self._endpoints) and self._process != os.getpid()

    @property
    def metadata(self) -> Metadata:
        """The gRPC metadata of every call: the token of the user, if there is one."""
        return self._metadata

    def leave(self, endpoint: EtcdEndpoint) -> None:
        """Use the next member, unless another call has already left this one."""
        if len(self._endpoints) > 1 and self._endpoints[self._at] is endpoint:
            self._at = (self._at + 1) % len(self._endpoints)
            for moved in list(self.on_move):
                moved()

    async def call(self, method: str, request: Any) -> Any:
        """Send a request once; skip members that cannot be reached at all."""
        unreachable, renewals = 0, 0
        while True:
            endpoint, metadata = self.endpoint, self._metadata
            started = self._clock.elapsed()
            try:
                reply = await getattr(endpoint, method)(request, timeout=self.timeout, metadata=metadata)
            except aio.AioRpcError as error:
                if bad_token(error) and self.address.username and renewals < _RENEWALS:
                    renewals += 1
                    await self.renew_token(metadata)
                    continue
                failure = self.failed(endpoint, error)
                unreachable += 1
                if never_sent(error) and unreachable < len(self._endpoints):
                    continue
                raise failure from error
            except asyncio.CancelledError:
                if self._clock.elapsed() - started > _SILENT_AFTER:
                    self.leave(endpoint)
                raise
            if reply.header.revision > self.revision:
                self.revision = reply.header.revision
            return reply

    def failed(self, endpoint: EtcdEndpoint, error: Any) -> PeerjobError:
        """Our error for an error of gRPC; if another member may succeed, it is used from now on."""
        failure = translated(error, self.address.url)
        if no_space(error):
            self.out_of_space = True
        elif isinstance(failure, ConnectionError):
            self.leave(endpoint)
        return failure

    async def renew_token(self, old: Metadata) -> None:
        """Get a new token, unless another call has replaced `old`; raises StoreCredentialsError."""
        async with self._authenticating():
            if self._metadata is not old:
                return
            request = etcd.AuthenticateRequest(name=self.address.username, password=self.address.password)
            for left in reversed(range(len(self._endpoints))):
                endpoint = self.endpoint
                try:
                    reply = await endpoint.authenticate(request, timeout=self.timeout, metadata=())
                except aio.AioRpcError as error:
                    if error.code() is codes.FAILED_PRECONDITION and "not enabled" in error.details():
                        return
                    failure = self.failed(endpoint, error)
                    if left and isinstance(failure, ConnectionError):
                        continue
                    raise failure from error
                self._metadata = (("token", reply.token),)
                return
