"""Graphs of calls that one instance runs: a `Flow`, its members, and the checks before it is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Generic, cast

from typing_extensions import TypeVar

from .arguments import several, typed
from .child_call import check_child
from .codec import encode_call
from .durable import MAX_EDGES, MAX_MEMBERS, When
from .ended import Ended
from .errors import ArgumentError, EncodeError, OptionError, PayloadTooLargeError, path_text
from .job import Call
from .limits import checked_text
from .outputs import Output, Ref, taker

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True, default=Any)

MAX_FLOW_NAME = 200
"""Most characters of the name of a flow."""
MAX_MEMBER_NEEDS = 10_000
"""Most members that one member needs."""


class Member(Generic[R_co]):
    """One call of a flow; `Flow.add` returns it. `R_co` is the type of its result."""

    __slots__ = ("after", "call", "flow", "number", "optional", "when")

    def __init__(
        self, flow: Flow, number: int, call: Call[R_co], after: tuple[int, ...], when: When, *, optional: bool
    ) -> None:
        self.flow = flow
        self.number = number
        """The place in the flow, from 0."""
        self.call = call
        self.after = after
        """The numbers of the members that `Flow.add` named in `after=`."""
        self.when: When = when
        self.optional = optional

    @property
    def name(self) -> str:
        """The kind and the number, such as "fetch/0"."""
        return f"{self.call.job.kind}/{self.number}"

    @property
    def output(self) -> R_co:
        """Stands for the result in the arguments of another member, which then needs that this one is Completed.

        It has no value while the flow is made: any other use raises TypeError.
        """
        return cast(R_co, Output(self.flow, self.number, self.described, ended=False))

    @property
    def ended(self) -> Ended[R_co]:
        """Stands for the state, the result and the error. The other member then needs only that this one is over."""
        return cast("Ended[R_co]", Output(self.flow, self.number, self.described, ended=True))

    @property
    def described(self) -> str:
        """The member and its flow, for errors."""
        return f"member {self.name!r} of flow {self.flow.name!r}"

    def __repr__(self) -> str:
        return f"<Member {self.name!r} of flow {self.flow.name!r}>"


class Flow:
    """A graph of calls. Members that need no other member run at once; all others when what they need is over.

    `manager.schedule_flow` stores it, as often as you like. Raises OptionError for a name that is no text of 1 to 200
    characters.
    """

    __slots__ = ("_edges", "_members", "name")

    def __init__(self, name: str) -> None:
        self.name = checked_text("name", name, MAX_FLOW_NAME)
        self._members: list[Member[Any]] = []
        self._edges = 0

    @typed
    def add(
        self, call: Call[R], /, *, after: Iterable[Member[Any]] = (), when: When = "completed", optional: bool = False
    ) -> Member[R]:
        """Add a call, such as `parse.call(page.output, 3)`, and return its member.

        The member needs each member whose `output` or `ended` is among the arguments, and those in `after`. `when` says
        whether the latter must be Completed or only over. If a needed member is over in another way, the member is
        cancelled. A failed member fails the flow unless it is `optional`.

        Raises ArgumentError for arguments that cannot be stored, and for an output of another flow. Raises OptionError
        for more than 10,000 members or 50,000 needs, and for a call with `key`, `at` or `after`.
        """
        number = len(self._members)
        where = f"member '{call.job.kind}/{number}' of flow {self.name!r}"
        if number >= MAX_MEMBERS:
            raise OptionError(
                f"flow {self.name!r}", f"{number + 1:,} members", f"at most {MAX_MEMBERS:,}; use context.map in a body"
            )
        check_child(call.job, where)
        needed = several("after", after, Member, f"members of flow {self.name!r}, for {where}")
        for other in needed:
            if other.flow is not self:
                raise OptionError("after", other, f"members of flow {self.name!r}, for {where}")
        member = Member(self, number, call, tuple(other.number for other in needed), when, optional=optional)
        with MemberTaker(member) as taking:
            try:
                encode_call(call.args, call.kwargs)
            except EncodeError as error:
                problem = f"argument{path_text(error.path[1:])}: {error.reason}"
                raise ArgumentError(call.job.kind, [problem]) from error
        needs = len(taking.needs)
        if needs > MAX_MEMBER_NEEDS:
            raise OptionError(where, f"{needs:,} needed members", f"at most {MAX_MEMBER_NEEDS:,}")
        if self._edges + needs > MAX_EDGES:
            given = f"{self._edges + needs:,} needs"
            raise OptionError(f"flow {self.name!r}", given, f"at most {MAX_EDGES:,} of all members")
        self._edges += needs
        self._members.append(member)
        return member

    @property
    def members(self) -> tuple[Member[Any], ...]:
        """The members, in the order in which they were added."""
        return tuple(self._members)

    def __iter__(self) -> Iterator[Member[Any]]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __repr__(self) -> str:
        return f"<Flow {self.name!r} with {len(self)} members>"


class MemberTaker:
    """Collects what a member needs while its arguments are encoded in a `with` block."""

    def __init__(self, member: Member[Any]) -> None:
        self._member = member
        self._token: Any = None
        self.needs: dict[int, When] = dict.fromkeys(member.after, member.when)
        """Number of a needed member → what it must be."""

    def take(self, output: Output | Ref) -> Ref:
        if isinstance(output, Output) and output.flow is not self._member.flow:
            raise EncodeError((), f"{output!r}, which is another flow: members take outputs of their own flow")
        if not 0 <= output.member < self._member.number:
            raise EncodeError((), f"{output!r}, which does not come before this member")
        if not output.ended or output.member not in self.needs:
            self.needs[output.member] = "ended" if output.ended else "completed"
        return Ref(output.member, output.ended)

    def __enter__(self) -> MemberTaker:
        self._token = taker.set(self)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """End the block; an error of the call then names the flow and the member."""
        taker.reset(self._token)
        where = self._member.described
        if isinstance(error, ArgumentError):
            raise ArgumentError(error.kind, [f"{where}: {problem}" for problem in error.problems]) from error
        if isinstance(error, PayloadTooLargeError):
            raise PayloadTooLargeError(f"arguments of {where}", error.size, error.limit) from error
