"""What durable bodies write down outside the store: the input of the checker, beside their runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from peerjob.model.durable import When


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A value that a step returned to a body."""

    id: str
    name: str
    value: object


@dataclass(kw_only=True)
class Waited:
    """One call of a wait for a signal or a time."""

    id: str
    name: str
    fence: int
    called_us: int
    ended_us: int = 0
    delay_us: int | None
    """None: a wait without a timeout."""
    is_suspend: bool = False
    """Whether it waits for a time alone."""
    outcome: Literal["", "suspended", "timed out", "value"] = ""
    """"" without an end: the node was killed, or the body was cancelled."""
    value: object = None


@dataclass(frozen=True, kw_only=True)
class Awaited:
    """Children that a body went on after."""

    parent: str
    fence: int
    at_us: int
    ids: tuple[str, ...]
    results: tuple[object, ...] | None
    """The results of all; None if one of them did not complete."""


@dataclass(frozen=True, kw_only=True)
class Signalled:
    """The answer to a caller that gave a value."""

    id: str
    name: str
    value: object
    accepted: bool


@dataclass(frozen=True, kw_only=True)
class Member:
    """A member of a flow: what it needs, by the ids of other members."""

    id: str
    needs: tuple[tuple[str, When], ...]
    optional: bool


@dataclass(kw_only=True)
class DurableEvidence:
    """All that is written down about steps, waits, children and flows; and what the store has of them at the end."""

    kept: list[Kept] = field(default_factory=list[Kept])
    waits: list[Waited] = field(default_factory=list[Waited])
    awaited: list[Awaited] = field(default_factory=list[Awaited])
    children: dict[tuple[str, str], set[str]] = field(default_factory=dict[tuple[str, str], set[str]])
    """Parent and name → the ids that bodies got for the child."""
    signals: list[Signalled] = field(default_factory=list[Signalled])
    flows: dict[str, tuple[Member, ...]] = field(default_factory=dict[str, tuple[Member, ...]])
    """Instance that runs a flow → its members."""
    written: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    """Instance → its steps and signals: the first value that was written under each name."""
    steps: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    """The same, as the store has them at the end, of the instances that it has."""
    deadlines: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    """Instance → the times of its waits, as they were written."""
    broken: dict[str, None] = field(default_factory=dict[str, None])
    """What did not hold in the store after an operation: the texts, in order."""
    unsettled: list[str] = field(default_factory=list[str])
    """Keys at rest of what is to be settled, and of needs."""
    unexpired: list[str] = field(default_factory=list[str])
    """Instances that stay although their retention is over, and their parents are final."""
