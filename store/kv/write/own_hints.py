"""Hints to incarnations whose hints this store itself watches: they need no key, and no request.

A hint to another store is a key, which its watch reports, and which it deletes. A node mostly tells itself: it ends the
instances that its own callers wait for, and its own callers wake it.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager

from peerjob.model.record import Record
from peerjob.store.kv.format.base import Watch
from peerjob.store.kv.format.rows import Row
from peerjob.store.kv.format.views import to_record

_MAX_WAITS = 10_000
_MAX_RECORDS = 500


class OwnHints:
    """The watches of a store, and the hints that they need not report."""

    def __init__(self) -> None:
        self.watches: dict[str, Watch] = {}
        """Incarnation → the watch of its hints."""
        self._told: dict[str, dict[str, None]] = {}
        self._waits: dict[str, set[str]] = {}
        self._records: dict[str, Record] = {}
        """The records of ended instances for which an incarnation waits, unless parts have keys of their own."""
        self._idle: dict[str, tuple[Collection[str], int]] = {}
        """Incarnation → the kinds of its registration as idle (none while limits hold some back), and the revision."""
        self._woken: dict[str, str] = {}
        """Incarnation → the kind for which it was woken by its own store, or ""."""
        self._running: dict[str, set[str]] = {}
        """Incarnation → the instances that it has claimed, and whose end this store has not written."""

    def tell(self, incarnation: str, hint: str) -> bool:
        """Hint to an incarnation, by the part of the key below its prefix; False if it must be written as a key."""
        if incarnation not in self.watches:
            return False
        self.keep(incarnation, hint)
        return True

    def keep(self, incarnation: str, hint: str) -> None:
        """Hint to an incarnation as a request relied on; if its watch has ended since, its next call has the hint."""
        self._told.setdefault(incarnation, {})[hint] = None
        if (watch := self.watches.get(incarnation)) is not None:
            watch.wake()

    @contextmanager
    def relied_on(self, hints: Sequence[tuple[str, str]]) -> Generator[None]:
        """A request that relies on hints: if it fails or is cancelled, it may have been applied, so they are given."""
        try:
            yield
        except GeneratorExit:
            raise  # Python destroys the caller because its event loop was closed
        except BaseException:
            for incarnation, hint in hints:
                if hint == "work/":
                    self.is_woken(incarnation)
                self.keep(incarnation, hint)
            raise

    def has(self, incarnation: str) -> bool:
        """Whether there are hints to an incarnation since the last `take`."""
        return incarnation in self._told

    def take(self, incarnation: str) -> list[str]:
        """The hints to an incarnation since the last call."""
        return list(self._told.pop(incarnation, ()))

    def waits(self, id: str, incarnation: str) -> None:
        """Remember that an incarnation is registered for the end of an instance."""
        if incarnation in self.watches:
            if len(self._waits) >= _MAX_WAITS:
                self._waits.clear()  # the ends of these instances are hinted by what the server has stored
            self._waits.setdefault(id, set()).add(incarnation)

    def waiting(self, id: str) -> list[str]:
        """The incarnations that are registered for the end of an instance, as far as this store knows."""
        return sorted(self._waits.get(id, ()))

    def ends(self, ids: Iterable[str]) -> list[tuple[str, str]]:
        """The hints about the ends of some instances."""
        return [(incarnation, f"final/{id}") for id in ids for incarnation in self.waiting(id)]

    def forget(self, id: str) -> None:
        """Forget an instance that has ended."""
        self._waits.pop(id, None)

    def ended(self, id: str, row: Row) -> None:
        """Hint the end of an instance, whose transaction has deleted the registrations that `waiting` names."""
        hints = self.ends((id,))
        if hints and not (row.spec is None or row.has_out or row.has_progress):
            if len(self._records) >= _MAX_RECORDS:
                del self._records[next(iter(self._records))]
            self._records[id] = to_record(id, row, row.spec, None, None)
        for hint in hints:
            self.keep(*hint)
        self.forget(id)

    def take_records(self, ids: Iterable[str]) -> dict[str, Record | None]:
        """The records of ended instances that this store has written and not given yet, by id."""
        return {id: self._records.pop(id) for id in ids if id in self._records}

    def has_left(self, incarnation: str) -> None:
        """Forget an incarnation that has left."""
        for known in (self._told, self._idle, self._woken, self._running):
            known.pop(incarnation, None)

    # -- idle incarnations ----------------------------------------------------------------------------------------

    def is_idle(self, incarnation: str, kinds: Collection[str], revision: int) -> None:
        """Remember that an incarnation is registered as idle."""
        self._idle[incarnation] = kinds, revision
        self._woken.pop(incarnation, None)

    def is_woken(self, incarnation: str, kind: str = "") -> None:
        """Remember that an incarnation is not registered as idle, or may not be."""
        if self._idle.pop(incarnation, None) is not None:
            self._woken[incarnation] = kind

    def left(self, incarnation: str, kinds: Mapping[str, int]) -> str:
        """The kind for which its own store has woken an incarnation that claims only `kinds` now; "" if there is none.

        Without its wake-up, a node that still runs the kind would have been woken.
        """
        kind = self._woken.get(incarnation, "")
        if kind and kinds.get(kind, 0) > 0:
            kind = self._woken[incarnation] = ""
        return kind

    def is_passed_on(self, incarnation: str) -> None:
        """Remember that another node was woken for the kind that `left` has given."""
        self._woken[incarnation] = ""

    def was_woken(self, incarnation: str) -> bool:
        """Whether its last registration as idle has probably ended."""
        return incarnation in self._woken

    def claimed(self, incarnation: str, ids: Iterable[str]) -> None:
        """Remember that an incarnation runs instances."""
        self._running.setdefault(incarnation, set()).update(ids)

    def over(self, incarnation: str, ids: Iterable[str]) -> None:
        """Remember that runs of an incarnation have ended."""
        if running := self._running.get(incarnation):
            running.difference_update(ids)

    def sleeper(self, kind: str) -> tuple[str, int] | None:
        """An incarnation that is idle, runs nothing, and can run this kind; with the revision of its registration.

        While an incarnation runs something, the longest idle one of all stores is woken instead.
        """
        for incarnation, (kinds, revision) in self._idle.items():
            if kind in kinds and incarnation in self.watches and not self._running.get(incarnation):
                return incarnation, revision
        return None
