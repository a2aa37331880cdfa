"""What a random program of contract calls is: data that can be printed, kept, replayed and made smaller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from peerjob.model.record import StoreLimits

NOTHING = "nothing"
"""The verb of an operation that was left out."""


class Op(msgspec.Struct, frozen=True, array_like=True):
    """One operation: a verb of the contract or of the oracle, what it takes, and what happens to its call."""

    verb: str
    given: dict[str, Any] = {}
    how: str = ""
    """"": the call is made once. "repeated": its answer is lost, and the caller sends it again. "cancelled": the caller
    gives up while the call is under way, and sends it again."""


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run depends on, except the choices of the engine."""

    seed: int
    limits: StoreLimits = StoreLimits()
    ops: tuple[Op, ...]

    def without(self, start: int, stop: int) -> Program:
        """The program without some operations. Ids come from the places of operations, so the rest keeps its ids."""
        kept = tuple(Op(NOTHING) if start <= number < stop else op for number, op in enumerate(self.ops))
        return msgspec.structs.replace(self, ops=kept)

    @property
    def size(self) -> int:
        """The number of operations, with those that are left out."""
        return len(self.ops)

    def is_left_out(self, number: int) -> bool:
        return self.ops[number].verb == NOTHING

    @property
    def operations(self) -> int:
        """The number of operations that are not left out."""
        return sum(op.verb != NOTHING for op in self.ops)

    def to_json(self) -> str:
        """The program as JSON text, one operation a line; `from_json` reads it."""
        head = {"seed": self.seed, "limits": self.limits}
        ops: Sequence[str] = [msgspec.json.encode(op).decode() for op in self.ops]
        return msgspec.json.encode(head).decode()[:-1] + ',"ops":[\n' + ",\n".join(ops) + "\n]}\n"


def from_json(text: str) -> Program:
    """Read what `to_json` wrote."""
    return msgspec.json.decode(text, type=Program)
