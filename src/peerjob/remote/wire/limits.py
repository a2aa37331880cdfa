"""Limits on the wire."""

from __future__ import annotations

from typing import Any

from peerjob.model.stored_limit import InstanceLimits, KeyLimitPage, KeyLimitView, LimitPage, LimitView
from peerjob.proto.job.v1 import service_pb2 as pb

from .values import given, optional_stamp, stamp_us


def limit_message(view: LimitView) -> pb.Limit:
    """The message of a limit."""
    return pb.Limit(
        name=view.name,
        kinds=view.kinds,
        concurrency=view.concurrency,
        period_us=view.period_us,
        burst=view.burst,
        running=view.running,
        waiting=view.waiting,
        remaining=view.remaining,
        opens_at=optional_stamp(view.opens_us),
        paused=view.paused,
        note=view.note,
        source=view.source,
        rate=view.rate or "",
    )


def limit_of(message: pb.Limit) -> LimitView:
    """The inverse of `limit_message`."""
    return LimitView(
        name=message.name,
        kinds=tuple(message.kinds),
        concurrency=given(message, "concurrency"),
        period_us=message.period_us,
        burst=given(message, "burst"),
        running=message.running,
        waiting=message.waiting,
        remaining=given(message, "remaining"),
        opens_us=stamp_us(message.opens_at),
        paused=message.paused,
        note=message.note,
        source=message.source,
    )


def key_limit_message(view: KeyLimitView) -> pb.KeyLimit:
    """The message of a key."""
    return pb.KeyLimit(key=view.key, concurrency=view.concurrency, admitted=view.admitted, waiting=view.waiting)


def key_limit_of(message: pb.KeyLimit) -> KeyLimitView:
    """The inverse of `key_limit_message`."""
    return KeyLimitView(
        key=message.key,
        concurrency=given(message, "concurrency"),
        admitted=message.admitted,
        waiting=message.waiting,
    )


def limit_page_fields(page: LimitPage) -> dict[str, Any]:
    """The fields of a page of limits."""
    return {"limits": map(limit_message, page.views), "cursor": page.cursor}


def limit_page_of(message: pb.ListLimitsResponse) -> LimitPage:
    """The inverse of `limit_page_fields`."""
    return LimitPage(tuple(map(limit_of, message.limits)), given(message, "cursor"))


def key_page_fields(page: KeyLimitPage) -> dict[str, Any]:
    """The fields of a page of keys."""
    return {"keys": map(key_limit_message, page.views), "cursor": page.cursor}


def key_page_of(message: pb.ListKeyLimitsResponse) -> KeyLimitPage:
    """The inverse of `key_page_fields`."""
    return KeyLimitPage(tuple(map(key_limit_of, message.keys)), given(message, "cursor"))


def instance_limits_fields(limits: InstanceLimits) -> dict[str, Any]:
    """The fields of what limits an instance."""
    return {
        "limits": map(limit_message, limits.limits),
        "key": None if limits.key is None else key_limit_message(limits.key),
        "waits": limits.waits,
        "holders": limits.holders,
    }


def instance_limits_of(message: pb.ExplainLimitsResponse) -> InstanceLimits:
    """The inverse of `instance_limits_fields`."""
    return InstanceLimits(
        limits=tuple(map(limit_of, message.limits)),
        key=key_limit_of(message.key) if message.HasField("key") else None,
        waits=message.waits,
        holders=tuple(message.holders),
    )
