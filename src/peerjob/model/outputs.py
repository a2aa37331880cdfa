"""What stands for the result of a member of a flow: in the code that makes the flow, and in stored arguments."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NoReturn, Protocol

import msgspec

from .errors import EncodeError


class Ref(msgspec.Struct, frozen=True, gc=False):
    """The stored form of an output: the number of a member in its flow, and whether its end counts instead."""

    member: int
    ended: bool = False

    def __repr__(self) -> str:
        return f"<{'end' if self.ended else 'output'} of member {self.member}>"


class Taker(Protocol):
    """Makes stored references of outputs while it encodes the arguments of a member."""

    def take(self, output: Output | Ref) -> Ref:
        """Remember that the member needs this output; raises EncodeError for an output of another flow."""
        ...


taker: ContextVar[Taker | None] = ContextVar("peerjob_outputs", default=None)
"""What takes the outputs among the arguments that are encoded now; None outside of a flow."""


def taken(output: Output | Ref) -> Ref:
    """The stored form of an output, for the codec; raises EncodeError outside of a flow."""
    taking = taker.get()
    if taking is None:
        raise EncodeError((), f"{output!r} is known only in a flow: pass it to Flow.add")
    return taking.take(output)


class Output:
    """Stands for the result of a member; see `Member.output`. Any use as a value raises TypeError."""

    __slots__ = ("ended", "flow", "member", "name")

    def __init__(self, flow: object, member: int, name: str, *, ended: bool) -> None:
        self.flow = flow
        self.member = member
        self.name = name
        """The flow and the member, for errors."""
        self.ended = ended

    def __repr__(self) -> str:
        return f"<{'end' if self.ended else 'output'} of {self.name}>"

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        self._refuse()

    def _refuse(self, *_args: object) -> NoReturn:
        raise TypeError(f"{self!r} has no value yet: it stands for a value in the arguments of another member")


_VALUES = (
    "bool len iter next contains getitem setitem delitem call eq ne lt le gt ge hash str format bytes int float index "
    "complex round abs neg pos invert add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow "
    "and rand or ror xor rxor lshift rshift await aiter enter exit aenter aexit fspath reversed"
)
for _name in _VALUES.split():
    setattr(Output, f"__{_name}__", Output._refuse)  # pyright: ignore[reportPrivateUsage]  # of this module
