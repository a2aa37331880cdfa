"""One request of a page: its sender, its cluster, and the links and fields that its templates need."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from peerjob.handles.instance import Instance, InstanceView
from peerjob.handles.kind_scope import KindScope, kinds_of
from peerjob.handles.manager import Manager
from peerjob.model.clock import to_datetime, to_us
from peerjob.model.errors import OptionError, UnknownInstanceError
from peerjob.model.job import Call
from peerjob.model.rights import Principal, Role
from peerjob.model.trusted_proxies import network_of

from .cluster import ServedCluster
from .forms import SentForms, form_digest, form_id_in, instance_ids, request_id_of
from .links import Links, link_of, text_of_part
from .security import FORM_ID, TOKEN_FIELD, form_token
from .viewers import Viewers


class Templates(Protocol):
    """What pages use of the renderer."""

    def text(self, template: str, *, now: datetime, **values: Any) -> str:
        """The HTML of a template that is the same for all readers."""
        ...


@dataclass(kw_only=True)
class Act:
    """What a form did, for the audit log."""

    verb: str
    """The name of the RPC that does the same; "" for a form that only asks."""
    criteria: str = ""
    count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A page: its template, and what the template shows."""

    template: str
    values: dict[str, Any]
    status: int = 200

    def __init__(self, template: str, *, status: int = 200, **values: Any) -> None:
        object.__setattr__(self, "template", template)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "status", status)


@dataclass(frozen=True, kw_only=True)
class Done:
    """The end of an action: the page that the browser opens next, and a sentence that it shows once."""

    to: str
    """A link that `Visit.url` made."""
    notice: str = ""


