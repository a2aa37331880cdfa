"""Makes of an operation the call of a limit, and reads what the stores tell about limits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from peerjob.model.stored_limit import (
    MAX_HOLDERS,
    KeyLimitView,
    KindLimits,
    LimitNumbers,
    LimitSetting,
    LimitView,
    SharedLimit,
)
from peerjob.store.base import Store

from .known import Answers, Known, Made

Given = Mapping[str, Any]


class LimitCalls:
    """The calls about limits. Their callers do not send them again."""

    _known: Known

    def _publish_limits(self, request: str, given: Given) -> Made:
        limits = [
            KindLimits(
                kind=kind,
                shared=tuple(
                    SharedLimit(name=name, numbers=LimitNumbers(**given["numbers"][name]))
                    for name in one.get("names", ())
                ),
                key_concurrency=one.get("keys", 0),
            )
            for kind, one in given["kinds"].items()
        ]

        def learn(answers: Answers) -> None:
            self._known.limited = True

        return Made("publish_limits", lambda side: side.store.publish_limits(limits), learn, once=True, moves=True)

    def _set_limit(self, request: str, given: Given) -> Made:
        numbers = LimitNumbers(**given["numbers"])
        setting = LimitSetting(
            name=given.get("name", ""), kind=given.get("kind", ""), numbers=numbers, note=given.get("note", "")
        )
        return Made("set_limit", lambda side: side.store.set_limit(setting), once=True, moves=True)

    def _pause_kind(self, request: str, given: Given) -> Made:
        kind, paused, note = given["kind"], given["paused"], given.get("note", "")
        return Made("pause_kind", lambda side: side.store.pause_kind(kind, paused, note), once=True, moves=True)

    def _throttle(self, request: str, given: Given) -> Made:
        name, delay_us, shorten = given["name"], given["seconds"] * 1_000_000, given.get("shorten", False)
        return Made(
            "throttle", lambda side: side.store.throttle(name, delay_us, shorten=shorten), once=True, moves=True
        )

    def _check_limits(self, request: str, given: Given) -> Made:
        async def call(side: Any) -> int:
            freed, cursor = await side.store.check_limits()
            while cursor is not None:
                more, cursor = await side.store.check_limits(cursor)
                freed += more
            return int(freed)

        return Made("check_limits", call, once=True, moves=True)


async def limits_of(store: Store, page: int) -> list[LimitView]:
    """All limits, in pages."""
    views: list[LimitView] = []
    cursor: str | None = None
    while True:
        answer = await store.limits(cursor=cursor, limit=page)
        views += answer.views
        cursor = answer.cursor
        if cursor is None:
            # *Choice*: whether bodies of cancelled instances are counted where nothing depends on it
            return [view if view.name and view.concurrency else replace(view, running=0) for view in views]


async def keys_of(store: Store, kinds: Collection[str], page: int) -> dict[str, Any]:
    """All keys of some kinds, with their holders if the store names all of them."""
    found: dict[str, Any] = {}
    for kind in kinds:
        views: list[KeyLimitView] = []
        cursor: str | None = None
        while True:
            answer = await store.key_limits(kind, cursor=cursor, limit=page)
            views += answer.views
            cursor = answer.cursor
            if cursor is None:
                break
        for view in views:
            # *Choice*: whether the view without a key counts bodies of cancelled instances
            if not view.key and view.waiting:
                found[f"waiting without a key {kind}"] = [view.concurrency, view.waiting]
            if view.key:
                found[f"key {kind} {view.key}"] = [view.concurrency, view.admitted, view.waiting]
            if view.key and view.admitted < MAX_HOLDERS:
                found[f"holders {kind} {view.key}"] = sorted(await store.key_holders(kind, view.key))
    return found


async def limit_keys_of(store: Store, ids: Sequence[str]) -> dict[str, Any]:
    """The keys of instances."""
    found: dict[str, Any] = {}
    for start in range(0, len(ids), 100):
        part = ids[start : start + 100]
        found |= {f"limit key {id}": key for id, key in zip(part, await store.limit_keys(part), strict=True)}
    return found


async def unlimit(store: Store, kinds: Collection[str]) -> None:
    """Remove all limits, settings and pauses."""
    await store.publish_limits([KindLimits(kind=kind) for kind in kinds])
    for view in await limits_of(store, 100):
        await store.set_limit(LimitSetting(name=view.name, kind="" if view.name else view.kinds[0]))
    for kind in kinds:
        await store.pause_kind(kind, False)
