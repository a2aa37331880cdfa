"""Links within the dashboard. They begin with the path at which it is mounted."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlencode

from peerjob.version import __version__


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
        """A text as the last part of a path; its route has `{name:path}`, since the text can contain a slash."""
        return quote(text, safe="")

    def asset(self, name: str) -> str:
        """A link to a static file of this release."""
        return f"{self.root}/static/{name}?v={__version__}"
