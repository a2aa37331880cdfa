"""A worker, as a job may see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One slot of a node: runs one instance at a time."""

    number: int
    node: str
    instance: str | None = None
    """Id of the instance it runs, or None."""
    kind: str | None = None
    stuck: bool = False
    """Whether its body was told to end and does not, or its processors do not return."""
