"""Compares two answers field by field, by the rules of the oracle.

*Time*: two times are the same if they differ by no more than the longest call so far; on a clock that stands still
during calls they must be equal. *Names*: see `names`. *Choice*: what the engine chose is followed before an answer is
compared (`choices`), so that nothing of it is left here but the fields in `_ANYTHING`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, cast

import msgspec

from peerjob.model.firing import Leader, Term
from peerjob.model.record import MAX_HISTORY, Claim, Held, Record, Renewed
from peerjob.store.kv.format.rows import HISTORY_BYTES

from .names import Side

_TIMES = {"at_us", "due_us", "now_us", "next_due_us", "created_us", "updated_us", "since_us", "opens_us"}
_OF_LEASES = {"renewed_us", "expires_us"}
_ANYTHING = {
    "cursor",  # opaque: walks are compared instead
    "age_us",  # only the views of a manager have it
    "ahead_us",  # the clocks of nodes are not part of a program
    "clock_known",
    "work_due",  # the rule of hints
    "reap_in_us",  # the rule of hints
    "settling",  # compared as a number of `health`, after all was settled
}


ENTRY_BYTES = 30
"""The most bytes of a history entry beside its texts, as an engine counts them."""


class Time(msgspec.Struct, frozen=True):
    """A time, in an answer that is to be compared."""

    us: int
    of_lease: bool = False


class Raised(msgspec.Struct, frozen=True):
    """A call that raised an error of this class."""

    error: str
    text: str = ""


def plain(value: Any, side: Side) -> Any:
    """An answer without the numbers of its store: dicts, lists and single values."""
    if isinstance(value, Time):
        return value
    if isinstance(value, Raised):
        return {"raised": value.error}
    if isinstance(value, Leader):
        return {"incarnation": value.incarnation, "name": value.name, "term": side.term_of(_pair(value.term))}
    if isinstance(value, msgspec.Struct):
        return dict(_fields(value, side))
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, side) for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))}
    if isinstance(value, (list, tuple)):
        return [plain(item, side) for item in cast("list[Any]", value)]
    return value


def _pair(term: Term) -> tuple[str, int]:
    return term.coordinator, term.number


def _fields(value: msgspec.Struct, side: Side) -> Iterator[tuple[str, Any]]:
    for name in value.__struct_fields__:
        item = getattr(value, name)
        if name in _ANYTHING or (name == "now_us" and getattr(value, "dead", False)):
            continue
        if name == "fence" and isinstance(value, (Claim, Record, Held)):
            yield name, side.claim_of(value.id, value.fence)
        elif name == "revision":
            yield name, side.place_of(item)
        elif name in _TIMES or name in _OF_LEASES:
            yield name, Time(item, name in _OF_LEASES) if item else item
        elif name == "note" and str(item).startswith("needs "):
            # *Choice*: of several needs that failed, which one the note names
            yield name, "needs another, which failed"
        elif isinstance(value, Renewed) and name in ("held", "cancelled") and item is not None:
            yield name, sorted((plain(one, side) for one in item), key=str)
        else:
            yield name, plain(item, side)


class Comparison:
    """Compares plain answers; `slack_us` is how much two times may differ."""

    def __init__(self, slack_us: int, lease_slack_us: int) -> None:
        self._slack_us = slack_us
        self._lease_slack_us = lease_slack_us

    def differences(self, wanted: Any, found: Any, where: str) -> list[str]:
        """Where the engine's answer is not that of the reference, in words; at most ten."""
        return [text for _, text in zip(range(10), self._walk(wanted, found, where), strict=False)]

    def _walk(self, wanted: Any, found: Any, where: str) -> Iterator[str]:
        if isinstance(wanted, dict) and isinstance(found, dict):
            ours, theirs = cast("dict[str, Any]", wanted), cast("dict[str, Any]", found)
            for key in sorted(ours.keys() | theirs.keys(), key=str):
                walk = self._histories if key == "history" else self._walk
                yield from walk(ours.get(key), theirs.get(key), f"{where}.{key}")
        elif isinstance(wanted, list) and isinstance(found, list):
            if len(wanted) != len(found):
                yield f"{where}: reference {shown(_brief(wanted))}, engine {shown(_brief(found))}"
                return
            for number, (one, other) in enumerate(zip(wanted, found, strict=True)):
                yield from self._walk(one, other, f"{where}[{number}]")
        elif isinstance(wanted, Time) and isinstance(found, Time):
            slack_us = self._slack_us + (self._lease_slack_us if wanted.of_lease else 0)
            if abs(wanted.us - found.us) > slack_us:
                yield f"{where}: reference {wanted.us}, engine {found.us} ({found.us - wanted.us:+} µs)"
        elif wanted != found:
            yield f"{where}: reference {shown(wanted)}, engine {shown(found)}"

    def _histories(self, wanted: Any, found: Any, where: str) -> Iterator[str]:
        """*Choice*: how many of the oldest entries an engine joins into one, which counts them."""
        if len(wanted) != len(found):
            counts = [sum(entry["count"] for entry in side) for side in (wanted, found)]
            kept = min(len(wanted), len(found)) - 1
            if counts[0] != counts[1] or kept < _never_joined(wanted):
                yield f"{where}: reference {counts[0]} in {len(wanted)}, engine {counts[1]} in {len(found)} entries"
                return
            wanted, found = wanted[-kept:], found[-kept:]
        yield from self._walk(wanted, found, where)


def _never_joined(history: list[dict[str, Any]]) -> int:
    """How many of the latest entries each engine keeps one by one."""
    size = 0
    for number, entry in enumerate(reversed(history[1:])):
        size += ENTRY_BYTES + len(entry["node"].encode()) + len(entry["note"].encode())
        if size > HISTORY_BYTES or number == MAX_HISTORY - 2:
            return number
    return len(history) - 1


def _brief(items: list[Any]) -> list[Any]:
    """The ids of items that have one."""
    return [cast("dict[str, Any]", item).get("id", item) if isinstance(item, dict) else item for item in items]


def shown(value: Any) -> str:
    """A value in a difference, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:400]}… ({len(text):,} characters)"
