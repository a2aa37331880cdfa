"""Writes the schedules of jobs whose code defines a recurrence. All nodes write the same schedules.

A node writes a definition only if it differs from the definition that code wrote last, and its version is not lower.
So a restart does not undo a change that was made at run time. An older replica does not undo a newer definition. A
pause survives both.

When a node joins again, its store may have lost data. The node then writes missing schedules again, except schedules
that were removed on purpose.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from msgspec import structs

from peerjob.cluster.role import BackgroundRole
from peerjob.model.clock import Clock
from peerjob.model.definition import Definition, digest
from peerjob.model.errors import ScheduleError, StoreError, StoreRefusedError
from peerjob.model.firing import MAX_SCHEDULES, ScheduleRow
from peerjob.store.base import Store

from .schedule_changes import decoded, put_of

logger = logging.getLogger("peerjob.node")

MAX_CONFLICT_WAIT = 0.05
"""Most seconds before a schedule that another node changed at the same time is read again."""


class JobSchedules(BackgroundRole):
    """Writes the schedules of registered jobs, and tries again while the store does not answer."""

    name = "definitions"

    def __init__(self, clock: Clock, store: Store, node: str, now_us: Callable[[], int]) -> None:
        super().__init__(clock)
        self._store = store
        self._node = node
        self._now_us = now_us
        self._pending: dict[str, Definition] = {}
        self._registered: dict[str, Definition] = {}
        self._revision = 0
        """The highest revision of a schedule that this node has read or written."""
        self._check_needed = False
        """Whether the store has possibly lost schedules, so that `run` must look for missing schedules."""
        self._added = asyncio.Event()
        self._writing = asyncio.Lock()

    def add(self, defined: dict[str, Definition]) -> None:
        """Write these definitions soon, by name of the schedule."""
        self._pending |= defined
        self._registered |= defined
        if defined:
            self._added.set()

    def forget(self, kind: str) -> None:
        """Stop writing the schedules of a kind, which is not registered any more."""
        self._registered = {
            name: definition for name, definition in self._registered.items() if definition.kind != kind
        }

    def check_again(self) -> None:
        """Write the schedules again that the store has lost."""
        if self._registered:
            self._check_needed = True
            self._added.set()

    async def run(self) -> None:
        while True:
            if self._check_needed:
                await self._find_missing()
            await self.write()
            self._added.clear()
            if not self._check_needed:
                await self._added.wait()

    async def _find_missing(self) -> None:
        """Make schedules pending that are missing and were not removed on purpose; raises StoreError."""
        names, missing = list(self._registered), set[str]()
        for at in range(0, len(names), MAX_SCHEDULES):
            part = names[at : at + MAX_SCHEDULES]
            rows = await self._store.get_schedules(part)
            missing |= {name for name, row in zip(part, rows, strict=True) if row is None}
        if missing:
            missing -= await self._removed()
        definitions = {name: definition for name, definition in self._registered.items() if name in missing}
        self._pending |= definitions
        self._check_needed = False
        if definitions:
            logger.warning(
                "the store has lost %d schedule(s) that code defines, such as %r; node %r writes them again",
                len(definitions),
                next(iter(definitions)),
                self._node,
            )

    async def _removed(self) -> set[str]:
        """Return the schedules that were removed after the last revision this node has seen, if still known."""
        removed, revision, more = set[str](), self._revision, True
        while more:
            page = await self._store.changed_schedules(revision)
            removed |= {row.name for row in page.rows if row.removed}
            revision, more = page.revision, page.more
        return removed

    async def flush(self) -> None:
        """Write pending schedules before schedules are read; after an error of the store, the role tries again."""
        if self._pending:
            with contextlib.suppress(StoreError):
                await self.write()

    async def write(self) -> None:
        """Write the pending schedules; raises StoreError, and schedules that were not written stay pending."""
        async with self._writing:
            await self._write()

    async def _write(self) -> None:
        while names := list(self._pending)[:MAX_SCHEDULES]:
            rows = await self._store.get_schedules(names)
            # write the schedules concurrently, because a store can combine concurrent writes
            stored = await asyncio.gather(
                *(self._store_one(name, row) for name, row in zip(names, rows, strict=True)), return_exceptions=True
            )
            for error in stored:
                if isinstance(error, BaseException):
                    raise error
            if not all(stored):
                await asyncio.sleep(self.clock.random.uniform(0, MAX_CONFLICT_WAIT))

    async def _store_one(self, name: str, row: ScheduleRow | None) -> bool:
        definition = self._pending.get(name)
        if definition is None:
            return True
        try:
            stored = await self._write_one(name, definition, row)
        except StoreRefusedError as error:
            logger.error("schedule %r is not written, the store refuses it: %s", name, error)  # noqa: TRY400
            stored = True
        if stored and self._pending.get(name) is definition:
            del self._pending[name]
        return stored

    async def _write_one(self, name: str, definition: Definition, row: ScheduleRow | None) -> bool:
        """Write a schedule if necessary; False if another node changed the schedule after it was read."""
        written = digest(definition)
        if row is not None:
            self._revision = max(self._revision, row.revision)
        if row is not None and not self._replaces(name, definition, written, row):
            return True
        definition = structs.replace(definition, written=written)
        try:
            put = put_of(name, definition, row, now_us=self._now_us(), node=self._node)
        except ScheduleError as error:
            logger.error("schedule %r cannot be written: %s", name, error)  # noqa: TRY400
            return True
        stored = await self._store.put_schedule(put)
        if stored is not None:
            self._revision = max(self._revision, stored.revision)
        return stored is not None

    def _replaces(self, name: str, definition: Definition, written: str, row: ScheduleRow) -> bool:
        old = decoded(row)
        if old is None:
            logger.error("schedule %r is stored in a form that cannot be read here; it is left as it is", name)
            return False
        if old.written == written:
            return False
        if definition.version < old.version:
            logger.info(
                "schedule %r keeps the definition of version %d; version %d of this node is older and is not written",
                name,
                old.version,
                definition.version,
            )
            return False
        if old.written and definition.version == old.version:
            logger.warning(
                "schedule %r has a new definition, with the version of the old one (%d): the last start wins; "
                "raise version= of job %r with each change, so that an older replica cannot undo it",
                name,
                old.version,
                definition.kind,
            )
        return True
