"""What every request passes first: the Host header, the session, and for a form its origin and its token."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets  # noqa: TID251  # a session must be unguessable, which the generator of the Clock is not
from collections.abc import Awaitable, Callable, Sequence
from typing import cast
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from peerjob.model.rights import Principal, Rights, Role
from peerjob.version import __version__

Authorize = Callable[[Request], Awaitable[Role | Principal | None]]
"""Says what the sender of a request may do: a role, a principal with a name for the audit log, or None for nothing."""

logger = logging.getLogger("peerjob.web")

COOKIE = "peerjob_session"
"""The cookie of a session that has signed in. The names of those without a sign-in begin like this.

Pages that a browser without a cookie opens together get a session each. The cookies have names of their own, so that no
late answer replaces a sign-in, or the session of another page whose forms are open.
"""
TOKEN_FIELD = "form_token"  # noqa: S105  # the name of a field
FORM_ID = "form_id"
"""The field with the id of a form, which acts once."""
MAX_FORM = 2 << 20
"""The most bytes of a form: arguments of 1 MiB, percent-encoded in part."""
MAX_FIELDS = 1_000
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_SESSION = re.compile(r"[A-Za-z0-9_-]{43}")


class RefusedError(Exception):
    """A request that is answered with an error page: a status, and a sentence that says why."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(text)


class AuthorizeError(RefusedError):
    """The function `authorize` of the application raised an error, or returned another type."""

    def __init__(self) -> None:
        super().__init__(500, "The application could not tell what you may do. Its log says why.")


class Shield:
    """Checks the Host header, and adds the headers that tell browsers what the pages may do."""

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str] | None, frame_ancestors: str) -> None:
        self._app = app
        self._hosts = None if hosts is None else {host.lower() for host in hosts}
        policy = f"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors {frame_ancestors}"
        self._headers = {
            "Content-Security-Policy": f"{policy}; object-src 'none'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        if frame_ancestors == "'none'":
            self._headers["X-Frame-Options"] = "DENY"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_shielded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self._headers)
                headers.setdefault("Cache-Control", _caching(scope, message["status"]))
            await send(message)

        answer: ASGIApp = self._app
        if self._hosts is not None and host_in(Request(scope)) not in self._hosts:
            # a page of another site can point its own name at this address (DNS rebinding)
            answer = PlainTextResponse("this name is not a name of this server; see --web-host\n", status_code=400)
        elif {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
            # a proxy that takes the other one as the size sees another request begin (request smuggling)
            text = "a request has Content-Length or Transfer-Encoding, not both\n"
            answer = PlainTextResponse(text, status_code=400, headers={"Connection": "close"})
        await answer(scope, receive, send_shielded)


def _caching(scope: Scope, status: int) -> str:
    """How long browsers keep an answer: a static file for a day, if its link names the release that answers.

    During an upgrade, a page of one release can get the files of the other, which must not stay.
    """
    if not scope["path"].startswith(f"{scope['peerjob.root']}/static/"):
        return "no-store"
    own = scope.get("query_string", b"") == f"v={__version__}".encode()
    return "public, max-age=86400" if own and status in (200, 304) else "no-cache"


def host_in(request: Request) -> str:
    """The name in the Host header, without the port."""
    host = request.headers.get("host", "").lower()
    return re.sub(r":\d*$", "", host)


async def principal_of(authorize: Authorize, request: Request, now_us: int) -> Principal | None:
    """The sender of a request; None if it may do nothing. Raises AuthorizeError."""
    try:
        principal = cast("object", await authorize(request))
    except HTTPException:
        raise  # an answer of the application's own
    except Exception as error:
        logger.exception("authorize failed for %s %s; the request was refused", request.method, request.url.path)
        raise AuthorizeError from error
    if isinstance(principal, Role):
        return Principal(name="dashboard", rights=Rights(role=principal))
    if principal is not None and not isinstance(principal, Principal):
        logger.error(
            "authorize must return a Role, a Principal or None, got %s for %s %s; the request was refused",
            type(principal).__name__,
            request.method,
            request.url.path,
        )
        raise AuthorizeError
    return None if principal is None or principal.rights.expired(now_us) else principal


# -- sessions ----------------------------------------------------------------------------------------------------------


def session_in(request: Request) -> str:
    """The id of the session; "" if the request has none."""
    return next(iter(sessions_in(request)), "")


def sessions_in(request: Request) -> list[str]:
    """The ids of the sessions whose forms count: that of a sign-in, or else all others."""
    signed_in = request.cookies.get(COOKIE, "")
    return [signed_in] if _SESSION.fullmatch(signed_in) else unsigned_sessions_in(request)


def unsigned_sessions_in(request: Request) -> list[str]:
    """The ids of the sessions without a sign-in, always in the same order."""
    given = sorted(cookie for cookie in request.cookies.items() if cookie[0].startswith(f"{COOKIE}_"))
    return [session for _, session in given if _SESSION.fullmatch(session)]


def new_session() -> str:
    """An id that cannot be guessed."""
    return secrets.token_urlsafe(32)


def set_session(response: Response, request: Request, root: str, session: str, *, signed_in: bool = False) -> None:
    """Let the browser keep the session."""
    set_cookie(response, request, root, COOKIE if signed_in else f"{COOKIE}_{session[:8]}", session)


def set_cookie(
    response: Response, request: Request, root: str, name: str, value: str, max_age: int | None = None
) -> None:
    """Set a cookie for this dashboard only, which no script and no other site can use."""
    secure = request.url.scheme == "https"
    response.set_cookie(name, value, max_age=max_age, path=root or "/", httponly=True, samesite="strict", secure=secure)


def form_token(session: str) -> str:
    """The token in the forms of a session. Another site cannot read the cookie, so it cannot make the token."""
    return hmac.new(session.encode(), b"form", hashlib.sha256).hexdigest()


def check_origin(request: Request) -> None:
    """Raise RefusedError unless a page of this same origin sent the request."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        same = site == "same-origin"
    else:
        origin = urlsplit(request.headers.get("origin", ""))
        same = bool(origin.netloc) and origin.netloc.lower() == request.headers.get("host", "").lower()
    if not same:
        raise RefusedError(403, "This form came from another site, so nothing was done.")


def comes_from_another_site(request: Request) -> bool:
    """Whether a link of another site opens a page. The browser sends no cookie with it."""
    site, mode = request.headers.get("sec-fetch-site"), request.headers.get("sec-fetch-mode")
    return request.method == "GET" and site == "cross-site" and mode == "navigate"


def check_token(sessions: Sequence[str], fields: dict[str, list[str]]) -> str:
    """The session whose token a form has; raises RefusedError if it has that of none."""
    given = fields.get(TOKEN_FIELD, [""])[0].encode()
    for session in sessions:
        if hmac.compare_digest(given, form_token(session).encode()):
            return session
    raise RefusedError(403, "The session of this form is over, so nothing was done. Open the page again.")


async def read_form(request: Request) -> dict[str, list[str]]:
    """The fields of a form; raises RefusedError for one that is too large or of another type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise RefusedError(415, f"expected a form (application/x-www-form-urlencoded), got {kind or 'no type'!r}")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM:
            raise RefusedError(413, f"The form has more than {MAX_FORM:,} bytes.")
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict", encoding="utf-8"
        )
    except ValueError:
        raise RefusedError(400, f"The form is not UTF-8, or has more than {MAX_FIELDS:,} fields.") from None
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields
