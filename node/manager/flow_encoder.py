"""Makes the stored form of a flow, with all checks that `schedule` makes of a call."""

from __future__ import annotations

from typing import Any

from msgspec import msgpack

from peerjob.model.errors import PayloadTooLargeError
from peerjob.model.flow import Flow, Member, MemberTaker
from peerjob.model.graph import CallOptions, Graph, StoredMember, encode_graph, encode_members, encode_overrides
from peerjob.model.spec import decode_spec

from .call_encoder import CallEncoder
from .loop_pauses import map_with_pauses


class FlowEncoder:
    """Encodes the members of one flow."""

    def __init__(self, encoder: CallEncoder, flow: Flow) -> None:
        self._encoder = encoder
        self._flow = flow
        self._options: dict[bytes, int] = {}
        """Encoded options → their place. Many members have the same ones."""

    async def encoded(self) -> tuple[bytes, bytes]:
        """Return the graph and the arguments of its members, as arguments of the instance that runs the flow.

        Raises an error, which names flow and member, for a call that is not valid, and PayloadTooLargeError.
        """
        stored = await map_with_pauses(self._flow.members, self._stored)
        options = tuple(map(_read_options, self._options))
        graph = encode_graph(Graph(options=options, members=tuple(member for member, _ in stored)))
        arguments = encode_members([args for _, args in stored])
        size, most = len(graph) + len(arguments), self._encoder.max_payload
        if size > most:
            what = f"flow {self._flow.name!r} of {len(stored):,} members (use context.map in a body: it has no limit)"
            raise PayloadTooLargeError(what, size, most)
        return graph, arguments

    def _stored(self, member: Member[Any]) -> tuple[StoredMember, bytes]:
        with MemberTaker(member) as taking:
            new = self._encoder.new(member.call)
        spec = decode_spec(new.spec)
        options = CallOptions(
            kind=new.kind,
            priority=new.priority,
            tags=new.tags,
            retention_us=new.retention_us,
            max_crashes=new.max_crashes,
            limit_key=new.limit_key,
            key_concurrency=new.key_concurrency,
            overrides=encode_overrides(spec.overrides),
            version=spec.version,
        )
        stored = StoredMember(
            options=self._options.setdefault(_encode(options), len(self._options)),
            needs=tuple(2 * number + (when == "ended") for number, when in sorted(taking.needs.items())),
            optional=member.optional,
        )
        return stored, spec.args


_encode = msgpack.Encoder().encode
_read_options = msgpack.Decoder(CallOptions).decode
