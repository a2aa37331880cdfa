"""A sentence that the next page shows once, such as "Cancelled 3 instances"."""

from __future__ import annotations

from urllib.parse import quote, unquote

from starlette.responses import Response

from .security import set_cookie
from .visit import Visit

COOKIE = "peerjob_notice"
MAX_NOTICE = 300
"""The most characters of a notice."""


def add_notice(response: Response, visit: Visit, text: str) -> None:
    """Let the next page show a sentence."""
    set_cookie(response, visit.request, visit.root, COOKIE, quote(text[:MAX_NOTICE], safe=""), max_age=60)


def notice_in(visit: Visit) -> str:
    """The sentence that this page shows; "" for none."""
    return unquote(visit.request.cookies.get(COOKIE, ""))[:MAX_NOTICE]


def end_notice(response: Response, visit: Visit) -> None:
    """Forget the sentence, if the request had one."""
    if COOKIE in visit.request.cookies:
        response.delete_cookie(COOKIE, path=visit.root or "/", httponly=True, samesite="strict")
