"""The dashboard as an ASGI application."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from peerjob.handles.manager import Manager
from peerjob.model.arguments import typed
from peerjob.model.errors import OptionError
from peerjob.model.rights import Principal
from peerjob.model.trusted_proxies import HEADER, TrustedProxies

from .cluster import ServedCluster
from .forms import SentForms, new_form_id
from .links import link_of, safe_link
from .notices import end_notice
from .page import PageRoute
from .pages import ROUTES
from .pages.clusters import clusters_page
from .rendering import Renderer
from .security import (
    Authorize,
    AuthorizeError,
    Shield,
    comes_from_another_site,
    new_session,
    principal_of,
    session_in,
    set_session,
)
from .signin import SignIn
from .viewers import Viewers
from .visit import Done, Shown, Visit

RESERVED = ("live", "signin", "signout", "static")
"""Names that a cluster must not have."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_ANCESTORS = re.compile(r"[^;,\r\n]+")


@typed
def dashboard(
    manager: Manager | Mapping[str, Manager],
    *,
    authorize: Authorize,
    hosts: Sequence[str] | None = None,
    frame_ancestors: str = "'none'",
    trusted_proxies: Iterable[str] = (),
) -> Dashboard:
    """Make the dashboard of a node or a client, or of several by name, as an ASGI application.

    - `authorize`: an async function from a request to what its sender may do: a Role, a Principal with a name for the
      audit log, or None, which is answered with 403. A `SignIn` asks for a token instead.
    - `hosts`: the names in the Host header that are answered; None for all. Give them on loopback.
    - `frame_ancestors`: the sites that may show the dashboard in a frame, as in a Content-Security-Policy.
    - `trusted_proxies`: addresses and networks, such as "10.0.0.0/8", whose `X-Forwarded-For` and `X-Forwarded-Proto`
      count. Leave it out if the server or the application reads these headers itself.

    The managers must be started, and run on the event loop of the server. Raises OptionError.
    """
    managers = manager if isinstance(manager, Mapping) else {"": manager}
    # a caller without a type checker can pass any object
    if not managers or not all(isinstance(manager, Manager) for manager in managers.values()):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError("manager", manager, "a Node or a Client, or several of them by name")
    for name in managers if isinstance(manager, Mapping) else ():
        if not _NAME.fullmatch(name) or name in RESERVED:
            raise OptionError("manager", name, "a name of letters, digits, - and _, that is no name of a page")
    if not callable(authorize):
        raise OptionError("authorize", authorize, "an async function that takes a request and returns a Role or None")
    if isinstance(hosts, str) or not _ANCESTORS.fullmatch(frame_ancestors):
        raise OptionError(
            "hosts, frame_ancestors", (hosts, frame_ancestors), "a list of names, and sources of a policy"
        )
    served = {name: ServedCluster(name, manager) for name, manager in managers.items()}
    proxies = TrustedProxies(trusted_proxies)
    site = _Site(served, authorize)
    app = Shield(Starlette(routes=site.routes()), hosts=hosts, frame_ancestors=frame_ancestors)
    return Dashboard(app, site.viewers, proxies)


class Dashboard:
    """The ASGI application."""

    def __init__(self, app: ASGIApp, viewers: Viewers, proxies: TrustedProxies) -> None:
        self._app = app
        self._viewers = viewers
        self._proxies = proxies

    def close(self) -> None:
        """End the live views, so that the server can stop. Further ones are refused."""
        self._viewers.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # the path at which the dashboard is mounted, for its links
        root = scope.get("root_path", "").rstrip("/")
        await self._app({**scope, **self._forwarded(scope), "peerjob.root": root}, receive, send)

    def _forwarded(self, scope: Scope) -> dict[str, Any]:
        """What a trusted proxy says of the caller: its address, and whether it used TLS."""
        peer = (scope.get("client") or ("", 0))[0]
        if scope["type"] != "http" or not self._proxies.trusts(peer):
            return {}
        headers = Headers(scope=scope)
        address = self._proxies.caller_of(peer, headers.getlist(HEADER))
        scheme = headers.get("x-forwarded-proto", "").strip().lower()
        scope_of_caller: dict[str, Any] = {} if address == peer else {"client": (address, 0)}
        return scope_of_caller | ({"scheme": scheme} if scheme in ("http", "https") else {})


