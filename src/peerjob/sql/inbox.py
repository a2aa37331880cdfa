"""`transact`: run a function in a transaction of your own database, once for each instance and name."""

from __future__ import annotations

import asyncio
import functools
import inspect
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

from typing_extensions import TypeVarTuple

from peerjob.handles.context import Context
from peerjob.model.errors import OptionError, OwnershipLost, PayloadTooLargeError
from peerjob.model.extras import needs_extra
from peerjob.model.limits import MAX_NOTE, checked_text
from peerjob.model.signature import analyse
from peerjob.node.body.typed_positions import ResultType
from peerjob.node.node import MAX_PAYLOAD

from .databases import in_thread
from .inbox_rows import keep_value, kept_value, lock_fence
from .sessions import transaction_of
from .tables import DEFAULT_TABLE, checked_dialect, checked_table, table_error
from .transaction_guard import TransactionGuard

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

_ONE_LOOP = (
    "an AsyncEngine with poolclass=NullPool, or an Engine: each body with run_in='process' has an event loop of its own"
)

_entered: ContextVar[str] = ContextVar("peerjob_transact", default="")
"""The name of the transaction that the present code is in."""
_used: weakref.WeakKeyDictionary[Context, set[str]] = weakref.WeakKeyDictionary()
"""The names that each run has used."""


@overload
def transact(
    context: Context,
    engine: AsyncEngine,
    function: Callable[[AsyncSession, *Ts], Awaitable[R]],
    /,
    *args: *Ts,
    name: str | None = ...,
    table: str = ...,
) -> Coroutine[Any, Any, R]: ...
@overload
def transact(
    context: Context,
    engine: Engine,
    function: Callable[[Session, *Ts], R],
    /,
    *args: *Ts,
    name: str | None = ...,
    table: str = ...,
) -> Any: ...
def transact(  # type: ignore[misc]  # mypy does not compare `*args: Any` with a TypeVarTuple
    context: Any,
    engine: Any,
    function: Any,
    /,
    *args: Any,
    name: str | None = None,
    table: str = DEFAULT_TABLE,
) -> Any:
    """Run `function(session, *args)` in a transaction of the engine, once for this instance and database.

    The transaction also keeps the value of the function under `name` (default: the name of the function). A later run
    of the instance gets this value, and does not call the function. Its writes and a commit of the session count only
    with the transaction.

    With an AsyncEngine, the function is a coroutine function and gets an AsyncSession. With an Engine, it gets a
    Session. Then `transact` returns an awaitable in a body with an event loop, and runs the function in a thread; in a
    sync body, it returns the value. `table` is the outbox in whose schema the tables of the inbox are.

    Raises OwnershipLost if a later claim of the instance has written here, OptionError outside of a job, inside of
    another `transact`, for a name that the run has used, and for a function that ends the transaction, TableError, and
    EncodeError or PayloadTooLargeError for a value that cannot be kept; nothing is written then.
    """
    with needs_extra("sql", "transact"):
        from sqlalchemy import Engine
        from sqlalchemy.ext.asyncio import AsyncEngine
    is_async = isinstance(engine, AsyncEngine)
    if not is_async and not isinstance(engine, Engine):
        raise OptionError("engine", type(engine).__name__, "an Engine or AsyncEngine of SQLAlchemy")
    checked_dialect(engine.dialect.name, "engine")
    if inspect.iscoroutinefunction(function) is not is_async:
        expected = (
            "an async function, for an AsyncEngine" if is_async else "a function that is not async, for an Engine"
        )
        raise OptionError("function", function, expected)
    work = _Work.of(context, function, args, name, checked_table(table))
    if is_async:
        return _run_async(work, engine)
    if _has_loop():
        return _run_in_thread(work, engine)
    return _run(work, engine)


