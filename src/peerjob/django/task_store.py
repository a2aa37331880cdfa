"""How a process of the project talks to the store: over one node without workers for all its threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from peerjob import Call, Instance, Job, Node, SystemClock
from peerjob.node.body.registry import Registry
from peerjob.node.manager.call_encoder import CallEncoder
from peerjob.node.node import MAX_PAYLOAD
from peerjob.sql import Outbox

from .options import BackendOptions

T = TypeVar("T")


class TaskStore:
    """Stores and reads instances. Its node starts with the first call, in each process, and leaves at exit."""

    def __init__(self, options: BackendOptions) -> None:
        self.manager = options.node().blocking()
        self._encoder = CallEncoder(
            clock=SystemClock(),
            registry=Registry(),
            max_payload=MAX_PAYLOAD,
            timezone="UTC",
            local_objects=lambda: None,
        )
        self.outbox = Outbox()
        """Writes the rows of an outbox."""
        self._lent: tuple[int, Node, asyncio.AbstractEventLoop] | None = None

    def new_id(self, call: Call[Any]) -> str:
        """Check a call, and return an id for it, without the store.

        Raises ArgumentError, OptionError or PayloadTooLargeError.
        """
        return self._encoder.new(call).id

    def store_new(self, call: Call[Any]) -> str:
        """Store an instance, and return its id. Raises what `new_id` raises, and a StoreError if nothing is stored."""
        if self._lent is None and _running_loop() is None:
            return self.manager.store_for_id(call)
        instance = self._ask(lambda node: node.schedule(call), lambda: self.manager.store(call, (), {}), job=call.job)
        return instance.id

    def store(self, id: str, call: Call[Any]) -> Instance[Any]:
        """Store an instance with an id of `new_id`. Raises a StoreError if the store cannot take it."""
        # from then on, a node with workers would also run a job that its command does not serve
        return self._ask(
            lambda node: node.schedule_as(id, call), lambda: self.manager.schedule_as(id, call).instance, job=call.job
        )

    def read(self, id: str) -> Instance[Any]:
        """Read an instance. Raises OptionError for text that is no UUID, UnknownInstanceError, or a StoreError."""
        return self._ask(lambda node: node.lookup_instance(id), lambda: self.manager.lookup_instance(id).instance)

    @contextlib.contextmanager
    def using(self, node: Node) -> Generator[None]:
        """Let the tasks that run on this node use it, so that their process is not two nodes of the cluster."""
        self._lent = os.getpid(), node, asyncio.get_running_loop()
        try:
            yield
        finally:
            self._lent = None

    def close(self) -> None:
        """Stop the own node. Later calls raise NodeStateError."""
        self.manager.close()

    def _ask(
        self,
        verb: Callable[[Node], Coroutine[Any, Any, T]],
        own: Callable[[], T],
        *,
        job: Job[..., Any, Any] | None = None,
    ) -> T:
        """Call a verb of a node and return its answer, also on a thread that runs an event loop.

        With `job`, a node that was lent with `using` is called only if it runs that job. `own` asks the own node.
        """
        running = _running_loop()
        if self._lent is not None:
            pid, node, loop = self._lent
            known = None if job is None else node.find_job(job.kind)
            serves = job is None or (known is not None and known.executor is job.executor)
            if serves and pid == os.getpid() and running is not loop:
                return asyncio.run_coroutine_threadsafe(verb(node), loop).result()
        if running is None:
            return own()
        # a sync call inside an async function blocks that function's event loop, as the caller asked for
        with ThreadPoolExecutor(max_workers=1) as executor:
            return executor.submit(own).result()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    # an error for each thread without a loop, as of get_running_loop(), would cost time
    return asyncio._get_running_loop()  # pyright: ignore[reportPrivateUsage]


_STORES: dict[BackendOptions, TaskStore] = {}
_MAKING = threading.RLock()
# A store imports its engine. A child that is forked meanwhile would wait forever for the lock of that import.
os.register_at_fork(before=_MAKING.acquire, after_in_parent=_MAKING.release, after_in_child=_MAKING.release)


def task_store_of(options: BackendOptions) -> TaskStore:
    """The store of tasks of this process for these options: Django makes a backend for each thread."""
    store = _STORES.get(options)
    if store is None:
        with _MAKING:
            store = _STORES.get(options)
            if store is None:
                store = _STORES[options] = TaskStore(options)
    return store
