r"""A Django site over ASGI that shows a cluster at /jobs to its staff.

    PEERJOB_STORE=redis://localhost \
        uvicorn --app-dir examples --timeout-graceful-shutdown 3 django_dashboard:application

`allow` reads the session of Django, so /jobs needs no sign-in of its own. In a project of yours, this file is asgi.py,
and the settings are in a module.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from http.cookies import SimpleCookie
from typing import cast

import django
from django.conf import settings

if not settings.configured:
    settings.configure(
        SECRET_KEY=os.environ.get("SECRET_KEY", "only for this example"),
        ALLOWED_HOSTS=["localhost", "127.0.0.1"],
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        ROOT_URLCONF=__name__,
    )
    django.setup()

from asgiref.sync import sync_to_async
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.core.asgi import get_asgi_application
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount
from starlette.types import ASGIApp

from peerjob import Node, Principal, Rights, Role
from peerjob.web import dashboard

urlpatterns: list[object] = []
node = Node(os.environ.get("PEERJOB_STORE", "memory://"), workers=0)


async def allow(request: Request) -> Principal | None:
    """Let staff read, and superusers act."""
    session = SimpleCookie(request.headers.get("cookie", "")).get(settings.SESSION_COOKIE_NAME)
    user = None if session is None else await sync_to_async(user_of)(session.value)
    if user is None or not (user.is_active and user.is_staff):
        return None
    role = Role.ADMIN if user.is_superuser else Role.READER
    return Principal(name=user.get_username(), rights=Rights(role=role))


def user_of(session_key: str) -> User | None:
    """The user of a session of Django; None if there is none."""
    id = SessionStore(session_key).get(SESSION_KEY)
    return None if id is None else User.objects.filter(pk=id).first()


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncGenerator[None]:
    async with node:
        yield


site = cast("ASGIApp", get_asgi_application())
application = Starlette(
    routes=[Mount("/jobs", dashboard(node, authorize=allow)), Mount("/", site)],
    lifespan=lifespan,
)
