"""What the rights of a caller show and allow, if they are limited to kinds, or if they are not those of an admin.

The gRPC service and the dashboard both apply these rules, and no others. `ScopedManager` applies them to each verb. No
text of an error names a kind that the caller has not given.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from itertools import count
from typing import Any, NoReturn, Protocol, TypeVar
from uuid import UUID

from msgspec import structs

from peerjob.model.activity import Activity, KindActivity
from peerjob.model.durable import FLOW_KIND
from peerjob.model.errors import (
    AuthError,
    DecodeError,
    RowRefusedError,
    UnknownInstanceError,
    UnknownKindError,
    UnknownScheduleError,
)
from peerjob.model.own_cursors import own_cursor
from peerjob.model.query import Query, ResultPage
from peerjob.model.record import NodeView
from peerjob.model.rights import SYSTEM, Rights, Role
from peerjob.model.stored_limit import LimitView
from peerjob.model.worker import Worker

from .flow_instance import graph_of
from .instance import Instance, InstanceView
from .manager import Manager
from .schedule import Schedule
from .stats import Stats

T = TypeVar("T")


class OfKind(Protocol):
    """A thing that belongs to a kind."""

    @property
    def kind(self) -> str: ...


K = TypeVar("K", bound=OfKind)


def kinds_of(instance: InstanceView) -> frozenset[str]:
    """The kinds that the rights of a caller must include: that of the instance, or those of the members of a flow."""
    if instance.kind != FLOW_KIND:
        return frozenset({instance.kind})
    try:
        return graph_of(instance.record).kinds()
    except (DecodeError, ValueError, TypeError):
        return frozenset({FLOW_KIND})


class KindScope:
    """The rules of a caller's rights about kinds. Instances and schedules of other kinds are unknown to the caller."""

    def __init__(self, rights: Rights) -> None:
        self._rights = rights

    # -- one kind ----------------------------------------------------------------------------------------------------

    @property
    def is_limited(self) -> bool:
        """Whether there are kinds that the caller may not use."""
        return bool(self._rights.kinds) or self._rights.role < Role.ADMIN

    def includes(self, kind: str) -> bool:
        """Whether a kind exists for the caller."""
        return self._rights.include(kind)

    def includes_instance(self, instance: InstanceView) -> bool:
        """Whether an instance exists for the caller: one of its kinds, or a flow whose members all are of them."""
        return all(map(self.includes, kinds_of(instance)))

    def may_use(self, kind: str) -> bool:
        """Whether the caller may schedule a kind: peerjob's own kinds need an admin. The role is checked elsewhere."""
        return self.includes(kind) and (self._rights.role >= Role.ADMIN or not kind.startswith(SYSTEM))

    def check_included(self, kind: str, alias: str | None = None) -> None:
        """Raise AuthError for another kind. It names the alias, if the caller gave that."""
        if not self.includes(kind):
            raise AuthError(f"kind {alias or kind!r} is not one of {self._listed}, to which your rights are limited")

    def check_use(self, kind: str, alias: str | None = None) -> None:
        """Raise AuthError for a kind that the caller may not schedule."""
        if alias is not None and self.includes(alias) and not self.includes(kind):
            raise AuthError(f"kind {alias!r} is an alias of a kind that your rights do not include")
        self.check_included(kind, alias)
        if not self.may_use(kind):
            role = self._rights.role.name.lower()
            raise AuthError(f"kind {alias or kind!r} needs the role admin, and your rights have the role {role}")

    async def check_runs(self, manager: Any, kinds: Iterable[str]) -> None:
        """Raise AuthError for a kind or alias by which a node would run a kind that the caller may not schedule.

        Other nodes can know aliases that this node does not know. A client does not know aliases: the service that it
        calls then checks the rights of the client.
        """
        if not self.is_limited:
            return
        given = list(kinds)
        kinds_behind = getattr(manager, "kinds_behind", None)
        behind: dict[str, set[str]] = {kind: {kind} for kind in given}
        if kinds_behind is not None:
            behind = await kinds_behind(given)
        for kind in given:
            for run in sorted(behind[kind]):
                self.check_use(run, alias=kind)

    async def check_repeats(self, manager: Any, instances: Iterable[InstanceView]) -> None:
        """Raise AuthError for an instance that the caller may not schedule again; a flow counts as its members."""
        if self.is_limited:
            await self.check_runs(manager, frozenset[str]().union(*map(kinds_of, instances)))

    async def check_system(self, manager: Manager, query: Query) -> None:
        """Raise AuthError if a query matches instances of kinds that need an admin."""
        if self._rights.role >= Role.ADMIN:
            return
        for kind in (await manager.stats()).counts:
            if kind.startswith(SYSTEM) and await manager.count(replace(query, kind=kind)):
                self.check_use(kind)

    def masked(self, error: UnknownKindError) -> UnknownKindError:
        """The error, which lists the kinds that are known, without other kinds."""
        return UnknownKindError(error.kind, self.own(error.known))

    # -- calls -------------------------------------------------------------------------------------------------------

    async def instance(self, manager: Manager, uuid: str | UUID) -> Instance[Any]:
        """The instance; raises UnknownInstanceError for one of another kind."""
        try:
            instance = await manager.lookup_instance(uuid)
        except RowRefusedError as error:
            raise UnknownInstanceError(error.uuid) from None  # it tells of an instance that can be of another kind
        if not self.includes_instance(instance):
            raise UnknownInstanceError(instance.id)
        return instance

    async def schedule(self, manager: Manager, name: str) -> Schedule:
        """The schedule; raises UnknownScheduleError for one of another kind."""
        schedule = await manager.lookup_schedule(name)
        if not self.includes(schedule.kind):
            raise UnknownScheduleError(name)
        return schedule

    async def check_query(self, manager: Manager, query: Query, acting: str = "") -> None:
        """Raise the error of a query for another kind. An `acting` call, by its name, needs a kind or an instance."""
        if query.kind is not None:
            self.check_included(query.kind)
            if acting and query.kind == FLOW_KIND and self._rights.kinds:
                await self._check_flows(manager, query)
        elif query.id is not None:
            await self.instance(manager, query.id)
        elif acting and self._rights.kinds:
            raise AuthError(f"{acting} needs a kind in its query, since your rights are limited to {self._listed}")

    async def _check_flows(self, manager: Manager, query: Query) -> None:
        """Raise AuthError if a query matches a flow with a member of another kind."""
        async for instance in manager.iter_instances(query):
            for kind in sorted(kinds_of(instance)):
                self.check_included(kind)

    def refuse_whole(self, call: str) -> NoReturn:
        """Raise the AuthError of a call that concerns all kinds."""
        raise AuthError(f"{call} concerns all kinds, and your rights are limited to {self._listed}")

    @property
    def _listed(self) -> str:
        return ", ".join(self._rights.kinds)

    # -- answers -----------------------------------------------------------------------------------------------------

    def own(self, kinds: Iterable[str]) -> list[str]:
        """The kinds that exist for the caller."""
        return [kind for kind in kinds if self.includes(kind)]

    def own_items(self, items: Iterable[K]) -> list[K]:
        """The things of these kinds."""
        return [
            item
            for item in items
            if (self.includes_instance(item) if isinstance(item, InstanceView) else self.includes(item.kind))
        ]

    def own_values(self, by_kind: dict[str, T]) -> dict[str, T]:
        """The values of these kinds."""
        return {kind: value for kind, value in by_kind.items() if self.includes(kind)}

    def stats(self, stats: Stats) -> Stats:
        """The counts of these kinds."""
        return replace(stats, counts=self.own_values(stats.counts), unserved=self.own_values(stats.unserved))

    def activity(self, activity: Activity) -> Activity:
        """The activity of these kinds. The sum of the kinds without a row of their own is left out."""
        zeros = (0,) * len(activity.others.started)
        others = KindActivity(started=zeros, completed=zeros, failed=zeros, retried=zeros, cancelled=zeros)
        return replace(activity, kinds=self.own_values(dict(activity.kinds)), others=others)

    def node(self, view: NodeView) -> NodeView:
        """A node as if it ran these kinds only."""
        info = view.info
        # one descriptor for each kind, also for those that are left out
        signatures = self.own_values(info.signatures)
        own = structs.replace(info, kinds=tuple(self.own(info.kinds)), descriptors=b"", signatures=signatures)
        return structs.replace(view, info=own)

    def worker(self, worker: Worker) -> Worker:
        """A worker, which shows no instance of another kind."""
        if worker.kind is None or self.includes(worker.kind):
            return worker
        return replace(worker, kind=None, instance=None)

    def limits(self, views: Iterable[LimitView]) -> tuple[LimitView, ...]:
        """The limits of these kinds, which name no other kind. Their counts are those of all their kinds."""
        own = [structs.replace(view, kinds=tuple(self.own(view.kinds))) for view in views]
        return tuple(view for view in own if view.kinds)

    async def page(
        self,
        look_up: Callable[[Query], Awaitable[ResultPage[K]]],
        query: Query,
        id_of: Callable[[K], str],
        *,
        most: int,
    ) -> ResultPage[K]:
        """A page of these kinds, from at most `most` pages of all kinds, or more if they are of one millisecond.

        It can be short, and have a cursor, if the next instances are of other kinds. No cursor has such an id.
        """
        kept, cursor = list[K](), query.cursor
        for number in count(1):
            page = await look_up(replace(query, cursor=cursor, limit=max(1, query.limit - len(kept))))
            kept += self.own_items(page)
            cursor = page.cursor
            if cursor is None:
                break
            if len(kept) >= query.limit or number >= most:
                shown = own_cursor(cursor, id_of(kept[-1]) if kept else None, query.cursor, query.order)
                if shown is not None:
                    return ResultPage(kept, shown)
        return ResultPage(kept, None)
