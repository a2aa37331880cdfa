"""`Stats`: counts of a namespace."""

from __future__ import annotations

from dataclasses import dataclass, field

from peerjob.model.state import State


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Counts of the whole namespace; reading them needs no scan."""

    counts: dict[str, dict[State, int]] = field(default_factory=dict[str, dict[State, int]])
    """Number of instances by kind and state."""
    delayed: int = 0
    nodes: int = 0
    undecodable: int = 0
    """Number of records that the store set aside because they cannot be decoded."""
    settling: int = 0
    """Number of ends of instances whose effects on other instances are still to come; above 100, it may be less."""
    unserved: dict[str, int] = field(default_factory=dict[str, int])
    """Number of queued instances by kind, only for kinds that no live node can run."""

    def total(self, state: State = State.ALL, kind: str | None = None) -> int:
        """Count the instances in a state (composites too), of one kind or (None) of all."""
        kinds = self.counts.values() if kind is None else [self.counts.get(kind, {})]
        return sum(count for states in kinds for entered, count in states.items() if entered & state)
