"""Links within the dashboard. They begin with the path at which it is mounted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlencode

from starlette.requests import Request

from peerjob.version import __version__

_FOLDER = re.compile(r"~*\.\.?")


@dataclass(frozen=True, kw_only=True)
class Links:
    """Makes the links of the pages of one cluster. Templates that are shared by all readers get it as `visit`."""

    root: str
    """The path of the dashboard, such as /jobs; "" for the root of the server."""
    cluster: str = ""
    """The name of the cluster; "" if the dashboard serves only one."""

    @property
    def base(self) -> str:
        """The path of the pages of this cluster."""
        return f"{self.root}/{self.cluster}" if self.cluster else self.root

    def url(self, path: str, **query: object) -> str:
        """A link to a page of this cluster, without empty values. User text in the path comes from `part`."""
        given = [(name.rstrip("_"), str(value)) for name, value in query.items() if value not in (None, "")]
        return f"{self.base}{path}{'?' if given else ''}{urlencode(given)}"

    def part(self, text: str) -> str:
        """A text as the last part of a path; its route has `{name:path}`, since the text can contain a slash.

        `text_of_part` reads it.
        """
        # browsers take the parts "." and ".." for folders, also if they are percent-encoded
        return f"~{text}" if _FOLDER.fullmatch(text) else quote(text, safe="")

    def asset(self, name: str) -> str:
        """A link to a static file of this release."""
        return f"{self.root}/static/{name}?v={__version__}"


def text_of_part(text: str) -> str:
    """The inverse of `Links.part`, after the percent-encoding was decoded."""
    return text[1:] if text.startswith("~") and _FOLDER.fullmatch(text) else text


def link_of(request: Request, base: str) -> str:
    """The path and the query of a request, after the path of the dashboard, encoded as in a link."""
    query = request.url.query
    # the server has decoded the path
    path = quote(str(request.scope["path"]).removeprefix(base), safe="/:@!$&'()*+,;=~")
    return f"{path}{'?' if query else ''}{query}"


def safe_link(text: str) -> str:
    """A path of this dashboard, or "/" for any other text, so that a link cannot lead to another site."""
    plain = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isprintable()
    path = text.partition("?")[0].partition("#")[0]
    # browsers also take "%2e" for a dot
    folders = (unquote(part) in (".", "..") for part in path.split("/"))
    return text if plain and not any(folders) and unquote(path)[:2] not in ("//", "/\\") else "/"
