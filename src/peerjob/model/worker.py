"""`Worker`: the part of a worker that a job can see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .injected import Injectable, Injection


@dataclass(frozen=True, kw_only=True)
class Worker(Injectable):
    """A slot of a node; it runs one instance at a time."""

    injected_as: ClassVar[Injection] = "worker"

    number: int
    node: str
    instance: str | None = None
    """Id of the instance that the worker runs, or None."""
    kind: str | None = None
    stuck: bool = False
    """Whether the worker's body was told to end and still runs, or the body's processors do not return."""

    @classmethod
    def detached_value(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Worker:
        return cls(number=0, node="")
