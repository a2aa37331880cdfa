r"""A FastAPI application that shows its cluster at /jobs, for those who know a password.

    PEERJOB_STORE=redis://localhost DASHBOARD_PASSWORD=secret \
        uvicorn --app-dir examples --timeout-graceful-shutdown 3 fastapi_dashboard:app

Open http://ops:secret@127.0.0.1:8000/jobs/. A real application asks its own sessions in `allow`.
"""

import base64
import hmac
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

from peerjob import Node, Principal, Rights, Role, job
from peerjob.web import dashboard

PASSWORD = os.environ.get("DASHBOARD_PASSWORD", "")


@job(kind="greet", max_retries=3)
async def greet(name: str) -> str:
    """Greet a person by name."""
    return f"Hello {name}!"


node = Node(os.environ.get("PEERJOB_STORE", "memory://"), jobs=[greet])


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    async with node:
        yield


async def allow(request: Request) -> Principal | None:
    """Let the user of the basic authentication act, if the password is right."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return None
    if scheme.lower() != "basic" or not PASSWORD or not hmac.compare_digest(password.encode(), PASSWORD.encode()):
        return None
    return Principal(name=user, rights=Rights(role=Role.OPERATOR))


app = FastAPI(lifespan=lifespan)
app.mount("/jobs", dashboard(node, authorize=allow))


@app.post("/greetings/{name}")
async def create(name: str) -> dict[str, str]:
    instance = await node.schedule(greet, name)
    return {"id": instance.id, "page": f"/jobs/instances/{instance.id}"}
