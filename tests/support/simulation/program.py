"""What a random program is: data that can be printed, kept, replayed and made smaller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

FAULTS = ("kill", "stop", "restart", "freeze", "thaw", "partition", "heal", "skew", "fail", "slow")
"""The verbs of a program that are faults; the others are what users call."""


class Op(msgspec.Struct, frozen=True, array_like=True):
    """One operation: virtual seconds to wait before it, a verb, and what the verb takes."""

    gap: float
    verb: str
    given: dict[str, Any] = {}

    @property
    def is_fault(self) -> bool:
        return self.verb in FAULTS


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run depends on; the same program has the same trace."""

    seed: int
    nodes: int
    workers: int
    ttl: float
    kinds: int
    concurrency: int = 0
    """That of the limit that all kinds share; 0: they share none."""
    rate: str = ""
    key_concurrency: int = 0
    """That of the keys of each kind; 0: no key is limited."""
    durable: bool = False
    """Whether it has durable bodies."""
    latency: float = 0.0
    """Seconds for which a request to the store, and its answer, are under way on average."""
    ops: tuple[Op, ...]

    def without(self, start: int, stop: int) -> Program:
        """The program without some of its operations. Operations name earlier ones by number, so the rest stay put."""
        kept = tuple(Op(op.gap, "nothing") if start <= number < stop else op for number, op in enumerate(self.ops))
        return msgspec.structs.replace(self, ops=kept)

    @property
    def size(self) -> int:
        return len(self.ops)

    def is_left_out(self, number: int) -> bool:
        return self.ops[number].verb == "nothing"

    @property
    def faults(self) -> int:
        return sum(op.is_fault for op in self.ops)

    @property
    def operations(self) -> int:
        return sum(op.verb != "nothing" for op in self.ops)

    def to_json(self) -> str:
        """The program as JSON text, one operation a line; `from_json` reads it."""
        head = msgspec.structs.asdict(self)
        ops: Sequence[Op] = head.pop("ops")
        lines = ",\n".join(msgspec.json.encode(op).decode() for op in ops)
        return msgspec.json.encode(head).decode()[:-1] + f',"ops":[\n{lines}\n]}}\n'


def from_json(text: str) -> Program:
    """Read what `to_json` wrote."""
    return msgspec.json.decode(text, type=Program)
