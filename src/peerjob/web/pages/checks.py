"""What several pages check of a request."""

from __future__ import annotations

from peerjob.model.errors import AuthError
from peerjob.model.rights import Role
from peerjob.web.visit import Visit


def check_kind(visit: Visit, kind: str) -> None:
    """Raise AuthError for a kind that the sender must not use."""
    if not visit.may_use(kind):
        if not visit.principal.rights.include(kind):
            raise AuthError(f"your rights are limited to other kinds than {kind!r}")
        raise AuthError(f"kind {kind!r} is one of peerjob's own kinds, which need the role admin")


def is_limited(visit: Visit) -> bool:
    """Whether there are kinds that the sender must not use."""
    rights = visit.principal.rights
    return bool(rights.kinds) or rights.role < Role.ADMIN


async def check_runs(visit: Visit, kind: str) -> None:
    """Raise AuthError for a kind or alias by which a node would run a kind that the sender must not use.

    It has no effect if the manager is a client: the gRPC service then checks the token of the client.
    """
    check_kind(visit, kind)
    behind = getattr(visit.manager, "kinds_behind", None)
    if behind is not None and is_limited(visit):
        runs: dict[str, set[str]] = await behind([kind])
        if not all(visit.may_use(one) for one in runs[kind]):
            raise AuthError(f"kind {kind!r} is an alias of a kind that your rights do not include")


def offset(visit: Visit, total: int, page: int) -> int:
    """The number of the first row of a page, by the query; 0 for a text that is no number.

    If there are fewer rows than when the link was made, it is that of the last page.
    """
    text = visit.param("from")
    given = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    return given if given < total else max(0, total - 1) // page * page
