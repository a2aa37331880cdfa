"""How calls of a kind are checked and completed on a node that lacks its code: by the descriptors of other nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peerjob.model.descriptor import Descriptor, signature_of
from peerjob.model.errors import ArgumentError
from peerjob.model.policy import make_policy
from peerjob.model.spec import encode_arguments
from peerjob.node.body.call_parameters import CallParameters, check_count


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedKind:
    """A kind that live nodes run."""

    kind: str
    descriptor: Descriptor
    """That of the latest build; empty if no node describes the kind."""
    schema: bytes
    nodes: tuple[str, ...]
    """The names of the first MAX_NAMES nodes."""
    node_count: int


class DescribedKind:
    """A kind by one descriptor."""

    def __init__(self, kind: str, descriptor: Descriptor) -> None:
        self.runs = descriptor.kind or kind
        """The kind that a node runs for it: another one for an alias."""
        self.options = descriptor.options
        self.policy = make_policy(self.options)
        self.version = descriptor.version
        self.has_key_function = descriptor.key_function
        self.has_limited_keys = descriptor.limit_key_function or descriptor.limit_key is not None
        self.parameters = CallParameters(kind, signature_of(descriptor))


@dataclass(frozen=True, kw_only=True, slots=True)
class KindRule:
    """What live nodes say about a kind; if there are none, what the last node said."""

    kind: str
    described: tuple[DescribedKind, ...] = ()
    """One for each build of the job: the highest version first, then the latest published."""
    is_complete: bool = False
    """Whether each live node of the kind is described. If not, another node may accept any call."""
    has_key_limit: bool = False
    """Whether the store says that the kind has a key limit; only asked for a kind that is not complete."""

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, DescribedKind | None]:
        """Encode the arguments of a call, with the first build that accepts them; raises ArgumentError if none can."""
        refused: ArgumentError | None = None
        for description in self.described:
            try:
                return description.parameters.encode(args, kwargs), description
            except ArgumentError as error:
                refused = refused or error
        if refused is not None and self.is_complete:
            raise refused
        check_count(self.kind, args, kwargs)
        return encode_arguments(args, kwargs), self.described[0] if self.described else None
