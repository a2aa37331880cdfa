"""The last answers to each verb of an incarnation, so that a request sent twice is answered as it was.

A batch is written in several requests, and each keeps its own part of the answers. Whoever depends on being the only
one to answer a request (a claim would otherwise take other instances the second time) compares the part it is about
to write, so of two runs of one request only one writes it, and the other finds it there.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from peerjob.model.errors import DecodeError

from .base import Compare, KeyValue, Put, Range
from .keys import Keys, prefix_end
from .rows import Answers, decode_answers, encode

_MAX_KNOWN = 10_000


class AnswerLog(msgspec.Struct, gc=False):
    """What is known of a request that is being answered."""

    prefix: str
    request: str
    revisions: dict[int, int]
    """Part → when it was written last."""
    parts: list[Answers]
    """What this very request was answered before."""
    used: int = 0
    """The number of the next part."""
    now_us: int = 0
    next_due_us: int | None = None
    guarded: bool = False
    """Whether every change depends on nobody else having answered this request."""
    extra: tuple[tuple[int, str], ...] = ()
    """Answers that needed no change, kept with the next part."""

    @property
    def answers(self) -> dict[int, str]:
        """What was answered before, by place in the batch."""
        return dict(pair for part in self.parts for pair in part.answers)

    def part(self) -> AnswerLogPart:
        """The next part, in the hands of one request; several may be under way."""
        number, extra = self.used, self.extra
        self.used, self.extra = number + 1, ()
        return AnswerLogPart(self, number, extra)


class AnswerLogPart:
    """One part of a journal, to be written by one request."""

    def __init__(self, answer_log: AnswerLog, number: int, extra: tuple[tuple[int, str], ...]) -> None:
        self._answer_log = answer_log
        self._number = number
        self._extra = extra
        self._key = f"{answer_log.prefix}{number:03d}"
        self.guarded = answer_log.guarded

    def guard(self) -> Compare:
        """Holds if nobody else has written this part."""
        return Compare(self._key, mod=self._answer_log.revisions.get(self._number, 0))

    def put(self, answers: Iterable[tuple[int, str]], lease: int) -> Put:
        """The write of this part."""
        answer_log = self._answer_log
        kept = Answers(answer_log.request, (*self._extra, *answers), answer_log.now_us, answer_log.next_due_us)
        return Put(self._key, encode(kept), lease)

    def written(self, revision: int) -> None:
        """This part was written."""
        self._answer_log.revisions[self._number] = revision

    def unused(self) -> None:
        """There was nothing to write: what it was to keep goes with another part."""
        self._answer_log.extra += self._extra


class AnswerLogs:
    """Opens journals, from memory where this store wrote them itself."""

    def __init__(self, kv: KeyValue, keys: Keys) -> None:
        self._kv = kv
        self._keys = keys
        self._known: dict[str, tuple[str, dict[int, int]]] = {}

    async def open(self, incarnation: str, verb: str, request: str) -> AnswerLog:
        """The journal of a verb, with what the request was answered if it came before."""
        prefix = self._keys.answers(incarnation, verb)
        last, revisions = self._known.get(prefix, ("", {}))
        answer_log = AnswerLog(prefix, request, revisions, [])
        if last in ("", request):
            await self.refresh(answer_log)
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
        self._known[prefix] = (request, answer_log.revisions)
        return answer_log

    async def refresh(self, answer_log: AnswerLog) -> None:
        """Read again what is stored."""
        (found,) = await self._kv.read([Range(answer_log.prefix, prefix_end(answer_log.prefix))])
        answer_log.revisions.clear()
        answer_log.parts = []
        for key, entry in found.items:
            number = int(key[len(answer_log.prefix) :])
            answer_log.revisions[number] = entry.mod
            try:
                part = decode_answers(entry.value)
            except DecodeError:
                continue  # what it answered is asked again, of records that tell whether it was done
            if part.request == answer_log.request:
                answer_log.parts.append(part)
                answer_log.used = max(answer_log.used, number + 1)
