"""The dashboard: pages that show a cluster, and forms that act on it, as an ASGI application.

    from peerjob.web import dashboard

    async def allow(request: Request) -> Role | None: ...

    app.mount("/jobs", dashboard(node, authorize=allow))

The pages use only the verbs of `Manager`, so a Node and a Client both serve them.

To add a page, such as /nodes:

1. Write `pages/nodes.py`, at most 300 lines: `async def nodes(visit: Visit) -> Shown`, which reads through
   `visit.manager` and returns `Shown("nodes.html", rows=...)`.
2. List it in `ROUTES = (page("/nodes", nodes, title="Nodes"), ...)` of that file, and the file in `pages/__init__.py`.
   A title puts the page into the navigation.
3. Write `templates/nodes.html`, which extends `base.html` and fills `{% block main %}`. Links come from
   `visit.url("/nodes")`, and styles are classes of `static/app.css`: inline styles and scripts are forbidden.
4. A form posts to an `action("/nodes/drain", drain, role=Role.ADMIN, verb="Drain")` and has `{{ visit.token_field }}`.
   The handler sets `visit.act.criteria` and `visit.act.count`, and returns `Done(to=visit.url("/nodes"), notice="…")`.
   The route checks the role, the origin and the token, and writes the audit record. The template hides the form unless
   `visit.may("admin")`.

Errors of peerjob need no handling: the route shows them, and shows the last page with its age if the store is away.
"""

from __future__ import annotations

from peerjob.model.extras import needs_extra

with needs_extra("web", "peerjob.web"):
    import jinja2 as _jinja2  # noqa: F401  # pyright: ignore[reportUnusedImport]
    import starlette as _starlette  # noqa: F401  # pyright: ignore[reportUnusedImport]

from .app import Dashboard, dashboard
from .security import Authorize
from .signin import SignIn

__all__ = ["Authorize", "Dashboard", "SignIn", "dashboard"]
