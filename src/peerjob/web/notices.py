"""A sentence that the next page shows once, such as "Cancelled 3 instances".

It is kept in a cookie of its own, whose name tells the page. So another page that is open in the same browser does not
take it, and the late answer of a page ends no notice that it did not show.
"""

from __future__ import annotations

import hashlib
from urllib.parse import quote, unquote

from starlette.responses import Response

from .security import new_session, set_cookie
from .visit import Visit

COOKIE = "peerjob_notice"
MAX_NOTICE = 300
"""The most characters of a notice."""


def add_notice(response: Response, visit: Visit, to: str, text: str) -> None:
    """Let the page of a link that `Visit.url` made show a sentence."""
    path, _, query = to.removeprefix(visit.base).partition("?")
    # a form that is sent twice has one notice
    name = f"{_prefix(visit, path, query)}{(visit.digest or new_session())[:8]}"
    set_cookie(response, visit.request, visit.root, name, quote(text[:MAX_NOTICE], safe=""), max_age=60)


def notice_in(visit: Visit) -> str:
    """The sentences that this page shows; "" for none."""
    return " ".join(unquote(visit.request.cookies[name])[:MAX_NOTICE] for name in _names(visit))


def end_notice(response: Response, visit: Visit) -> None:
    """Forget the sentences that this page shows."""
    for name in _names(visit):
        response.delete_cookie(name, path=visit.root or "/", httponly=True, samesite="strict")


def _names(visit: Visit) -> list[str]:
    path, _, query = visit.link.partition("?")
    prefix = _prefix(visit, path, query)
    return [name for name in visit.request.cookies if name.startswith(prefix)]


def _prefix(visit: Visit, path: str, query: str) -> str:
    """How the names of the cookies for a page begin. Links may encode more characters of a path than `Visit.link`."""
    page = f"{visit.cluster}{unquote(path) or '/'}?{query}"
    return f"{COOKIE}_{hashlib.sha256(page.encode()).hexdigest()[:16]}_"
