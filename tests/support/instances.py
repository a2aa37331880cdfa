"""Instances as a manager shows them, of any state."""

from typing import Any

from peerjob.handles.instance import Instance
from peerjob.model.ids import IdSource
from peerjob.model.record import Record, Transition
from peerjob.model.spec import Progress, Spec, encode, encode_arguments
from peerjob.model.state import State
from peerjob.testing import VirtualClock

CLOCK = VirtualClock()
IDS = IdSource(CLOCK)


def an_instance(
    state: State, *, progress: Progress | None = None, node: str = "one", note: str = "", **record: Any
) -> Instance[None]:
    """An instance that has just entered a state; `record` has further fields of its record."""
    fields: dict[str, Any] = {
        "id": IDS.one(),
        "kind": "work",
        "state": state,
        "spec": encode(Spec(args=encode_arguments((), {}))),
        "priority": 5,
        "due_us": CLOCK.time_us(),
        "attempts": 1,
        "crashes": 0,
        "losses": 0,
        "fence": 1,
        "owner": "",
        "history": (Transition(state, CLOCK.time_us(), node, note),),
        "progress": None if progress is None else encode(progress),
    }
    return Instance(None, Record(**(fields | record)))
