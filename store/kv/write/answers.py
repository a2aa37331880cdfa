"""The last answers to each verb of an incarnation, so that a repeated request gets the same answer.

A batch is written in several requests, and each request stores its own part of the answers. A repeated claim must not
take other instances. So a claim compares the part that it writes: of two runs of one request, only one writes the
part, and the other run finds it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from peerjob.store.kv.format.base import Compare, KeyValue, Put
from peerjob.store.kv.format.keys import Keys, below
from peerjob.store.kv.format.rows import Answers, decode_answers, encode
from peerjob.store.kv.format.unreadable import WRITTEN_ANEW, Unreadable

_MAX_KNOWN = 10_000


class AnswerLog(msgspec.Struct, gc=False):
    """The stored answers to one request, and the parts that are still to be written."""

    prefix: str
    request: str
    revisions: dict[int, int]
    """Number of a part → revision at which that part was last written; the next write of the
    part compares the revision."""
    parts: list[Answers]
    """Answers that an earlier run of the same request stored; a repeated request returns the same answers."""
    used: int = 0
    """The number that the next part of the answers gets."""
    now_us: int = 0
    next_due_us: int | None = None
    guarded: bool = False
    """Whether a change is applied only if no other run of the same request has written the same part of the answers."""
    extra: tuple[tuple[int, str], ...] = ()
    """Answers to outcomes that change no instance. The next part of the log stores those
    answers, because no transaction does."""

    @property
    def answers(self) -> dict[int, str]:
        """Earlier answers, by index in the batch."""
        return dict(pair for part in self.parts for pair in part.answers)

    def part(self) -> AnswerLogPart:
        """The next part, for one request. Several requests may be in flight."""
        number, extra = self.used, self.extra
        self.used, self.extra = number + 1, ()
        return AnswerLogPart(self, number, extra)


class AnswerLogPart:
    """One part of the answers, written by one request."""

    def __init__(self, answer_log: AnswerLog, number: int, extra: tuple[tuple[int, str], ...]) -> None:
        self._answer_log = answer_log
        self._number = number
        self._extra = extra
        self._key = f"{answer_log.prefix}{number:03d}"
        self.guarded = answer_log.guarded

    def guard(self) -> Compare:
        """A compare that holds if no other run of the request has written this part of the answers."""
        return Compare(self._key, mod=self._answer_log.revisions.get(self._number, 0))

    def put(self, answers: Iterable[tuple[int, str]], lease: int) -> Put:
        """The write of this part."""
        answer_log = self._answer_log
        kept = Answers(answer_log.request, (*self._extra, *answers), answer_log.now_us, answer_log.next_due_us)
        return Put(self._key, encode(kept), lease)

    def written(self, revision: int) -> None:
        """Remember that this part was written."""
        self._answer_log.revisions[self._number] = revision

    def unused(self) -> None:
        """Remember that this part is not written, so another part stores its answers."""
        self._answer_log.extra += self._extra


class AnswerLogs:
    """Opens answer logs, from memory if this store wrote the last part."""

    def __init__(self, kv: KeyValue, keys: Keys, unreadable: Unreadable) -> None:
        self._kv = kv
        self._keys = keys
        self._unreadable = unreadable
        self._known: dict[str, tuple[str, dict[int, int]]] = {}

    async def open(self, incarnation: str, verb: str, request: str) -> AnswerLog:
        """The answer log of a verb, with the answers of an earlier run of the request."""
        prefix = self._keys.answers(incarnation, verb)
        last, revisions = self._known.get(prefix, ("", {}))
        answer_log = AnswerLog(prefix, request, dict(revisions), [])
        if last in ("", request):
            await self.refresh(answer_log)
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
        self._known[prefix] = (request, answer_log.revisions)
        return answer_log

    async def refresh(self, answer_log: AnswerLog) -> None:
        """Read the stored parts."""
        (answer,) = await self._kv.read([below(answer_log.prefix)])
        answer_log.revisions.clear()
        answer_log.parts = []
        for key, entry in answer.items:
            number = int(key[len(answer_log.prefix) :])
            answer_log.revisions[number] = entry.mod
            # an unreadable part counts as absent: the repeated request decides by the records of the instances
            part = self._unreadable.read(key, entry, decode_answers, WRITTEN_ANEW)
            if part is not None and part.request == answer_log.request:
                answer_log.parts.append(part)
                answer_log.used = max(answer_log.used, number + 1)
