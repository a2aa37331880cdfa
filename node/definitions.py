"""Writes the schedules of jobs that are defined with a recurrence; the same on every node, there is one of each.

A start writes a definition only if it is another than code wrote last, and of no lower version. So a restart undoes no
change that was made at run time, an older replica no newer definition, and pauses survive both.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from msgspec import structs

from peerjob.clock import Clock
from peerjob.cluster.role import Role
from peerjob.definition import Definition, digest
from peerjob.errors import ScheduleError, StoreError, StoreRefusedError
from peerjob.firing import MAX_SCHEDULES, ScheduleRow
from peerjob.store.base import Store

from .rewriting import put_of, readable

logger = logging.getLogger("peerjob.node")

COLLISION_WAIT = 0.05
"""Most seconds before a schedule that somebody else wrote at the same time is read again."""


class Definitions(Role):
    """Writes what was registered, and goes on trying while the store does not answer."""

    name = "definitions"

    def __init__(self, *, clock: Clock, store: Store, node: str, now_us: Callable[[], int]) -> None:
        super().__init__(clock)
        self._store = store
        self._node = node
        self._now_us = now_us
        self._pending: dict[str, Definition] = {}
        self._added = asyncio.Event()
        self._writing = asyncio.Lock()

    def add(self, defined: dict[str, Definition]) -> None:
        """Have these written, by name of the schedule."""
        self._pending |= defined
        if defined:
            self._added.set()

    async def run(self) -> None:
        while True:
            await self.write()
            self._added.clear()
            await self._added.wait()

    async def settle(self) -> None:
        """Have what was registered written before it is read; where the store refuses, the role goes on trying."""
        if self._pending:
            with contextlib.suppress(StoreError):
                await self.write()

    async def write(self) -> None:
        """Write what is pending; raises StoreError, and what was not written stays pending."""
        async with self._writing:
            await self._write()

    async def _write(self) -> None:
        while names := list(self._pending)[:MAX_SCHEDULES]:
            rows = await self._store.get_schedules(names)
            # at once, since a store writes together those that come together
            settled = await asyncio.gather(
                *(self._settle_one(name, row) for name, row in zip(names, rows, strict=True)), return_exceptions=True
            )
            for error in settled:
                if isinstance(error, BaseException):
                    raise error
            if not all(settled):
                await asyncio.sleep(self.clock.random.uniform(0, COLLISION_WAIT))

    async def _settle_one(self, name: str, row: ScheduleRow | None) -> bool:
        definition = self._pending.get(name)
        if definition is None:
            return True
        try:
            settled = await self._settled(name, definition, row)
        except StoreRefusedError as error:
            logger.error("schedule %r is not written, the store refuses it: %s", name, error)  # noqa: TRY400
            settled = True
        if settled and self._pending.get(name) is definition:
            del self._pending[name]
        return settled

    async def _settled(self, name: str, definition: Definition, row: ScheduleRow | None) -> bool:
        """Write one if it must be; False when somebody else was faster, so that it must be looked at again."""
        written = digest(definition)
        if row is not None and not self._replaces(name, definition, written, row):
            return True
        definition = structs.replace(definition, written=written)
        try:
            put = put_of(name, definition, row, now_us=self._now_us(), node=self._node)
        except ScheduleError as error:
            logger.error("schedule %r cannot be written: %s", name, error)  # noqa: TRY400
            return True
        return await self._store.put_schedule(put) is not None

    def _replaces(self, name: str, definition: Definition, written: str, row: ScheduleRow) -> bool:
        old = readable(row)
        if old is None:
            logger.error("schedule %r is stored in a form that cannot be read here; it is left as it is", name)
            return False
        if old.written == written:
            return False
        if definition.version < old.version:
            logger.info(
                "schedule %r stays as version %d of its job defined it; here is version %d",
                name,
                old.version,
                definition.version,
            )
            return False
        if old.written and definition.version == old.version:
            logger.warning(
                "schedule %r is defined anew, with the version that it had before (%d): the last start wins; "
                "raise version= of job %r with each change, so that an older replica cannot undo it",
                name,
                old.version,
                definition.kind,
            )
        return True
