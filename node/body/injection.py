"""Resources of `Depends`: made before an attempt or once per node, shared, and closed in reverse order.

A factory is a function, a coroutine function, a generator function, or a function that returns a context manager. It
may have injected parameters and resources itself.

If a job runs in a thread, its sync factories make the resources of one attempt in that thread, and they are closed
there. Some connections only work in the thread that opened them. All other resources are made on the event loop, and
must not block it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack
from typing import Any

from peerjob.handles.context import Context
from peerjob.model.direct_call import injected_value
from peerjob.model.errors import NodeStateError, OptionError
from peerjob.model.injected import Resource
from peerjob.model.signature import Parameter, analyse

from .context_vars import ContextVars
from .errors import as_exception

logger = logging.getLogger("peerjob.node")

Factory = Callable[..., Any]

CLOSING_LIMIT = 60.0
"""Seconds in which the resources of one attempt must close; after this time, the attempt ends without closing more."""


class Resources:
    """The resources of one node.

    `overrides` maps factories to replacements, for tests; it is read whenever a resource is made.
    """

    def __init__(
        self, overrides: Mapping[Factory, Factory] | None = None, context_vars: ContextVars | None = None
    ) -> None:
        self._context_vars = context_vars or ContextVars()
        self._overrides: Mapping[Factory, Factory] = {} if overrides is None else overrides
        self._of_node: dict[Factory, _OpenResource] = {}
        self._closed = False

    def factory(self, resource: Resource) -> Factory:
        """The factory of a resource, or its override."""
        return self._overrides.get(resource.factory, resource.factory)

    def attempt(self, wanted: Mapping[str, Resource], context: Context, *, in_thread: bool) -> Attempt:
        """The resources of one attempt, by parameter; raises OptionError for overrides that need each other."""
        if self._overrides:
            for resource in wanted.values():
                check_resource(resource, self._overrides)
        return Attempt(self, wanted, context, in_thread=in_thread)

    async def of_node(self, resource: Resource, context: Context) -> Any:
        """The value of a resource of the node: the first caller makes it, other callers wait for it."""
        factory = self.factory(resource)
        needs = {name: await self.of_node(need, context) for name, need in _needs(factory).items()}
        if self._closed:
            raise NodeStateError("the node has stopped")
        opened = self._of_node.get(factory)
        # the factory of a failed resource is called again for the next attempt
        if opened is None or opened.failed:
            opened = self._of_node[factory] = _OpenResource(
                _managed(
                    factory,
                    lambda parameter: (
                        needs[parameter.name] if parameter.name in needs else injected_value(parameter, context)
                    ),
                ),
                # the context variables of the node, because the resource outlives this attempt
                self._context_vars.copy(),
            )
        return await opened.value()

    async def close(self) -> None:
        """Close the resources of the node, the newest first; log errors."""
        self._closed = True
        while self._of_node:
            factory, resource = self._of_node.popitem()
            try:
                await resource.close()
            except Exception:
                logger.exception("resource %s failed to close", _name(factory))


class Attempt:
    """The resources of one attempt.

    `open` and `close` run on the event loop; between them, `open_here` and `close_here` run in the thread of the body.
    Errors while closing are only logged: the end of the body decides the outcome.
    """

    def __init__(
        self, resources: Resources, wanted: Mapping[str, Resource], context: Context, *, in_thread: bool
    ) -> None:
        self._resources = resources
        self._wanted = wanted
        self._context = context
        self._in_thread = in_thread
        self._made: dict[tuple[str, Factory], Any] = {}
        self._stack = AsyncExitStack()
        self._stack_here = ExitStack()

    async def open(self) -> dict[str, Any]:
        """Make the resources, and return values by parameter; with `in_thread`, only those of the event loop."""
        try:
            for resource in self._wanted.values():
                await self._make(resource, on_loop=not self._in_thread)
        except BaseException as error:
            await self._stack.__aexit__(*_triple(error))
            raise
        return self._values()

    async def close(self, error: BaseException | None) -> None:
        """Close the resources that were made on the event loop; their context managers get the error of the body."""
        limit = asyncio.timeout(CLOSING_LIMIT)
        try:
            async with limit:
                await self._stack.__aexit__(*_triple(error))
        except GeneratorExit:
            raise  # Python destroys this coroutine because the event loop is gone
        except BaseException as raised:  # noqa: BLE001  # a SystemExit of a resource must not end the event loop
            if limit.expired():
                text = "%s: its resources were not closed within %g s; it ends without them"
                logger.error(text, self._run, CLOSING_LIMIT)  # noqa: TRY400
            elif isinstance(raised, asyncio.CancelledError) and clear_cancellations():
                self.log_unclosed()
            else:
                self._failed_to_close(raised, error)

    def open_here(self) -> dict[str, Any]:
        """Make the other resources in this thread, and return all values by parameter."""
        try:
            for resource in self._wanted.values():
                self._make_here(resource)
        except BaseException as error:
            self._stack_here.__exit__(*_triple(error))
            raise
        return self._values()

    def close_here(self, error: BaseException | None) -> None:
        """Close the resources that were made in this thread; their context managers get the error of the body."""
        try:
            self._stack_here.__exit__(*_triple(error))
        except BaseException as raised:  # noqa: BLE001  # an error of a resource must not end the thread
            self._failed_to_close(raised, error)

    def log_unclosed(self) -> None:
        """Log that closing did not end in time."""
        logger.error("%s: its resources were not closed before the node stopped", self._run)

    def _failed_to_close(self, raised: BaseException, error: BaseException | None) -> None:
        if raised is not error:
            logger.error("%s: a resource failed to close; the outcome stays", self._run, exc_info=raised)

    @property
    def _run(self) -> str:
        return f"instance {self._context.id} of {self._context.kind!r}"

    async def _make(self, resource: Resource, *, on_loop: bool) -> None:
        key = self._key(resource)
        if key in self._made:
            return
        if resource.scope == "node":
            self._made[key] = await self._resources.of_node(resource, self._context)
            return
        factory = key[1]
        on_loop = on_loop or _is_async(factory)
        for need in _needs(factory).values():
            await self._make(need, on_loop=on_loop)
        if on_loop:
            self._made[key] = await self._stack.enter_async_context(_managed(factory, self._supply(factory)))

    def _make_here(self, resource: Resource) -> None:
        key = self._key(resource)
        if key in self._made:
            return
        factory = key[1]
        for need in _needs(factory).values():
            self._make_here(need)
        made = _called(factory, self._supply(factory))
        if _has(made, "__aenter__") and not _has(made, "__enter__"):
            raise OptionError("Depends", factory, "no async context manager, in a job that runs in a thread")
        self._made[key] = self._stack_here.enter_context(made) if _has(made, "__enter__") else made

    def _supply(self, factory: Factory) -> Callable[[Parameter], Any]:
        needs = _needs(factory)
        return lambda parameter: (
            self._made[self._key(needs[parameter.name])]
            if parameter.name in needs
            else injected_value(parameter, self._context)
        )

    def _values(self) -> dict[str, Any]:
        keys = {name: self._key(resource) for name, resource in self._wanted.items()}
        return {name: self._made[key] for name, key in keys.items() if key in self._made}

    def _key(self, resource: Resource) -> tuple[str, Factory]:
        return resource.scope, self._resources.factory(resource)


def _triple(error: BaseException | None) -> tuple[Any, Any, Any]:
    return (None, None, None) if error is None else (type(error), error, error.__traceback__)


def clear_cancellations() -> bool:
    """Take back every cancellation of the current task, after its CancelledError; False if there is none."""
    task = asyncio.current_task()
    count = 0 if task is None else task.cancelling()
    for _ in range(count):
        assert task is not None
        task.uncancel()
    return count > 0


class _OpenResource:
    """One resource of the node. The same task opens and closes the resource, because some libraries require that."""

    def __init__(self, resource: AbstractAsyncContextManager[Any], variables: contextvars.Context) -> None:
        self._made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # read the error of the future, because asyncio logs an error that is never read
        self._made.add_done_callback(lambda made: made.cancelled() or made.exception())
        self._end = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._keep(resource), context=variables)

    @property
    def failed(self) -> bool:
        return self._made.done() and self._made.exception() is not None

    async def value(self) -> Any:
        return await asyncio.shield(self._made)

    async def close(self) -> None:
        if not self._made.done():
            self._task.cancel()
        self._end.set()
        await self._task

    async def _keep(self, resource: AbstractAsyncContextManager[Any]) -> None:
        try:
            async with resource as value:
                self._made.set_result(value)
                await self._end.wait()
        except asyncio.CancelledError:
            if self._made.done():
                raise
            self._made.set_exception(NodeStateError("the node has stopped"))
        except BaseException as error:  # a SystemExit of a resource must not end the event loop
            kept = as_exception(error)
            if self._made.done():
                raise kept from error
            self._made.set_exception(kept)


# -- factories -------------------------------------------------------------------------------------------------


def check_resource(
    resource: Resource, overrides: Mapping[Factory, Factory] | None = None, inside: tuple[Factory, ...] = ()
) -> None:
    """Raise OptionError for a factory that cannot be called: it needs itself, or a parameter that has no value."""
    factory = (overrides or {}).get(resource.factory, resource.factory)
    if factory in inside:
        circle = " -> ".join(_name(inner) for inner in (*inside[inside.index(factory) :], factory))
        raise OptionError("Depends", factory, f"a factory that does not need itself: {circle}")
    for parameter in analyse(factory).parameters:
        if parameter.resource is not None:
            if resource.scope == "node" and parameter.resource.scope == "attempt":
                raise OptionError("Depends", factory, f"a factory whose {parameter.name} has scope='node' too")
            check_resource(parameter.resource, overrides, (*inside, factory))
        elif parameter.injected is not None:
            allowed = ("manager",) if resource.scope == "node" else ("manager", "context", "instance", "worker")
            if parameter.injected not in allowed:
                raise OptionError(
                    "Depends", factory, f"a factory that asks for {' or '.join(allowed)}, not {parameter.name}"
                )
        elif parameter.required:
            raise OptionError("Depends", factory, f"a factory with a default or Depends for {parameter.name}")


def _called(factory: Factory, supply: Callable[[Parameter], Any]) -> Any:
    """Call a factory; make a context manager of a generator function."""
    signature = analyse(factory)
    args, kwargs = signature.fill([], {}, supply)
    if signature.is_async_generator:
        return contextlib.asynccontextmanager(factory)(*args, **kwargs)
    if signature.is_generator:
        return contextlib.contextmanager(factory)(*args, **kwargs)
    return factory(*args, **kwargs)


@contextlib.asynccontextmanager
async def _managed(factory: Factory, supply: Callable[[Parameter], Any]) -> AsyncGenerator[Any]:
    """Make an async context manager of a factory of any form."""
    made = _called(factory, supply)
    if _has(made, "__aenter__"):
        async with made as value:
            yield value
    elif _has(made, "__enter__"):
        with made as value:
            yield value
    elif inspect.isawaitable(made):
        yield await made
    else:
        yield made


def _has(value: object, method: str) -> bool:
    return hasattr(type(value), method)


def _needs(factory: Factory) -> dict[str, Resource]:
    return {
        parameter.name: parameter.resource for parameter in analyse(factory).supplied if parameter.resource is not None
    }


def _is_async(factory: Factory) -> bool:
    """Whether a factory is known to be async before its first call."""
    signature = analyse(factory)
    return (
        signature.is_async
        or signature.is_async_generator
        # @asynccontextmanager keeps the async generator function in `__wrapped__`
        or inspect.isasyncgenfunction(getattr(factory, "__wrapped__", None))
    )


def _name(factory: Factory) -> str:
    return str(getattr(factory, "__qualname__", factory))
