"""The access check of a server: every call passes it before its message is read, and before any handler."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import grpc

from peerjob.model.child_tasks import AsyncClosing
from peerjob.model.clock import Clock
from peerjob.model.errors import AuthError, UnauthenticatedError
from peerjob.model.rate_limiter import RateLimiter
from peerjob.model.rights import ANYBODY, Authenticator, Principal
from peerjob.model.trusted_proxies import HEADER, TrustedProxies, network_of
from peerjob.remote.wire.errors import ErrorStatus, status_of
from peerjob.remote.wire.rpcs import RPCS

from .access import check_call, token_in
from .calls import TOO_MANY, OpenCalls, abort
from .principals import set_caller
from .rpc_service import Context, host_of

OPEN_PREFIX = "/grpc.health."
"""The path prefix of health checks, which need no token and do not count for the rate limit."""
TOO_OFTEN = ErrorStatus(code=grpc.StatusCode.RESOURCE_EXHAUSTED, text="too many calls; try again a little later")
Accepted = tuple[Any, str, AbstractContextManager[None]]
"""The message of a call, the name under which its caller is counted, and what to enter while the call is served."""
_NOTHING = nullcontext()
_WAITS = {rpc.path for rpc in RPCS.values() if rpc.waits}
_ACTS = {rpc.path for rpc in RPCS.values() if rpc.acts}


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls above the rate, then calls without a token whose rights suffice, then calls above other limits.

    The rate is checked first. So it also limits attempts to guess a token, and only for the address that guesses.
    Without `authenticators`, each caller is an admin. `on_refused` is called for a known caller without the rights.
    """

    def __init__(
        self,
        authenticators: Sequence[Authenticator],
        *,
        namespace: str,
        limiter: RateLimiter | None,
        clock: Clock,
        on_refused: Callable[[str, Principal, str], None],
        proxies: TrustedProxies,
    ) -> None:
        self._authenticators = authenticators
        self._namespace = namespace
        self._limiter = limiter
        self._clock = clock
        self._on_refused = on_refused
        self._proxies = proxies
        self.calls = OpenCalls(clock, self._is_valid)
        self._guarded: dict[str, tuple[Any, Any]] = {}
        """RPC path → (the original handler, the handler that first checks the call)."""

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """The handler, with the checks before it."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = cast(Any, handler_call_details.method)
        path = method.decode() if isinstance(method, bytes) else str(method)
        known = self._guarded.get(path)
        if known is None or known[0] is not handler:
            made = self._probe(handler) if path.startswith(OPEN_PREFIX) else self._checked(path, handler)
            known = self._guarded[path] = handler, made
        return known[1]

    def _is_valid(self, caller: Principal) -> bool:
        return not caller.rights.expired(self._clock.time_us()) and (
            caller is ANYBODY or any(authenticator.knows(caller) for authenticator in self._authenticators)
        )

    def _address_of(self, context: Context) -> str:
        peer = host_of(context.peer())
        if not self._proxies.trusts(peer):
            return peer
        return self._proxies.caller_of(
            peer, [str(pair[1]) for pair in context.invocation_metadata() if pair[0] == HEADER]
        )

    async def _admit(self, path: str, address: str, context: Context) -> Principal:
        """The caller; aborts the call if a check fails."""
        if self._limiter is not None and not self._limiter.allows(network_of(address)):
            await abort(context, TOO_OFTEN)
        if not self._authenticators:
            set_caller(ANYBODY, address)
            return ANYBODY
        try:
            caller = await self._authenticate(token_in(context.invocation_metadata()))
        except UnauthenticatedError as error:
            await abort(context, status_of(error))
        try:
            check_call(path, caller, self._namespace)
        except AuthError as error:
            self._on_refused(path, caller, address)
            await abort(context, status_of(error))
        set_caller(caller, address)
        return caller

    async def _authenticate(self, token: str) -> Principal:
        for authenticator in self._authenticators:
            caller = await authenticator.principal_of(token)
            if caller is not None:
                if caller.rights.expired(self._clock.time_us()):
                    raise UnauthenticatedError("the token has expired")
                return caller
        raise UnauthenticatedError("the token is not known here")

    # A handler that takes a stream of requests gets the call before its message is received. So all handlers become
    # such handlers: a refused call sends no message.

    def _checked(self, path: str, handler: Any) -> Any:
        long = handler.response_streaming or path in _WAITS

        async def accepted(requests: Any, context: Context) -> Accepted:
            address = self._address_of(context)
            if self._authenticators:
                with self.calls.admitting(address) as counted:
                    if not counted:
                        await abort(context, TOO_MANY)
                    caller = await self._admit(path, address, context)
            else:
                caller = await self._admit(path, address, context)  # it waits for nothing, so there is nothing to count
            key = await self.calls.count(caller, address, context)
            given = requests if handler.request_streaming else await self.calls.receive(key, context)
            return given, key, self.calls.long(caller) if long else _NOTHING

        return self._with(accepted, handler, acts=path in _ACTS)

    def _probe(self, handler: Any) -> Any:
        async def accepted(requests: Any, context: Context) -> Accepted:
            given = await self.calls.receive_probe(context)
            return given, "", self.calls.watching_probe() if handler.response_streaming else _NOTHING

        return self._with(accepted, handler, acts=True)

    def _with(
        self,
        accepted: Callable[[Any, Context], Awaitable[Accepted]],
        handler: Any,
        *,
        acts: bool,
    ) -> Any:
        forms = (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream)
        serve: Any = next(form for form in forms if form is not None)

        async def one(requests: Any, context: Context) -> Any:
            try:
                given, key, kept = await accepted(requests, context)
                with kept:
                    answer = await serve(given, context)
                    if key and answer is not None:
                        await self.calls.answer(key, answer, context, acts=acts)
                    return answer
            except asyncio.CancelledError:
                await self.calls.explain(context)
                raise

        async def many(requests: Any, context: Context) -> AsyncIterator[Any]:
            try:
                given, key, kept = await accepted(requests, context)
                with kept:
                    async with AsyncClosing(cast("AsyncGenerator[Any]", serve(given, context))) as messages:
                        async for message in messages:
                            async with self.calls.streamed(key, message, context):
                                yield message
            except asyncio.CancelledError:
                await self.calls.explain(context)
                raise

        make: Any = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        # a streaming handler is either an async generator, or a coroutine that writes the messages itself
        guarded = many if inspect.isasyncgenfunction(serve) else one
        return make(guarded, handler.request_deserializer, handler.response_serializer)
