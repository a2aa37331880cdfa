"""What an idle node read when it registered as idle, for the renewals of its lease.

A renewal reads the same ranges again, in the request that it sends anyway. If the answers are equal, the registration
still stands, so that new work causes a hint, and no instance is due that causes none. If they differ, the node claims.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from peerjob.store.kv.format.base import Found, Range


class LimitSign(Protocol):
    """Tells whether instances may go that limits held back at the registration."""

    @property
    def reads(self) -> Sequence[Range]: ...

    def may_go(self, answers: Sequence[Found]) -> bool:
        """Whether they may, by the answers to `reads`."""
        ...


class IdleSign(msgspec.Struct, frozen=True):
    """The registration of an idle incarnation, and what was in its queues."""

    incarnation: str
    key: str
    revision: int
    """The revision at which the registration was written."""
    layout: int
    """The revision of the layout then. A new layout can bring kinds whose queues the claim did not read."""
    ranges: Sequence[Range]
    """The reads that find new instances."""
    answers: Sequence[Found]
    closed: LimitSign | None = None
    """What holds back other instances of the incarnation."""

    @property
    def reads(self) -> list[Range]:
        """The registration, and the reads that find new instances."""
        held_back = () if self.closed is None else self.closed.reads
        return [Range(self.key, keys_only=True), *self.ranges, *held_back]

    def holds(self, read: Sequence[Found], layout: int) -> bool:
        """Whether the answers to `reads`, and the revision of the layout, are as they were at the registration."""
        registration, answers = read[0], read[1 : 1 + len(self.ranges)]
        return (
            [entry.mod for _, entry in registration.items] == [self.revision]
            and layout == self.layout
            and _texts(answers) == _texts(self.answers)
            and not (self.closed is not None and self.closed.may_go(read[1 + len(answers) :]))
        )


class IdleSigns:
    """The last sign of a store; the claims write it, and the thread that renews the lease reads it."""

    def __init__(self) -> None:
        self._sign: IdleSign | None = None

    def of(self, incarnation: str) -> IdleSign | None:
        """The sign of an incarnation; None if it is not idle, or has too many queues to read."""
        sign = self._sign
        return sign if sign is not None and sign.incarnation == incarnation else None

    def set(self, sign: IdleSign | None) -> None:
        """Store the sign of the incarnation that claimed last."""
        self._sign = sign


def _texts(answers: Sequence[Found]) -> list[tuple[int, list[tuple[str, int]]]]:
    return [(answer.count, [(key, entry.mod) for key, entry in answer.items]) for answer in answers]
