"""The access check of a server: every call passes it before any handler."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, cast

import grpc

from peerjob.model.errors import AuthError
from peerjob.remote.wire.errors import status_of

from .rate_limiter import RateLimiter, host_of
from .roles import Tokens, role_in, set_caller_role
from .rpc_service import Context

OPEN_PREFIX = "/grpc.health."
"""The path prefix of health checks, which need no token and do not count for the rate limit."""


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls above the rate, and then calls without a token whose role suffices.

    The rate is checked first. So it also limits attempts to guess a token, and only for the address that guesses.
    """

    def __init__(self, *, tokens: Tokens | None, limiter: RateLimiter | None) -> None:
        self._tokens = tokens
        self._limiter = limiter
        self._guarded: dict[str, tuple[Any, Any]] = {}
        """RPC path → (the original handler, the handler that first checks token and rate)."""

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """The handler, with the check before it."""
        handler = await continuation(handler_call_details)
        method = cast(Any, handler_call_details.method)
        path = method.decode() if isinstance(method, bytes) else str(method)
        if handler is None or path.startswith(OPEN_PREFIX):
            return handler
        known = self._guarded.get(path)
        if known is None or known[0] is not handler:
            known = self._guarded[path] = handler, self._checked(path, handler)
        return known[1]

    async def _check(self, path: str, context: Context) -> None:
        """Check the rate and the token of a call; abort the call if a check fails."""
        if self._limiter is not None and not self._limiter.allows(host_of(context.peer())):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls; try again a little later")
        if self._tokens is None:
            return
        role = role_in(self._tokens, path, context.invocation_metadata())
        if isinstance(role, AuthError):
            status = status_of(role)
            await context.abort(status.code, status.text, status.metadata)
        else:
            set_caller_role(role)

    def _checked(self, path: str, handler: Any) -> Any:
        forms: tuple[Any, ...] = (
            handler.unary_unary,
            handler.unary_stream,
            handler.stream_unary,
            handler.stream_stream,
        )
        serve: Any = next(form for form in forms if form is not None)

        async def one(request: Any, context: Context) -> Any:
            await self._check(path, context)
            return await serve(request, context)

        async def many(request: Any, context: Context) -> AsyncIterator[Any]:
            await self._check(path, context)
            async with aclosing(cast("AsyncGenerator[Any]", serve(request, context))) as messages:
                async for message in messages:
                    yield message

        makers: Any = (
            (grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler),
            (grpc.stream_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler),
        )
        make = makers[handler.request_streaming][handler.response_streaming]
        # a streaming handler is either an async generator, or a coroutine that writes the messages itself
        guarded = many if inspect.isasyncgenfunction(serve) else one
        return make(guarded, handler.request_deserializer, handler.response_serializer)