class _Work(NamedTuple):
    """One call of `transact`, checked."""

    context: Context
    function: Callable[..., Any]
    args: tuple[Any, ...]
    name: str
    table: str
    result: ResultType

    @classmethod
    def of(
        cls, context: Any, function: Callable[..., Any], args: tuple[Any, ...], name: str | None, table: str
    ) -> _Work:
        """Check a call; raises OptionError."""
        if not isinstance(context, Context) or context.detached:
            given = "the context of no job" if isinstance(context, Context) else type(context).__name__
            raise OptionError("context", given, "the Context of the job that runs: a parameter of type Context")
        if name is None:
            name = getattr(function, "__qualname__", "")
            if not name or "<lambda>" in name:
                raise OptionError("name", None, "a name, because the function has none")
        return cls(context, function, args, checked_text("name", name, MAX_NOTE), table, _result_of(function))

    @contextmanager
    def entered(self) -> Generator[None]:
        """Refuse a nested call, and a second one with this name; an error gives the name free."""
        outer = _entered.get()
        if outer:
            expected = f"a call after the end of transact {outer!r}: call the function itself, in the same transaction"
            raise OptionError("transact", f"{self.name!r} inside of another", expected)
        names = _used.setdefault(self.context, set())
        if self.name in names:
            expected = "a name that this run has not used: a second call with it would get the value of the first"
            raise OptionError("name", self.name, expected)
        names.add(self.name)
        _entered.set(self.name)
        try:
            yield
        except BaseException:
            names.discard(self.name)
            raise
        finally:
            _entered.set(outer)  # no `reset`: Python destroys the coroutines of a closed event loop in another context

    def begin(self, connection: Any) -> bytes | TransactionGuard:
        """Lock the instance; returns the kept value, or what watches the function. Raises OwnershipLost."""
        connected, context = transaction_of(connection).connected, self.context
        try:
            mark = lock_fence(connected, self.table, context.id, context.fence, self.name)
            if mark is None:
                raise OwnershipLost(
                    f"instance {context.id} is not held under fence {context.fence} any more: a later claim has written"
                )
            data = kept_value(connected, self.table, context.id, self.name)
        except Exception as error:
            told = table_error(error, self.table, connected.dialect)
            if told is None:
                raise
            raise told from error
        return TransactionGuard(connection, self.name, mark) if data is None else data

    def keep(self, connection: Any, data: bytes, guard: TransactionGuard) -> None:
        """Keep the encoded value; raises OptionError if the function has ended the transaction."""
        guard.open()
        connected = transaction_of(connection).connected
        if not keep_value(connected, self.table, self.context.id, self.name, data, guard.mark):
            raise guard.ended("a commit of the driver's connection, which leaves writes without their value,")

    def encoded(self, value: Any) -> bytes:
        """The kept form of a value: no bytes for None."""
        data = self.result.encode(value) or b""
        if len(data) > MAX_PAYLOAD:
            raise PayloadTooLargeError(f"value of transact {self.name!r}", len(data), MAX_PAYLOAD)
        return data

    def decoded(self, data: bytes) -> Any:
        """The value of its kept form."""
        return self.result.decode(data or None, self.context.id, self.context.kind)


@functools.lru_cache(maxsize=256)
def _result_of(function: Callable[..., Any]) -> ResultType:
    return ResultType(analyse(function).returns)


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run(work: _Work, engine: Any) -> Any:
    from sqlalchemy.orm import Session

    with work.entered():
        with engine.begin() as connection:
            begun = work.begin(connection)
            if isinstance(begun, TransactionGuard):
                # the Session joins the transaction: its own commit does not end it
                with begun.telling(), Session(connection) as session:
                    value = work.function(session, *work.args)
                    session.flush()
                data = work.encoded(value)
                work.keep(connection, data, begun)
            else:
                data = begun
        return work.decoded(data)


async def _run_in_thread(work: _Work, engine: Any) -> Any:
    return await in_thread(lambda: _run(work, engine))


async def _run_async(work: _Work, engine: Any) -> Any:
    from sqlalchemy.ext.asyncio import AsyncSession

    has_begun = False
    try:
        with work.entered():
            async with engine.begin() as connection:
                begun: bytes | TransactionGuard = await connection.run_sync(work.begin)
                has_begun = True
                if isinstance(begun, TransactionGuard):
                    with begun.telling():
                        async with AsyncSession(connection) as session:
                            value = await work.function(session, *work.args)
                            await session.flush()
                    data = work.encoded(value)
                    await connection.run_sync(work.keep, data, begun)
                else:
                    data = begun
            return work.decoded(data)
    except RuntimeError as error:
        if not has_begun and "loop" in str(error):
            raise OptionError("engine", "an AsyncEngine with connections of another event loop", _ONE_LOOP) from error
        raise
