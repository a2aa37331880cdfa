"""One-time forms: each form of a page has an id, and a form that is sent again gets the answer of the first.

A process remembers the answers. An instance that a form schedules has an id that follows from the form, so that the
store also refuses it to a repeat that reaches another process.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from uuid import UUID

from peerjob.model.clock import Clock
from peerjob.model.ids import IdSource, hashed_id, id_time_us

from .security import FORM_ID, RefusedError

T = TypeVar("T")

MAX_FORMS = 2_000
"""The most forms that a dashboard remembers; above this number, it forgets the oldest."""
KEPT_SECONDS = 600.0
SPAN_US = 60_000_000
"""The creation time of an instance is at most this long before its form was sent."""
MAX_AGE_US = 86_000_000_000
"""The age of a form after which its id makes no instance: the store takes ids of about now."""
UNKNOWN = (
    "This form was sent before, and it is not known whether it took effect. "
    "Look at the instances, then open its page again."
)


def new_form_id(clock: Clock) -> str:
    """The id of the forms of one page."""
    return IdSource(clock).one()


def following_id(form_id: str, digest: str) -> str:
    """The id of the forms of an answer: the same for a repeat, in each process."""
    return hashed_id(id_time_us(form_id), digest)


def form_digest(session: str, principal: str, path: str, fields: dict[str, list[str]]) -> str:
    """What tells two sent forms apart; "" for a form without an id. A changed field makes another form."""
    if not form_id_in(fields):
        return ""
    given = sorted((name, *values) for name, values in fields.items())
    return hashlib.sha256(repr((session, principal, path, given)).encode()).hexdigest()


def form_id_in(fields: dict[str, list[str]]) -> str:
    """The id of a form; "" if it has none."""
    given = (fields.get(FORM_ID) or [""])[0]
    try:
        uuid = UUID(given)
    except ValueError:
        return ""
    return str(uuid) if uuid.version == 7 else ""


def instance_ids(form_id: str, digest: str, now_us: int, since_us: int = 0) -> list[str]:
    """The ids of the instance that a form makes: first the one for now, then the one for the minute before.

    Empty for a form without an id, or one that is a day old. No id has a time before `since_us`.
    """
    if not form_id or not digest or abs(now_us - id_time_us(form_id)) > MAX_AGE_US:
        return []
    begin = max(id_time_us(form_id), -(-since_us // 1_000) * 1_000)
    number = max(0, now_us - begin) // SPAN_US
    return [hashed_id(begin + span * SPAN_US, f"{digest} {span}") for span in range(number, max(-1, number - 2), -1)]


def request_id_of(form_id: str, digest: str, now_us: int) -> str | None:
    """The id of what a form asks for, if that makes no instance; None for a form without an id, or a day old."""
    return following_id(form_id, digest) if instance_ids(form_id, digest, now_us) else None


@dataclass(kw_only=True)
class _SentForm(Generic[T]):
    at: float
    answer: T | None = None
    is_unknown: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class SentForms(Generic[T]):
    """Remembers what forms did, for ten minutes."""

    def __init__(self) -> None:
        self._sent: OrderedDict[str, _SentForm[T]] = OrderedDict()

    async def answer(
        self,
        digest: str,
        clock: Clock,
        act: Callable[[], Awaitable[T]],
        *,
        keeps: Callable[[T], bool],
        is_unknown: Callable[[BaseException], bool],
    ) -> T:
        """Act, or return what the same form did before. A form that is sent twice at the same time acts once.

        An answer that `keeps` refuses is not remembered, nor is an error, unless `is_unknown` says that the form may
        have acted: then a repeat raises RefusedError.
        """
        if not digest:
            return await act()
        while (known := self._find(digest, clock.elapsed())) is not None:
            await known.ended.wait()
            if known.is_unknown:
                raise RefusedError(409, UNKNOWN)
            if known.answer is not None:
                return known.answer
        sent = self._sent[digest] = _SentForm[T](at=clock.elapsed())
        try:
            answer = await act()
            if keeps(answer):
                sent.answer = answer
            return answer
        except BaseException as error:
            sent.is_unknown = is_unknown(error)
            raise
        finally:
            if sent.answer is None and not sent.is_unknown:
                self._sent.pop(digest, None)
            sent.ended.set()

    def _find(self, digest: str, now: float) -> _SentForm[T] | None:
        while self._sent:
            oldest = next(iter(self._sent.values()))
            if now - oldest.at < KEPT_SECONDS and len(self._sent) < MAX_FORMS:
                break
            self._sent.popitem(last=False)
        return self._sent.get(digest)
