"""The sign-in with a token, for a dashboard that stands by itself, such as that of jobd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from peerjob.model.arguments import typed
from peerjob.model.clock import Clock
from peerjob.model.errors import UnauthenticatedError
from peerjob.model.latest import Latest
from peerjob.model.rate_limiter import RateLimiter
from peerjob.model.rights import Authenticator, Principal
from peerjob.model.trusted_proxies import network_of

from .links import link_of, safe_link
from .rendering import Renderer
from .security import (
    RefusedError,
    check_origin,
    check_token,
    comes_from_another_site,
    form_token,
    new_session,
    read_form,
    session_in,
    sessions_in,
    set_session,
    unsigned_sessions_in,
)

ATTEMPTS, ATTEMPT_SECONDS = 10, 6.0
"""The attempts of one address in a row, and the seconds after which it may try once more."""
SESSION_SECONDS = 12 * 3600.0
MAX_SESSIONS = 1_000
"""The most sessions; above this number, the oldest one ends."""


@dataclass(frozen=True, kw_only=True)
class _SignedIn:
    principal: Principal
    until: float


class SignIn:
    """Lets people sign in with a token of `authenticators`, such as `Tokens` or `Jwt`; for `dashboard(authorize=)`.

    A session ends after 12 hours, with its token, or with its process. `namespace` is that of the manager: a token for
    other namespaces is refused. A token that is limited to kinds shows these kinds only.
    """

    @typed
    def __init__(self, authenticators: Sequence[Authenticator], *, clock: Clock, namespace: str | None = None) -> None:
        self._authenticators = authenticators
        self._clock = clock
        self._namespace = namespace
        self._limiter = RateLimiter(1 / ATTEMPT_SECONDS, clock, burst=ATTEMPTS)
        self._sessions = Latest[str, _SignedIn](MAX_SESSIONS)

    async def __call__(self, request: Request) -> Principal | None:
        """The signed-in sender of a request, or None."""
        session = session_in(request)
        signed_in = self._sessions.get(session)
        if signed_in is None:
            return None
        principal = signed_in.principal
        if (
            self._clock.elapsed() >= signed_in.until
            or principal.rights.expired(self._clock.time_us())
            or not any(authenticator.knows(principal) for authenticator in self._authenticators)
        ):
            del self._sessions[session]
            return None
        return principal

    def routes(self, renderer: Renderer) -> list[BaseRoute]:
        """The pages of the sign-in."""

        async def show(request: Request) -> Response:
            if not session_in(request) and comes_from_another_site(request):
                # a new session would replace the one whose cookie was not sent
                root = str(request.scope["peerjob.root"])
                return HTMLResponse(renderer.text("bounce.html", link=f"{root}{safe_link(link_of(request, root))}"))
            if await self(request) is not None:
                # another page of this browser has signed in while this one was on its way
                root = str(request.scope["peerjob.root"])
                return RedirectResponse(f"{root}{safe_link(request.query_params.get('to', ''))}", 303)
            return self._form(renderer, request)

        async def enter(request: Request) -> Response:
            return await self._enter(renderer, request)

        return [
            Route("/signin", show, methods=["GET"]),
            Route("/signin", enter, methods=["POST"]),
            Route("/signout", self._leave, methods=["POST"]),
        ]

    def redirect(self, request: Request) -> Response:
        """Send a reader without a session to the sign-in, and then back to the page."""
        root = str(request.scope["peerjob.root"])
        return RedirectResponse(f"{root}/signin?{urlencode({'to': link_of(request, root)})}", 303)

    def _form(
        self, renderer: Renderer, request: Request, problem: str = "", status: int = 200, *, to: str = ""
    ) -> Response:
        root, known = str(request.scope["peerjob.root"]), session_in(request)
        session = known or new_session()
        text = renderer.text(
            "signin.html",
            root=root,
            token=form_token(session),
            problem=problem,
            to=safe_link(to or request.query_params.get("to", "")),
        )
        response = HTMLResponse(text, status)
        if not known:
            set_session(response, request, root, session)
        return response

    async def _enter(self, renderer: Renderer, request: Request) -> Response:
        try:
            check_origin(request)
        except RefusedError as error:
            root = str(request.scope["peerjob.root"])
            return HTMLResponse(renderer.text("denied.html", root=root, text=str(error)), error.status)
        fields: dict[str, list[str]] = {}
        try:
            fields = await read_form(request)
            # another page of this browser can have signed in meanwhile
            check_token([*sessions_in(request), *unsigned_sessions_in(request)], fields)
        except RefusedError as error:
            return self._form(renderer, request, str(error), error.status, to=fields.get("to", [""])[0])
        to = fields.get("to", [""])[0]
        address = "" if request.client is None else network_of(request.client.host)
        if not self._limiter.allows(address):
            return self._form(renderer, request, "Too many attempts. Wait a minute, then try again.", 429, to=to)
        try:
            principal = await self._principal_of(fields.get("token", [""])[0].strip())
        except UnauthenticatedError as error:
            return self._form(renderer, request, f"{error}.", 403, to=to)
        # a new session, so that an id that was known before the sign-in is worth nothing
        session, root = new_session(), str(request.scope["peerjob.root"])
        self._sessions.pop(session_in(request), None)
        self._sessions[session] = _SignedIn(principal=principal, until=self._clock.elapsed() + SESSION_SECONDS)
        response = RedirectResponse(f"{root}{safe_link(to)}", 303)
        set_session(response, request, root, session, signed_in=True)
        return response

    async def _principal_of(self, token: str) -> Principal:
        for authenticator in self._authenticators:
            principal = await authenticator.principal_of(token)
            if principal is None:
                continue
            rights = principal.rights
            if rights.expired(self._clock.time_us()):
                raise UnauthenticatedError("the token has expired")
            if rights.namespaces and self._namespace not in rights.namespaces:
                raise UnauthenticatedError(f"the token has no rights in namespace {self._namespace!r}")
            return principal
        raise UnauthenticatedError("the token is not known here")

    async def _leave(self, request: Request) -> Response:
        root = str(request.scope["peerjob.root"])
        try:
            check_origin(request)
            check_token(sessions_in(request), await read_form(request))
        except RefusedError as error:
            # another page of this browser may have signed out before
            if await self(request) is not None:
                return HTMLResponse(str(error), error.status)
        self._sessions.pop(session_in(request), None)
        # the cookie stays, and is worth nothing: one in a late answer would replace that of the next sign-in
        return RedirectResponse(f"{root}/signin", 303)
