"""Verbs that schedule final instances once more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from msgspec import structs

from peerjob.handles.instance import Instance
from peerjob.model.codec import has_reference
from peerjob.model.errors import NodeStateError, OptionError, UnknownInstanceError
from peerjob.model.ids import checked_id, checked_new_id, derived_id
from peerjob.model.query import Query, ResultPage
from peerjob.model.record import Record
from peerjob.model.spec import decode_spec
from peerjob.model.state import State

from .call_encoder import fresh_record
from .jobs import BULK_PAGE, NodeJobManager


class NodeRetryManager(NodeJobManager):
    """The verbs of a node that repeat instances."""

    async def retry_instances(self, query: Query, *, id: str | UUID | None = None) -> list[Instance[Any]]:
        made: list[Instance[Any]] = []
        async for page in self.retry_pages(query, id=id):
            made += page
        return made

    async def retry_pages(
        self,
        query: Query,
        *,
        id: str | UUID | None = None,
        check: Callable[[Iterable[Instance[Any]]], Awaitable[None]] | None = None,
    ) -> AsyncGenerator[ResultPage[Instance[Any]]]:
        """Like `retry_instances`, page by page: a page has the new instances, and the cursor of the next page.

        Only one page of old instances is in memory at a time: each can have a large result or traceback. `check` gets
        the old instances of each page first, and can raise an error.
        """
        runtime = self._need_runtime()
        request = runtime.ids.one() if id is None else checked_new_id(id, self.clock.time_us(), "id")
        final, cursor, due_us = query.states & State.FINAL, query.cursor, 0
        while final:
            page = await self._store.lookup(replace(query, state=final, cursor=cursor, limit=BULK_PAGE))
            cursor = page.cursor
            # a repeat, or a later page, can find instances that this request made, and that have ended since
            # a parent makes its children anew, so a repeat of both would run them twice
            old = [record for record in page.records if not record.parent and not _is_made_by(request, record)]
            if check is not None:
                await check(Instance(self, record) for record in old)
            # the new ids are in no order, so each instance is due a microsecond after the one before
            due_us = max(due_us, self._store_time_us() - len(old))
            made = await self._retry(old, request, due_us)
            due_us += len(old)
            del page, old
            yield ResultPage(made, cursor)
            if cursor is None:
                return

    async def _retry(self, old: Sequence[Record], request: str, due_us: int) -> list[Instance[Any]]:
        """Schedule new instances of final ones; the first is due at `due_us`."""
        runtime = self._need_runtime()
        await self._prepare({record.kind for record in old})
        new = [
            structs.replace(self._call_encoder.again(record), id=derived_id(request, record.id), due_us=due_us + index)
            for index, record in enumerate(old)
        ]
        answers = await runtime.enqueuer.add_many(new)
        repeated = [retry.id for retry, answer in zip(new, answers, strict=True) if answer.repeated]
        stored = await runtime.records.find_many(repeated) if repeated else {}
        made: list[Instance[Any]] = []
        for retry, answer in zip(new, answers, strict=True):
            job = self.find_job(retry.kind)
            if answer.repeated:
                made.append(self._stored_before(retry, stored.get(retry.id), job))
            else:
                made.append(runtime.changes.scheduled(job, fresh_record(retry, self.clock.time_us())))
        return made

    async def retry_instance(self, uuid: str | UUID, *, id: str | UUID | None = None) -> Instance[Any]:
        runtime = self._need_runtime()
        given = None if id is None else checked_new_id(id, self.clock.time_us(), "id")
        old = await runtime.records.find(uuid)
        if old is None:
            # the retry can exist for longer than the old instance
            made = None if given is None else await runtime.records.find(given)
            if made is None or decode_spec(made.spec).retry_of != checked_id(uuid):
                raise UnknownInstanceError(checked_id(uuid))
            return Instance(self, made, job=self.find_job(made.kind), is_new=False)
        if not old.state.is_final:
            raise NodeStateError(f"instance {old.id} is {old.state!s}; only a final one can be repeated")
        if old.parent and has_reference(decode_spec(old.spec).args):
            text = f"instance {old.id} takes results of members of flow {old.parent}: repeat that with retry_flow()"
            raise NodeStateError(text)
        await self._prepare([old.kind])
        new = self._call_encoder.again(old)
        if given is not None:
            new = structs.replace(new, id=given)
        answer = await runtime.enqueuer.add(new)
        job = self.find_job(new.kind)
        if not answer.repeated:
            return runtime.changes.scheduled(job, fresh_record(new, self.clock.time_us()))
        record = await runtime.records.find(new.id)
        if record is not None and decode_spec(record.spec).retry_of != old.id:
            raise OptionError("id", new.id, f"an id that only a retry of {old.id} has")
        return self._stored_before(new, record, job)


def _is_made_by(request: str, record: Record) -> bool:
    """Whether an instance is a retry that this request made."""
    old = decode_spec(record.spec).retry_of
    return old is not None and record.id == derived_id(request, str(old))
