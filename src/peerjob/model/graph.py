"""The stored form of a flow: the arguments of the instance that runs it.

Members of a flow are often alike, so the options of a call are stored once for all members that have them. The
arguments of the members can have secrets, so they are stored apart from the graph, which views show.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Annotated, Any

import msgspec

from .codec import decode_value, encode_value
from .durable import MAX_EDGES, MAX_MEMBERS, Need, When
from .errors import DecodeError
from .ids import child_id
from .record import Count
from .secret import Secret
from .spec import reader


class CallOptions(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What a member has besides its arguments and its needs; the names are those of `NewInstance` and `Spec`."""

    kind: str
    priority: int
    tags: tuple[str, ...]
    retention_us: int | None
    max_crashes: int
    limit_key: str
    key_concurrency: int
    overrides: bytes
    """`Spec.overrides`, encoded: they have values of any type, so they are checked apart from the graph."""
    version: int


class StoredMember(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One member: the place of its options in the graph, and what it needs."""

    options: Count
    needs: tuple[Count, ...]
    """Twice the number of a needed member, which is lower than the own one; plus one if it must only be over."""
    optional: bool

    def needed(self) -> list[tuple[int, When]]:
        """Number of a needed member, and what it must be."""
        return [(need >> 1, "ended" if need & 1 else "completed") for need in self.needs]


class Graph(msgspec.Struct, frozen=True, array_like=True):
    """A flow as it is stored."""

    options: tuple[CallOptions, ...]
    members: Annotated[tuple[StoredMember, ...], msgspec.Meta(max_length=MAX_MEMBERS)]

    def kind(self, number: int) -> str:
        """The kind of a member."""
        return self.options[self.members[number].options].kind

    def kinds(self) -> frozenset[str]:
        """The kinds of all members."""
        return frozenset(options.kind for options in self.options)

    def name(self, number: int) -> str:
        """The name of a member in errors and views, as `Member.name`."""
        return f"{self.kind(number)}/{number}"

    def last_members(self) -> list[int]:
        """The numbers of the members that no other member needs."""
        needed = {need >> 1 for member in self.members for need in member.needs}
        return [number for number in range(len(self.members)) if number not in needed]


def member_id(flow: str, number: int) -> str:
    """The id of a member of the instance that runs a flow."""
    return child_id(flow, f"member/{number}")


def needs_of(member: StoredMember, flow: str, kept: Container[int]) -> tuple[Need, ...]:
    """The needs of a member, for the store, without those whose results the flow has kept."""
    return tuple(Need(member_id(flow, number), when) for number, when in member.needed() if number not in kept)


# a graph has no values of any type, so the numbers of its members and needs are the only bounds that it needs
_read_graph = reader(Graph, "stored flow")
read_overrides = reader(dict[str, Any], "stored options of a member", open=True)
_read_arguments = reader(list[bytes], "stored arguments of a flow")
_encode = msgspec.msgpack.Encoder().encode


def encode_graph(graph: Graph) -> bytes:
    """Encode a graph for storage."""
    return _encode(graph)


def encode_overrides(overrides: dict[str, Any]) -> bytes:
    """Encode `Spec.overrides`; `read_overrides` reads them."""
    return _encode(overrides)


def encode_members(arguments: Sequence[bytes]) -> bytes:
    """Encode the arguments of all members, by number."""
    return _encode(arguments)


def decode_members(data: bytes, graph: Graph) -> list[bytes]:
    """Read what `encode_members` wrote; raises DecodeError."""
    arguments = _read_arguments(data)
    if len(arguments) != len(graph.members):
        raise DecodeError(f"stored flow cannot be read: {len(graph.members):,} members, {len(arguments):,} arguments")
    return arguments


def decode_graph(data: bytes) -> Graph:
    """Read a stored graph; raises DecodeError, also for a graph whose numbers point to nothing."""
    graph = _read_graph(data)
    edges = 0
    for number, member in enumerate(graph.members):
        edges += len(member.needs)
        if member.options >= len(graph.options) or any(need >> 1 >= number for need in member.needs):
            raise DecodeError(f"stored flow cannot be read: member {number} needs what comes later or does not exist")
    if edges > MAX_EDGES:
        raise DecodeError(f"stored flow cannot be read: {edges:,} needs, over the limit of {MAX_EDGES:,}")
    return graph


def shown_flow(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of the instance that runs a flow, for people: counts in place of the graph; raises DecodeError."""
    match args:
        case (name, bytes() as data, arguments):
            members = decode_graph(data).members
            return name, {"members": len(members), "needs": sum(len(member.needs) for member in members)}, arguments
        case _:
            return args


KEPT = "kept/"
"""The beginning of the names of the steps in which a flow keeps results of the flow that it repeats."""


def encode_kept(results: dict[int, bytes]) -> bytes:
    """Encode results of members, by number, as the value of a step. A result can have secrets, so views hide it."""
    return encode_value([part for number, result in results.items() for part in (number, Secret(result))])


def kept_results(value: bytes) -> dict[int, bytes]:
    """Read what `encode_kept` wrote; raises DecodeError."""
    parts = decode_value(value)
    return dict(zip(parts[::2], parts[1::2], strict=True))