@dataclass(frozen=True, kw_only=True)
class Visit(Links):
    """A request, with everything that pages and templates use."""

    request: Request
    served: ServedCluster
    principal: Principal
    session: str
    viewers: Viewers
    sent: SentForms[Shown | Done | Response]
    """What the forms of this dashboard did."""
    form_id: str
    """The id of the forms that this visit shows."""
    templates: Templates
    still_allowed: Callable[[], Awaitable[bool]]
    """Whether the sender still has its rights, for a live view."""
    title: str = ""
    clusters: Sequence[str] = ()
    """The names of the clusters that the sender may see; empty if the dashboard serves only one."""
    fields: Mapping[str, list[str]] = field(default_factory=dict[str, list[str]])
    """The fields of the form; empty for a page."""
    act: Act = field(default_factory=lambda: Act(verb=""))

    # -- reading and acting ------------------------------------------------------------------------------------------

    @property
    def manager(self) -> Manager:
        return self.served.manager

    @property
    def scope(self) -> KindScope:
        """The rules of the sender's rights about kinds."""
        return KindScope(self.principal.rights)

    async def check_runs(self, kind: str) -> None:
        """Raise AuthError for a kind or alias by which a node would run a kind that the sender may not use."""
        await self.scope.check_runs(self.manager, [kind])

    @property
    def now(self) -> datetime:
        return to_datetime(self.manager.clock.time_us())

    @property
    def caller(self) -> str:
        """What counts as one caller: a token, or the address if there is none."""
        client = self.request.client
        return self.principal.credential or network_of("" if client is None else client.host)

    @property
    def has_live_view(self) -> bool:
        """Whether the sender may open one live view more."""
        return self.viewers.admits(self.caller, admin=self.principal.rights.role >= Role.ADMIN)

    def may(self, role: Role | str) -> bool:
        """Whether the sender has a role, such as "operator". An admin of some kinds is none of the cluster."""
        needed = role if isinstance(role, Role) else Role[role.upper()]
        rights = self.principal.rights
        return rights.role >= needed and not (rights.kinds and needed is Role.ADMIN)

    def needs(self, role: Role) -> str:
        """Why the sender may not do what needs a role, after a subject."""
        limited = " for all kinds, and your rights are limited to some" if self.principal.rights.role >= role else ""
        return f"needs the role {role.name.lower()}{limited}"

    def may_use(self, kind: str) -> bool:
        """Whether the sender may schedule a kind, and change its schedules: peerjob's own kinds need an admin."""
        return self.principal.rights.role >= Role.OPERATOR and self.scope.may_use(kind)

    def may_repeat(self, instance: InstanceView) -> bool:
        """Whether the sender may schedule an instance again: a flow needs the right to use the kind of each member."""
        return all(map(self.may_use, kinds_of(instance)))

    # -- what the sender gave ----------------------------------------------------------------------------------------

    def param(self, name: str) -> str:
        """A value of the query string, without blanks around it; "" if it is not given."""
        return self.request.query_params.get(name, "").strip()

    def offset(self, total: int, page: int) -> int:
        """The number of the first row of a page, by the query; 0 for a text that is no number.

        If there are fewer rows than when the link was made, it is that of the last page.
        """
        text = self.param("from")
        given = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
        return given if given < total else max(0, total - 1) // page * page

    def path_value(self, name: str) -> str:
        """A part of the path."""
        return text_of_part(str(self.request.path_params[name]))

    def given(self, name: str) -> str:
        """A field of the form; "" if it is not given."""
        return (self.fields.get(name) or [""])[0]

    def need(self, name: str) -> str:
        """A field of the form, without blanks around it; raises OptionError if it is empty."""
        if not (value := self.given(name).strip()):
            raise OptionError(name, value, "a value")
        return value

    def chosen(self, name: str) -> str:
        """A field of the form that names a thing of the page, as it was sent: a name can begin or end with blanks.

        Raises OptionError if it is empty.
        """
        if not (value := self.given(name)):
            raise OptionError(name, value, "a value")
        return value

    def number(self, name: str) -> int | None:
        """A field of the form with a whole number; None if it is empty. Raises OptionError."""
        text = self.given(name).strip()
        if text and not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise OptionError(name, text, "a whole number of 1 or more")
        return int(text) if text else None

    @property
    def digest(self) -> str:
        """What tells the sent form from all others; "" if it has no id."""
        return form_digest(self.session, self.principal.name, str(self.request.scope["path"]), dict(self.fields))

    async def repeat_id(self, made_by: Callable[[str], str] = str, *, since: datetime | None = None) -> str | None:
        """An id for what the form makes: the same for a repeat, also in another process. None for a form without id.

        `made_by` says which instance the manager makes with such an id. What is made is not older than `since`.
        """
        since_us = 0 if since is None else to_us(since)
        ids = instance_ids(form_id_in(dict(self.fields)), self.digest, self.manager.clock.time_us(), since_us)
        for earlier in ids[1:]:
            with contextlib.suppress(UnknownInstanceError):
                await self.manager.lookup_instance(made_by(earlier))
                return earlier
        return ids[0] if ids else None

    def request_id(self) -> str | None:
        """An id for the request of the form: the same for a repeat, in each process. None for a form without id."""
        form_id = form_id_in(dict(self.fields))
        return request_id_of(form_id, self.digest, self.manager.clock.time_us())

    async def schedule_form(self, call: Call[Any]) -> tuple[Instance[Any], str]:
        """Schedule a call, or find the instance that the same form made before; with a sentence for the reader."""
        id = await self.repeat_id()
        made = await (self.manager.schedule(call) if id is None else self.manager.schedule_as(id, call))
        self.act.count = int(made.is_new)
        is_of_form = made.is_new or made.id == id
        return made, "Scheduled." if is_of_form else "An instance with the same key exists: this one."

    # -- what templates show -----------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The path of the page within its cluster."""
        return str(self.request.scope["path"]).removeprefix(self.base) or "/"

    @property
    def link(self) -> str:
        """The path of this page with its query, within its cluster."""
        return link_of(self.request, self.base)

    @property
    def token_field(self) -> Markup:
        """The fields that each form contains: the token of the session, and the id of the form."""
        field = Markup('<input type="hidden" name="{}" value="{}">')
        return field.format(TOKEN_FIELD, form_token(self.session)) + field.format(FORM_ID, self.form_id)
