"""What several pages check of a request."""

from __future__ import annotations

from peerjob.model.errors import AuthError
from peerjob.web.visit import Visit


def check_kind(visit: Visit, kind: str) -> None:
    """Raise AuthError for a kind that the sender must not use."""
    if not visit.may_use(kind):
        if not visit.principal.rights.include(kind):
            raise AuthError(f"your rights are limited to other kinds than {kind!r}")
        raise AuthError(f"kind {kind!r} is one of peerjob's own kinds, which need the role admin")


def offset(visit: Visit) -> int:
    """The number of the first row of a page, by the query; 0 for a text that is no number."""
    text = visit.param("from")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
