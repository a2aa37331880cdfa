"""The address in a SQLite URL."""

from __future__ import annotations

import os.path
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from peerjob.model.errors import OptionError
from peerjob.store.url import query_options, redact, split_url, unquoted

Sync = Literal["full", "normal"]
_EXPECTED = "sqlite:///path/file.db, or sqlite:///./file.db for a file in the current folder"
ROOT = Path("/")
_SYNCS = ("full", "normal")


@dataclass(frozen=True, kw_only=True)
class SqliteAddress:
    """The parts of a URL."""

    path: Path
    """The absolute path of the file."""
    sync: Sync = "full"
    """`?sync=`: "full" waits for the disk with each write that is acknowledged, "normal" does not."""

    @property
    def url(self) -> str:
        """The URL with the absolute path."""
        options = "" if self.sync == "full" else f"?sync={self.sync}"
        root = "/" if self.path.parent == ROOT else ""
        return f"sqlite://{root}{quote(str(self.path))}{options}"


def parse_address(url: str) -> SqliteAddress:
    """Read `sqlite:///path/file.db[?sync=full|normal]`; raises OptionError.

    A path that begins with `/./` or `/../` is relative to the current folder; any other path is absolute. A file in the
    folder `/` needs a second slash: in the URLs of other libraries, `sqlite:///file.db` is in the current folder.
    """
    parts = split_url(url)
    path = unquoted(parts.path, url)
    if parts.netloc or not path.startswith("/") or path.endswith("/") or "\0" in path or parts.fragment:
        raise OptionError("store", redact(url), _EXPECTED)
    sync = query_options(url, {"sync": str}).get("sync", "full")
    if sync not in _SYNCS:
        raise OptionError("store option 'sync'", sync, "full or normal")
    relative = path.startswith(("/./", "/../"))
    absolute = os.path.abspath(path[1:] if relative else path)  # noqa: PTH100  # resolves `..` without reading links
    # a path that begins with two slashes, as in SQLAlchemy's URLs, means the same as one slash
    file = Path("/" + absolute.lstrip("/"))
    if file.parent == ROOT and not relative and not path.startswith("//"):
        raise OptionError(
            "store",
            redact(url),
            f"sqlite:///.{file} for a file in the current folder, or sqlite:///{file} for one in the folder /",
        )
    return SqliteAddress(path=file, sync="full" if sync == "full" else "normal")
