"""The verbs about limits: settings, pauses of kinds, and what limits an instance."""

from __future__ import annotations

from uuid import UUID

from peerjob.model.errors import OptionError
from peerjob.model.limit import checked_concurrency, limit_numbers
from peerjob.model.limits import MAX_KIND, MAX_LIMIT_NAME, MAX_NOTE, checked_text
from peerjob.model.listed import listed
from peerjob.model.stored_limit import (
    InstanceLimits,
    KeyLimitPage,
    KeyLimitView,
    LimitKey,
    LimitNumbers,
    LimitPage,
    LimitSetting,
)

from .jobs import NodeJobManager

_PAGE = 250
"""The limits of one read. On Redis and Valkey, each read looks at all limits of the namespace."""


class NodeLimitManager(NodeJobManager):
    """The verbs of a node for limits."""

    async def set_limit(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        rate: str | None = None,
        burst: int | None = None,
        note: str = "",
    ) -> None:
        checked_text("name", name, MAX_LIMIT_NAME)
        setting = LimitSetting(name=name, numbers=limit_numbers(concurrency, rate, burst), note=_explanation(note))
        if not await self._open_store().set_limit(setting):
            known = [view.name async for view in self.limits() if view.name]
            if setting.numbers != LimitNumbers() or name not in known:
                text = f"the name of a limit that a kind has (known: {listed(known, like=name)})"
                raise OptionError("name", name, text)

    async def set_key_limit(self, kind: str, *, concurrency: int | None = None, note: str = "") -> None:
        checked_text("kind", kind, MAX_KIND)
        numbers = LimitNumbers(concurrency=0 if concurrency is None else checked_concurrency(concurrency))
        setting = LimitSetting(kind=kind, numbers=numbers, note=_explanation(note))
        if not await self._open_store().set_limit(setting) and (
            concurrency is not None
            or all(view.name or view.concurrency is None for view in (await self._open_store().limits(kind=kind)).views)
        ):
            raise OptionError("kind", kind, "a kind with a key limit")

    async def pause_kind(self, kind: str, note: str = "") -> None:
        checked_text("kind", kind, MAX_KIND)
        _explanation(note)
        await self.check_known([kind])
        await self._open_store().pause_kind(kind, paused=True, note=note)

    async def resume_kind(self, kind: str) -> None:
        checked_text("kind", kind, MAX_KIND)
        if not (await self._open_store().limits(kind=kind)).views:  # a pause stays when no node publishes the kind
            await self.check_known([kind])
        await self._open_store().pause_kind(kind, paused=False)

    async def _limit_page(self, cursor: str | None = None) -> LimitPage:
        return await self._open_store().limits(cursor=cursor, limit=_PAGE)

    async def _key_limit_page(
        self, kind: str, prefix: str, waiting_only: bool, cursor: str | None = None
    ) -> KeyLimitPage:
        checked_text("kind", kind, MAX_KIND)
        checked_text("prefix", prefix, MAX_LIMIT_NAME, least=0)
        return await self._open_store().key_limits(kind, prefix=prefix, waiting_only=waiting_only, cursor=cursor)

    async def _limits_of(self, uuid: str | UUID) -> InstanceLimits:
        record, store = await self._need_runtime().records.record(uuid), self._open_store()
        (key,) = await store.limit_keys([record.id])
        return InstanceLimits(
            limits=(await store.limits(kind=record.kind)).views,
            key=None if key is None else await self._key_view(record.kind, key),
            waits=key is not None and key.waiting,
            holders=tuple(await store.key_holders(record.kind, key.key)) if key is not None and key.waiting else (),
        )

    async def _key_view(self, kind: str, key: LimitKey) -> KeyLimitView:
        """The view of a key; the keys that begin with it can fill pages before it."""
        cursor: str | None = None
        while True:
            page = await self._open_store().key_limits(kind, prefix=key.key, cursor=cursor)
            view = next((view for view in page.views if view.key == key.key), None)
            if view is not None:
                return view
            if (cursor := page.cursor) is None:  # the instance has ended meanwhile
                return KeyLimitView(key=key.key, concurrency=key.concurrency)


def _explanation(note: str) -> str:
    return checked_text("note", note, MAX_NOTE, least=0)
