"""The activity of a namespace, on the wire."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from peerjob.model.activity import Activity, Distribution, KindActivity
from peerjob.model.clock import to_datetime, to_us
from peerjob.proto.job.v1 import service_pb2 as pb

from .values import span, span_us, stamp, stamp_us

_MICROSECOND = timedelta(microseconds=1)


def activity_fields(activity: Activity) -> dict[str, Any]:
    """The fields of a GetActivityResponse."""
    return {
        "start": stamp(to_us(activity.start)),
        "step": span(activity.step // _MICROSECOND),
        "kinds": [_message(kind, counts) for kind, counts in activity.kinds.items()],
        "others": _message("", activity.others),
    }


def activity_of(message: pb.GetActivityResponse) -> Activity:
    """The inverse of `activity_fields`."""
    return Activity(
        start=to_datetime(stamp_us(message.start)),
        step=timedelta(microseconds=span_us(message.step)),
        kinds={row.kind: _kind_of(row) for row in message.kinds},
        others=_kind_of(message.others),
    )


def _message(kind: str, counts: KindActivity) -> pb.KindActivity:
    return pb.KindActivity(
        kind=kind,
        started=counts.started,
        completed=counts.completed,
        failed=counts.failed,
        retried=counts.retried,
        cancelled=counts.cancelled,
        durations=counts.durations.counts,
        waits=counts.waits.counts,
    )


def _kind_of(message: pb.KindActivity) -> KindActivity:
    return KindActivity(
        started=tuple(message.started),
        completed=tuple(message.completed),
        failed=tuple(message.failed),
        retried=tuple(message.retried),
        cancelled=tuple(message.cancelled),
        durations=Distribution(tuple(message.durations)),
        waits=Distribution(tuple(message.waits)),
    )
