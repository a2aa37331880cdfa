"""The states of an instance, their wire numbers, and the transitions between them."""

from __future__ import annotations

from enum import IntEnum, IntFlag


class State(IntFlag):
    """State of an instance. In a query, a composite member matches each of its parts."""

    UNSET = 0
    CREATED = 1
    SCHEDULED = 2
    PROCESSING = 4
    CANCELLED = 8
    TIMED_OUT = 16
    COMPLETED = 32
    TERMINATED = 64

    INITIAL = CREATED
    SUCCESS = COMPLETED
    ACTIVE = SCHEDULED | PROCESSING
    ERROR = CANCELLED | TIMED_OUT | TERMINATED
    FINAL = ERROR | COMPLETED
    ALL = CREATED | ACTIVE | FINAL

    @property
    def is_final(self) -> bool:
        """Whether no transition leaves this state."""
        number = int(self)
        return number > 0 and not number & ~_FINAL

    def parts(self) -> tuple[State, ...]:
        """Return the single states in this state, by number."""
        return tuple(single for single in SINGLE if single & self)

    def __str__(self) -> str:
        name = _TEXT.get(int(self))
        return name if name is not None else "|".join(_TEXT[int(part)] for part in self.parts())

    def __format__(self, spec: str) -> str:
        return format(str(self) if not spec or spec[-1] not in "bcdoxX" else int(self), spec)

    @classmethod
    def parse(cls, text: str) -> State:
        """Parse the text or alias of a state, in any case, such as "Completed", "timedout" or "final"."""
        state = _BY_TEXT.get(text.replace("_", "").replace(" ", "").casefold())
        if state is None:
            raise ValueError(f"unknown state {text!r}; expected one of {', '.join(sorted(_NAMES.values()))}")
        return state


# each record that is read needs it, and operators of states are slow
_FINAL = int(State.FINAL)
SINGLE: tuple[State, ...] = (
    State.CREATED,
    State.SCHEDULED,
    State.PROCESSING,
    State.CANCELLED,
    State.TIMED_OUT,
    State.COMPLETED,
    State.TERMINATED,
)

_TEXT: dict[int, str] = {
    0: "Unset",
    1: "Created",
    2: "Scheduled",
    4: "Processing",
    8: "Cancelled",
    16: "TimedOut",
    32: "Completed",
    64: "Terminated",
    int(State.ALL): "All",
}
_NAMES: dict[State, str] = {State(number): text for number, text in _TEXT.items()} | {
    State.ACTIVE: "Active",
    State.ERROR: "Error",
    State.FINAL: "Final",
}
_BY_TEXT: dict[str, State] = {text.casefold(): state for state, text in _NAMES.items()} | {
    "initial": State.CREATED,
    "success": State.COMPLETED,
}

ARROWS: dict[State, State] = {
    State.UNSET: State.CREATED,
    State.CREATED: State.SCHEDULED,
    State.SCHEDULED: State.PROCESSING | State.CANCELLED | State.TERMINATED,
    State.PROCESSING: State.SCHEDULED | State.FINAL,
    State.CANCELLED: State.UNSET,
    State.TIMED_OUT: State.UNSET,
    State.COMPLETED: State.UNSET,
    State.TERMINATED: State.UNSET,
}
"""For each single state: the states to which an instance can change next."""


class Level(IntEnum):
    """Level of a log line, with go-job's numbers. In a query, combine levels with `|`."""

    INFO = 1
    ERROR = 2
    WARN = 4
    DEBUG = 8

    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        return format(self.name if not spec or spec[-1] not in "bcdoxX" else int(self), spec)
