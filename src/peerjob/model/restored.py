"""An instance on its way from another store, with what the enqueue of a new one does not have."""

from __future__ import annotations

import msgspec

from .durable import Step, Wait
from .record import NewInstance
from .state import State


class Restored(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An instance of another store, with what it had there besides its counts."""

    instance: NewInstance
    parent: str = ""
    """The instance that made this one as its child. It is open, and comes in an earlier call."""
    steps: tuple[Step, ...] = ()
    """Its steps and signals by stored name, or a part of them; at most MAX_STEPS_CALL and MAX_STEP_BYTES."""
    wait: Wait | None = None
    """What it waits for: a signal, a time or both. None: it enters its queue, unless it is open."""
    open: bool = False
    """Whether a later call brings more steps, or its children. Until the call without `open`, it does not run."""
    state: State = State.SCHEDULED
    """A final state only for a child, which then has no steps and no wait."""
    result: bytes | None = None
    """Only in a final state; so also `error`."""
    error: bytes | None = None
