"""The base of the verb groups that make up the store."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from peerjob.model.record import MAX_BATCH
from peerjob.store.retry import CallRetry

from .context import KVContext

V = TypeVar("V", bound=Callable[..., Coroutine[Any, Any, Any]])


class KVCommands:
    """A group of the store's verbs. `KVStore` inherits all groups, so their names must differ."""

    def __init__(self, context: KVContext, retry: CallRetry) -> None:
        self._context = context
        self._kv = context.kv
        self._keys = context.keys
        self._clock = context.clock
        self._writer = context.writer
        self._retry = retry


def retried(verb: V) -> V:
    """A verb that is repeated while the server is away."""

    @functools.wraps(verb)
    async def call(self: KVCommands, /, *args: Any, **kwargs: Any) -> Any:
        # `retried` decorates only methods of KVCommands, so the use of a private attribute is safe
        return await self._retry(lambda: verb(self, *args, **kwargs))  # pyright: ignore[reportPrivateUsage]

    return cast("V", call)


def check_batch(size: int) -> None:
    """Refuse a batch that is too large."""
    if size > MAX_BATCH:
        raise ValueError(f"a call holds at most {MAX_BATCH} instances, got {size}")