class _Site:
    """The routes of one dashboard."""

    def __init__(self, served: dict[str, ServedCluster], authorize: Authorize) -> None:
        self._served = served
        self._authorize = authorize
        self._renderer = Renderer(
            [(route.title, route.path) for route in ROUTES if route.title],
            signs_in=isinstance(authorize, SignIn),
        )
        self.viewers = Viewers()
        self._sent = SentForms[Shown | Done | Response]()

    def routes(self) -> list[BaseRoute]:
        """The static files, the sign-in, and the pages of each cluster."""
        routes: list[BaseRoute] = [Mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))]
        if isinstance(self._authorize, SignIn):
            routes += self._authorize.routes(self._renderer)
        pages = [route.route(self._answer) for route in ROUTES]
        if "" in self._served:
            return [*routes, *pages]
        return [*routes, Route("/", self._clusters), Mount("/{cluster}", routes=pages)]

    async def _clusters(self, request: Request) -> Response:
        async def answer(visit: Visit) -> Response:
            rights = visit.principal.rights
            shown = {
                name: cluster.for_kinds(rights) for name, cluster in self._served.items() if cluster.is_within(rights)
            }
            return HTMLResponse(await self._renderer.page(visit, await clusters_page(visit, shown)))

        return await self._admitted(request, None, answer)

    async def _answer(self, request: Request, route: PageRoute) -> Response:
        served = self._served.get(request.path_params.get("cluster", ""))

        async def answer(visit: Visit) -> Response:
            if served is None:
                return RedirectResponse(f"{visit.root}/", 303)
            return await route.respond(visit, self._renderer)

        # without rights, a cluster that does not exist answers as one that does, so that nothing tells their names
        return await self._admitted(request, served or next(iter(self._served.values())), answer, title=route.title)

    async def _admitted(
        self,
        request: Request,
        served: ServedCluster | None,
        answer: Callable[[Visit], Awaitable[Response]],
        title: str = "",
    ) -> Response:
        """Answer a request about a cluster, or about all of them, if its sender has rights there."""
        root, session = str(request.scope["peerjob.root"]), session_in(request)
        if not session and comes_from_another_site(request):
            # the browser sends no cookie with a link from another site; it sends it when the page opens itself again
            return HTMLResponse(self._renderer.text("bounce.html", link=f"{root}{safe_link(link_of(request, root))}"))
        clock = (served or next(iter(self._served.values()))).manager.clock
        try:
            principal = await principal_of(self._authorize, request, clock.time_us())
        except AuthorizeError as error:
            return HTMLResponse(self._renderer.text("denied.html", root=root, text=str(error)), error.status)
        within = (
            [] if principal is None else [each for each in self._served.values() if each.is_within(principal.rights)]
        )
        if principal is None or not within or (served is not None and served not in within):
            return self._refused(request, root, principal)
        fresh = session or new_session()
        visit = Visit(
            root=root,
            cluster="" if served is None else served.name,
            request=request,
            served=(served or within[0]).for_kinds(principal.rights),
            principal=principal,
            session=fresh,
            title=title,
            clusters=[cluster.name for cluster in within if cluster.name],
            viewers=self.viewers,
            sent=self._sent,
            form_id=new_form_id(clock),
            templates=self._renderer,
            still_allowed=self._still_allowed(request),
        )
        response = await answer(visit)
        # a form of another site comes without the cookie, and must not replace it
        if not session and request.method != "POST":
            set_session(response, request, root, fresh)
        if response.headers.get("content-type", "").startswith("text/html"):
            end_notice(response, visit)
        return response

    def _refused(self, request: Request, root: str, principal: Principal | None) -> Response:
        """The answer to a sender without rights here. Where users sign in, a page leads there."""
        denied = partial(self._renderer.text, "denied.html", root=root)
        if principal is None and isinstance(self._authorize, SignIn):
            if request.method in ("GET", "HEAD"):
                return self._authorize.redirect(request)
            text = "You are signed out, so nothing was done. Sign in, then go back to the form, and send it again."
            return HTMLResponse(denied(text=text, signin=True), 403)
        limited = "" if principal is None else " These rights are limited to other namespaces."
        return HTMLResponse(denied(text=f"You have no rights here.{limited}"), 403)

    def _still_allowed(self, request: Request) -> Callable[[], Awaitable[bool]]:
        async def ask() -> bool:
            # a function of the application may be slow, so it is asked again only when the view is opened again
            return not isinstance(self._authorize, SignIn) or await self._authorize(request) is not None

        return ask
