"""Routes: what happens between a request and the function of its page or form."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from peerjob.model import errors
from peerjob.model.audit import DENIED
from peerjob.model.clock import to_datetime
from peerjob.model.rights import Role

from .forms import following_id, form_id_in
from .notices import add_notice
from .patience import ABSENT, PATIENCE, describe_absence
from .rendering import Renderer
from .samples import Sample
from .security import RefusedError, check_origin, check_token, read_form, sessions_in
from .visit import Act, Done, Shown, Visit

logger = logging.getLogger("peerjob.web")

ACT_PATIENCE = 30.0
"""Seconds that a form waits for the store."""

Handler = Callable[[Visit], Awaitable[Shown | Done | Response]]
Answer = Callable[[Visit, Renderer], Awaitable[Response]]

STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (errors.UnknownInstanceError, 404),
    (errors.UnknownKindError, 404),
    (errors.UnknownScheduleError, 404),
    (errors.UnknownNodeError, 404),
    (errors.UnauthenticatedError, 403),
    (errors.AuthError, 403),
    (errors.PeerjobError, 400),
)


def may_have_acted(error: BaseException) -> bool:
    """Whether a form can have taken effect before it failed with an error."""
    refused = isinstance(error, errors.PeerjobError | RefusedError)
    return not refused or isinstance(error, errors.StoreError | errors.RemoteError)


@dataclass(frozen=True, kw_only=True)
class PageRoute:
    """The path of a page or a form, the role that it needs, and its function."""

    path: str
    handler: Handler
    role: Role = Role.READER
    title: str = ""
    """The name in the navigation; "" for a page that stands in none."""
    verb: str | None = None
    """For a form, the name of the RPC that does the same; None for a page."""
    adds: bool = False
    """Whether the form can add instances, so that its repeat after an unknown outcome is refused."""

    def route(self, answer: Callable[[Request, PageRoute], Awaitable[Response]]) -> Route:
        """The route of Starlette. `answer` finds the visit, and calls `respond`."""

        async def endpoint(request: Request) -> Response:
            return await answer(request, self)

        return Route(self.path, endpoint, methods=["GET" if self.verb is None else "POST"])

    async def respond(self, visit: Visit, renderer: Renderer) -> Response:
        """The answer to a request."""
        if self.verb is None:
            return await _show(self, visit, renderer)
        return await _act(self, self.verb, visit, renderer)


def page(path: str, handler: Handler, *, title: str = "", role: Role = Role.READER) -> PageRoute:
    """A page; with a title, it stands in the navigation."""
    return PageRoute(path=path, handler=handler, title=title, role=role)


def action(path: str, handler: Handler, *, verb: str, role: Role = Role.OPERATOR, adds: bool = False) -> PageRoute:
    """The target of a form. `verb` is the name in the audit log; the handler may change `visit.act.verb`."""
    return PageRoute(path=path, handler=handler, role=role, verb=verb, adds=adds)


async def _show(route: PageRoute, visit: Visit, renderer: Renderer) -> Response:
    if not visit.may(route.role):
        return await _refused(visit, renderer, 403, f"This page {visit.needs(route.role)}.")
    key, now_us = (visit.link, visit.principal.rights), visit.manager.clock.time_us()
    try:
        async with asyncio.timeout(PATIENCE):
            shown = await route.handler(visit)
        if not isinstance(shown, Shown):
            return _answered(visit, shown)
        # a page of a sample shows the last one, if no new one can be taken
        sample = shown.values.get("sample")
        if isinstance(sample, Sample) and sample.absence:
            since = to_datetime(sample.at_us) if sample.at_us else None
            return HTMLResponse(await renderer.page(visit, shown, absence=sample.absence, since=since), shown.status)
        text = await renderer.page(visit, shown)
        visit.served.remembered.keep(key, now_us, shown.template, shown.values, len(text))
        return HTMLResponse(text, shown.status)
    except ABSENT as error:
        absence, old = describe_absence(error), visit.served.remembered.find(key)
        if old is None:
            empty = Shown("error.html", heading="Nothing to show", text=absence, status=503)
            return HTMLResponse(await renderer.page(visit, empty, absence=absence), 503)
        since_us, template, values = old
        shown = Shown(template, **values)
        return HTMLResponse(await renderer.page(visit, shown, absence=absence, since=to_datetime(since_us)))
    except (errors.PeerjobError, RefusedError) as error:
        return await _failed(visit, renderer, error)


async def _act(route: PageRoute, verb: str, visit: Visit, renderer: Renderer) -> Response:
    visit = replace(visit, act=Act(verb=verb))
    try:
        check_origin(visit.request)
        if not visit.may(route.role):
            _record(visit, DENIED)
            return await _refused(visit, renderer, 403, f"This {visit.needs(route.role)}.")
        fields = await read_form(visit.request)
        session = check_token(sessions_in(visit.request), fields)
    except RefusedError as error:
        return await _failed(visit, renderer, error)
    visit = replace(visit, fields=fields, session=session)
    if digest := visit.digest:
        # a repeat, in this process or another, gets an answer with the same forms
        visit = replace(visit, form_id=following_id(form_id_in(fields), digest))
    try:
        done = await visit.sent.answer(
            digest,
            visit.manager.clock,
            lambda: _acted(route, visit),
            keeps=lambda done: not isinstance(done, Shown) or done.status < 400,
            is_unknown=lambda error: route.adds and may_have_acted(error),
        )
    except TimeoutError as error:
        text = f"{describe_absence(error, ACT_PATIENCE)} The action may have taken effect."
        return await _refused(visit, renderer, 503, text)
    except (errors.PeerjobError, RefusedError) as error:
        return await _failed(visit, renderer, error)
    if isinstance(done, Shown):
        return HTMLResponse(await renderer.page(visit, done), done.status)
    return _answered(visit, done)


async def _acted(route: PageRoute, visit: Visit) -> Shown | Done | Response:
    """Call the function of a form, and keep an audit record."""
    result = "ok"
    try:
        async with asyncio.timeout(ACT_PATIENCE):
            return await route.handler(visit)
    except BaseException as error:
        # the text of an error can contain arguments of a job
        result = DENIED if isinstance(error, errors.AuthError | RefusedError) else type(error).__name__
        raise
    finally:
        _record(visit, result)


def _answered(visit: Visit, done: Done | Response) -> Response:
    if isinstance(done, Response):
        return done
    response = RedirectResponse(done.to, 303)
    if done.notice:
        add_notice(response, visit, done.to, done.notice)
    return response


def _record(visit: Visit, result: str) -> None:
    if visit.act.verb:
        client = visit.request.client
        visit.manager.keep_audit(
            visit.act.verb,
            principal=visit.principal.name,
            address="" if client is None else client.host,
            criteria=visit.act.criteria,
            count=visit.act.count,
            result=result,
        )


async def _failed(visit: Visit, renderer: Renderer, error: Exception) -> Response:
    if isinstance(error, ABSENT):
        return await _refused(visit, renderer, 503, describe_absence(error))
    status = error.status if isinstance(error, RefusedError) else _status(error)
    return await _refused(visit, renderer, status, str(error))


def _status(error: Exception) -> int:
    return next(status for kind, status in STATUSES if isinstance(error, kind))


HEADINGS: dict[int, str] = {403: "Not allowed", 404: "Not found", 503: "Not available now"}


async def _refused(visit: Visit, renderer: Renderer, status: int, text: str) -> Response:
    shown = Shown("error.html", heading=HEADINGS.get(status, "Not done"), text=text)
    return HTMLResponse(await renderer.page(visit, shown), status)
