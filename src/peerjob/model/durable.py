"""Steps, waits and children of an instance, as a store keeps them.

A *step* is a named value of an instance that is kept once. A *signal* is a step that comes from outside: its stored
name begins with SIGNAL_MARK. A *child* is an instance that a running instance, its *parent*, made. A child can *need*
other children of the same parent.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import StrEnum
from typing import Literal

import msgspec

SIGNAL_MARK = "!"
"""The first character of the stored name of a signal. The name of a step begins with another character."""
AGAIN = re.compile(r"@[0-9]+\Z")
"""The end of the stored name of a value in place of one that does not fit. No user can give such a name."""
MAX_STEP_NAME = 200
"""Most characters in the name of a step, a signal, a wait or a child, without SIGNAL_MARK and AGAIN."""
MAX_STEPS = 1_000
"""Most steps of an instance; signals are not among them."""
MAX_SIGNALS = 100
"""Most signals of an instance."""
MAX_AWAITED_BYTES = 1_024
"""Most bytes in the names of the signals that one wait awaits, with one byte between two names."""
MAX_STEP_BYTES = 1 << 20
"""Most bytes of one value."""
MAX_ALL_STEP_BYTES = 16 << 20
"""Most bytes of all values of an instance, signals included."""
MAX_STEPS_CALL = 50
"""Most steps in one outcome."""
MAX_CHILDREN_CALL = 200
"""Most children in one call of `spawn`."""
MAX_NEEDS_CALL = 500
"""Most needs in one call of `spawn`, or in one outcome."""
MAX_MEMBERS = 10_000
"""Most members of a flow."""
MAX_EDGES = 50_000
"""Most pairs of a member and a member that it needs, in one flow."""
MAX_RESTORED_STEPS = 500
"""Most steps and signals in one call of `restore`."""
MAX_SETTLED = 100
"""Most edges and children that one command settles."""

FLOW_KIND = "peerjob.flow"
"""The kind of the instances that run flows. A namespace below layout 4 has none of them, and no user has the kind."""

FLOW_MADE = "made"
"""The step of a flow that says that all members are made, with what they need."""

When = Literal["completed", "ended"]
"""What the needed child must be: Completed, or over in any final state."""


class Step(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A value under its stored name."""

    name: str
    value: bytes


class StepPage(msgspec.Struct, frozen=True):
    """A page of the steps of an instance, and the cursor of the next page; None on the last page."""

    steps: tuple[Step, ...] = ()
    cursor: str | None = None


class Need(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A child of the same parent that must be over first. Over: final, and no body of it runs any more."""

    id: str
    when: When = "ended"


class Wait(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a suspended instance waits for: it enters its queue as soon as one of these is true.

    At least one is given.
    """

    signals: tuple[str, ...] = ()
    """The names of signals, without marks: one of them is there."""
    until_us: int | None = None
    """The time has come, by the clock that decides about due times."""
    needs: bool = False
    """None of the needs that were given under this fence is left."""

    @property
    def names(self) -> list[str]:
        """The names of the signals, as callers give them."""
        return [AGAIN.sub("", name) for name in self.signals]


def size_of_names(signals: Collection[str]) -> int:
    """The bytes of the names of signals, with one byte between two names."""
    return len("\0".join(signals).encode())


class SignalAnswer(StrEnum):
    """Answer to a signal."""

    ACCEPTED = "accepted"
    """The value is written by this call."""
    SAME = "same"
    """The name had this value already: nothing changed."""
    OTHER = "other"
    """The name has another value, which stays."""
    UNKNOWN = "unknown"
    """There is no such instance."""
    FINAL = "final"
    """The instance is final, and the name has no value."""
    FULL = "full"
    """The instance has MAX_SIGNALS signals, or MAX_ALL_STEP_BYTES would be exceeded: nothing is written."""
