"""A dashboard without a server: requests as a browser sends them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.requests import Request
from starlette.types import ASGIApp

from peerjob import Manager, Principal, Rights, Role
from peerjob.web import Authorize, dashboard
from peerjob.web.security import COOKIE, TOKEN_FIELD, form_token

ORIGIN = "http://jobs.example"
SAME_SITE = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate"}


def allowing(role: Role | None) -> Authorize:
    """A function that gives every sender one role."""

    async def allow(request: Request) -> Principal | None:
        return None if role is None else Principal(name="ann", rights=Rights(role=role))

    return allow


@asynccontextmanager
async def browsing(app: ASGIApp, *, root_path: str = "") -> AsyncGenerator[httpx.AsyncClient]:
    """A client that keeps cookies and follows no redirects."""
    transport = httpx.ASGITransport(app, root_path=root_path, client=("192.0.2.7", 4711))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=SAME_SITE) as client:
        yield client


@asynccontextmanager
async def pages_of(
    manager: Manager | Mapping[str, Manager], role: Role | None = Role.ADMIN, **options: Any
) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of the dashboard of a manager, with a role."""
    async with browsing(dashboard(manager, authorize=allowing(role), **options)) as client:
        yield client


def session_of(client: httpx.AsyncClient) -> str:
    """The session that the server finds in the cookies of a client; "" for none."""
    found = sorted((name, value) for name, value in client.cookies.items() if name.startswith(COOKIE))
    return found[0][1] if found else ""


async def submit(client: httpx.AsyncClient, path: str, **fields: object) -> httpx.Response:
    """Post a form with the token of the session."""
    if not session_of(client):
        await client.get("/")
    token = form_token(session_of(client))
    return await client.post(path, data={TOKEN_FIELD: token, **fields})
