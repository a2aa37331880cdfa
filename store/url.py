"""Store URLs: how to read and how to show them. This module imports no engine and no driver."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from peerjob.model.errors import OptionError
from peerjob.model.printable import with_article

_HOSTS_END = re.compile("[/?#]")
_SECRET_OPTION = re.compile(r"[?&]([a-z_]*password=)(.*)", re.DOTALL)
"""An option with a password, and all text after it: an unescaped `&` can be a part of the password."""
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_ESCAPED = "a URL whose password has %2F for /, %3F for ?, %23 for #, %5B for [ and %40 for @"


class Host(NamedTuple):
    """A server's name or IP address, and its port."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


def scheme_of(url: str) -> str:
    """The scheme of a URL; raises OptionError if the URL cannot be read."""
    return split_url(url).scheme


def split_url(url: str) -> SplitResult:
    """The parts of a URL, also of one with several IPv6 hosts, which urlsplit refuses; raises OptionError."""
    scheme, slashes, rest = url.partition("://")
    netloc = _HOSTS_END.split(rest, maxsplit=1)[0] if slashes else ""
    credentials, _, hosts = netloc.rpartition("@")
    try:
        if "[" in credentials or "]" in credentials:
            raise ValueError
        for host in hosts.split(","):
            urlsplit(f"//{host}")
        bare = urlsplit(f"{scheme}://{rest[len(netloc) :]}" if slashes else url)
    except ValueError:
        raise OptionError("store", redact(url), _ESCAPED) from None
    return bare._replace(netloc=netloc)


def hosts_of(url: str, default_port: int) -> tuple[Host, ...]:
    """The hosts of a URL, with commas between them; "localhost" if there is none. Raises OptionError."""
    hosts = split_url(url).netloc.rpartition("@")[2] or "localhost"
    return tuple(_host(host, default_port, url) for host in hosts.split(","))


def _host(text: str, default_port: int, url: str) -> Host:
    try:
        name, port = urlsplit(f"//{text}").hostname, urlsplit(f"//{text}").port
    except ValueError:
        raise OptionError("store", redact(url), "ports from 1 to 65535") from None
    if not name:
        raise OptionError("store", redact(url), "a host before and after each comma")
    return Host(name, port or default_port)


def credentials_of(url: str) -> tuple[str, str]:
    """The user name and the password of a URL, each "" if it is missing."""
    user, _, password = split_url(url).netloc.rpartition("@")[0].partition(":")
    return unquote(user), unquote(password)


def redact(url: str) -> str:
    """The URL without its passwords, even if a password has unescaped characters that end the host for a parser."""
    secret = _SECRET_OPTION.search(url)
    if secret is not None:
        if "@" in secret[2]:
            # Without escapes, either password of the URL can end at the `@`.
            return f"{url.partition('://')[0]}://***"
        url = f"{url[: secret.start(2)]}***"
    scheme, slashes, rest = url.partition("://")
    if scheme == "sqlite":
        return url
    credentials, at, host = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    # A single credential can be a password in the place of the user name, so hide the credential.
    shown = f"{user}:***" if colon else "***" if at else ""
    return f"{scheme}{slashes}{shown}{at}{host}"


def query_options(url: str, known: Mapping[str, type[Any]]) -> dict[str, Any]:
    """The query part of a URL as typed options; raises OptionError for an unknown name."""
    found: dict[str, Any] = {}
    for name, text in parse_qsl(split_url(url).query, keep_blank_values=True):
        if name not in known:
            # An unknown option can be a part of a password with an unescaped `?` or `&`, so the error must not show it.
            if "@" in name + text or _SECRET_OPTION.search(url):
                raise OptionError("store", redact(url), _ESCAPED)
            raise OptionError(f"store option {name!r}", text, f"one of {', '.join(sorted(known)) or 'none'}")
        wanted = known[name]
        try:
            found[name] = _truth(text) if wanted is bool else wanted(text)
        except ValueError:
            expected = "true or false" if wanted is bool else with_article(wanted.__name__)
            raise OptionError(f"store option {name!r}", text, expected) from None
    return found


def _truth(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError
    return text.lower() in _TRUE


def file_options(url: str, options: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Path]:
    """The options that name files, the last two of them a certificate and its key; raises OptionError.

    Each file must exist, and the certificate and its key come together.
    """
    paths = {name: Path(options[name]) for name in names if name in options}
    for path in paths.values():
        if not path.is_file():
            raise OptionError("store", redact(url), f"a file at {path}")
    certificate, key = names[-2:]
    if (certificate in paths) != (key in paths):
        raise OptionError("store", redact(url), f"{certificate} and {key} together")
    return paths
