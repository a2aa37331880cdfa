"""How a relay of an outbox works on a node: the role that runs it, and what the relay asks of its node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from peerjob.cluster.role import BackgroundRole
from peerjob.model.child_tasks import cancel
from peerjob.model.clock import Clock
from peerjob.model.errors import RowRefusedError, StoreError, StoreFullError, StoreRefusedError
from peerjob.model.job import Job
from peerjob.model.record import NewInstance
from peerjob.model.state import State
from peerjob.node.body.registry import Registry
from peerjob.node.manager.batches import Enqueuer, RecordReader
from peerjob.node.manager.call_encoder import fresh_record
from peerjob.node.manager.kind_catalogue import KindCatalogue

from .changes import ChangeListener

logger = logging.getLogger("peerjob.sql")

NO_INSTANCE = "00000000-0000-7000-8000-000000000000"
"""An id that no instance has."""
LOOK_ASIDE = 1.0
"""Most seconds that the lookup of an unknown instance waits for the database of the outbox."""

Refusals = Callable[[Sequence[str]], Awaitable[Mapping[str, str]]]
"""Why rows are kept aside, by id; rows that are not are left out. Raises an error of the database."""


class OutboxState(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of an outbox and of its inbox at one moment; 100,000 stands for more rows, too."""

    table: str
    rows: int
    """Rows that no relay has sent yet."""
    oldest: float
    """Age of the oldest of these rows in seconds; 0 if there is none."""
    refused: int
    """Rows that the relay has kept aside, because they cannot be sent."""
    inbox: int
    """Instances of which the inbox keeps values."""


class RelayNode(Protocol):
    """What a relay asks of its node."""

    clock: Clock

    async def send(self, instances: Sequence[NewInstance]) -> list[Exception | None]:
        """Enqueue instances, of which some may be in the store already; None, or why the store refuses the instance.

        RowRefusedError tells that another instance has its key.
        Raises StoreError if the store takes nothing now: it is away, is full, or refuses the user. After the latter two
        the store has none of the instances of this call, unless the error is `is_unsure`.
        """
        ...

    async def reach(self) -> None:
        """Wait for an answer of the store. Raises StoreError if it gives none."""
        ...

    def remember(self, refused: Iterable[RowRefusedError]) -> None:
        """Let the node tell why these ids, whose rows have left the table, have no instance."""
        ...

    def look_aside(self, refusals: Refusals) -> None:
        """Let the node ask for rows that are kept aside, one question at a time, while the relay runs."""
        ...

    async def states(self, ids: Sequence[str]) -> dict[str, State]:
        """The state of each instance that the store has."""
        ...


class Relay(Protocol):
    """Makes instances of the rows of an outbox; `peerjob.sql` has one."""

    async def run(self, node: RelayNode) -> None:
        """Send rows until a cancellation; several nodes can call this at a time."""
        ...

    async def state(self) -> OutboxState:
        """Count the rows. Raises an error of the database."""
        ...


class OutboxRole(BackgroundRole):
    """Runs a relay, and enqueues for it."""

    name = "outbox"

    def __init__(
        self,
        clock: Clock,
        relay: Relay,
        registry: Registry,
        enqueuer: Enqueuer,
        records: RecordReader,
        catalogue: KindCatalogue,
        changes: ChangeListener,
        runs_here: Callable[[str], bool],
    ) -> None:
        super().__init__(clock)
        self._relay = relay
        self._registry = registry
        self._enqueuer = enqueuer
        self._records = records
        self._catalogue = catalogue
        self._changes = changes
        self._runs_here = runs_here
        self._asking: asyncio.Task[Mapping[str, str]] | None = None

    async def run(self) -> None:
        try:
            await self._relay.run(self)
        finally:
            self._records.look_aside(None)
            if self._asking is not None:
                cancel(self._asking)

    async def send(self, instances: Sequence[NewInstance]) -> list[Exception | None]:
        """See `RelayNode.send`."""
        refused: dict[str, Exception] = {}
        for kind in {instance.kind for instance in instances}:
            if self._registry.find(kind) is None:
                try:
                    await self._catalogue.admit(kind)
                except StoreFullError as error:
                    refused[kind] = error
        admitted = [instance for instance in instances if instance.kind not in refused]
        answers = iter(await self._enqueue(admitted))
        for kind in {instance.kind for instance in admitted}:
            if not self._runs_here(kind):
                await self._catalogue.check_served(kind)
        return [refused.get(instance.kind) or next(answers) for instance in instances]

    async def _enqueue(self, instances: Sequence[NewInstance]) -> list[Exception | None]:
        try:
            answers = await self._enqueuer.add_many(instances)
        except Exception as error:
            if isinstance(error, StoreError) and not isinstance(error, StoreRefusedError):
                raise
            if len(instances) == 1:
                return [error]
            # one bad instance must not keep the others from the store
            half = len(instances) // 2
            try:
                return [*await self._enqueue(instances[:half]), *await self._enqueue(instances[half:])]
            except StoreError as later:
                later.is_unsure = True  # the refused call, or the first half, can have added a part
                raise
        now_us = self.clock.time_us()
        jobs: dict[str, Job[..., Any, Any] | None] = {}
        errors: list[Exception | None] = []
        for instance, answer in zip(instances, answers, strict=True):
            errors.append(None)
            if answer.id != instance.id:
                why = f"instance {answer.id} of {instance.kind!r} has its key {instance.key!r}"
                logger.info("row %s of the outbox made no instance: %s", instance.id, why)
                errors[-1] = RowRefusedError(instance.id, answer.id, f"when a relay sent its row, {why}")
            if instance.kind not in jobs:
                job = self._registry.find(instance.kind)
                jobs[instance.kind] = job if job is not None and job.policy.on_state_change is not None else None
            job = jobs[instance.kind]
            if job is not None and answer.is_new and not answer.repeated:
                self._changes.scheduled(job, fresh_record(instance, now_us))
        return errors

    async def reach(self) -> None:
        """See `RelayNode.reach`."""
        await self._records.find_many([NO_INSTANCE])

    def remember(self, refused: Iterable[RowRefusedError]) -> None:
        """See `RelayNode.remember`."""
        self._records.remember(refused)

    def look_aside(self, refusals: Refusals) -> None:
        """See `RelayNode.look_aside`."""

        async def ask(ids: Sequence[str]) -> Mapping[str, str]:
            try:
                return await refusals(ids)
            except Exception:  # noqa: BLE001  # without the database, the instances are only unknown
                return {}

        async def why_refused(ids: Sequence[str]) -> list[str | None]:
            if self._asking is not None and not self._asking.done():
                return [None] * len(ids)  # the database has not answered the last question
            # a caller that gives up must not wait for the database
            asking = self._asking = asyncio.create_task(ask(ids))
            await asyncio.wait([asking], timeout=LOOK_ASIDE)
            reasons: Mapping[str, str] = asking.result() if asking.done() and not asking.cancelled() else {}
            return [reasons.get(id) for id in ids]

        self._records.look_aside(why_refused)

    async def states(self, ids: Sequence[str]) -> dict[str, State]:
        """See `RelayNode.states`."""
        return {id: record.state for id, record in (await self._records.find_many(ids)).items()}
