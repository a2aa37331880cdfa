"""Store URLs: how to read and how to show them. This module imports no engine and no driver."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from peerjob.model.errors import OptionError
from peerjob.model.printable import with_article

_HOSTS_END = re.compile("[/?#]")
_HOST = re.compile(r"(?:\[(?P<ip>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<name>[^\[\]:%\s]+))(?::(?P<port>.*))?", re.DOTALL)
_PORT = re.compile(r"0*[1-9][0-9]{0,4}")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_SECRET_OPTION = re.compile(r"[?&]([a-z_]*password=)(.*)", re.DOTALL)
"""An option with a password, and all text after it: an unescaped `&` can be a part of the password."""
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_ESCAPED = "a URL whose password has %2F for /, %3F for ?, %23 for #, %5B for [ and %40 for @"
_UTF8 = "a URL of text in UTF-8, also in its escapes"
MAX_PORT = 65_535


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
    credentials = netloc.rpartition("@")[0]
    try:
        if "[" in credentials or "]" in credentials:
            raise ValueError
        bare = urlsplit(f"{scheme}://{rest[len(netloc) :]}" if slashes else url)
    except ValueError:
        raise OptionError("store", redact(url), _ESCAPED) from None
    return bare._replace(netloc=netloc)


def hosts_of(url: str, default_port: int) -> tuple[Host, ...]:
    """The hosts of a URL, with commas between them; "localhost" if there is none. Raises OptionError."""
    hosts = split_url(url).netloc.rpartition("@")[2] or "localhost"
    return tuple(_host(host, default_port, url) for host in hosts.split(","))


def _host(text: str, default_port: int, url: str) -> Host:
    # A file that holds the URL can end with a line break.
    parts = _HOST.fullmatch(text.strip("\r\n\t"))
    if parts is None:
        expected = "a host before and after each comma, as in name, name:port, 10.0.0.1:port or [2001:db8::1]:port"
        raise OptionError("store", redact(url), expected)
    # `%25` before the zone of an IPv6 address is the escape for `%`.
    name, port = (parts["ip"] or parts["name"]).replace("%25", "%"), parts["port"] or str(default_port)
    if not _PORT.fullmatch(port) or int(port) > MAX_PORT:
        raise OptionError("store", redact(url), f"ports from 1 to {MAX_PORT}")
    return Host(name.lower(), int(port))


def credentials_of(url: str) -> tuple[str, str]:
    """The user name and the password of a URL, each "" if it is missing; raises OptionError."""
    user, _, password = split_url(url).netloc.rpartition("@")[0].partition(":")
    return unquoted(user, url), unquoted(password, url)


def unquoted(text: str, url: str) -> str:
    """Replace the escapes in a part of a URL; raises OptionError if the result is no text."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise OptionError("store", redact(url), _UTF8) from None


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
    """The query part of a URL as typed options; raises OptionError for an unknown name, or for a name given twice.

    It also refuses what no URL of a store may have.
    """
    options: dict[str, Any] = {}
    for name, text in _pairs(url):
        if name not in known:
            # An unknown option can be a part of a password with an unescaped `?` or `&`, so the error must not show it.
            if "@" in name + text or _SECRET_OPTION.search(url):
                raise OptionError("store", redact(url), _ESCAPED)
            raise OptionError(f"store option {name!r}", text, f"one of {', '.join(sorted(known)) or 'none'}")
        if name in options:
            raise OptionError("store", redact(url), f"the option {name!r} once")
        wanted = known[name]
        try:
            options[name] = _READ[wanted](text)
        except ValueError:
            expected = "true or false" if wanted is bool else with_article(wanted.__name__)
            raise OptionError(f"store option {name!r}", text, expected) from None
    return options


def _pairs(url: str) -> list[tuple[str, str]]:
    scheme, slashes, _ = url.partition("://")
    if not slashes or not scheme:
        raise OptionError("store", redact(url), "a URL with :// after its scheme")
    parts = split_url(url)
    if parts.fragment or url.endswith("#"):
        raise OptionError("store", redact(url), "a URL without #, or with %23 for it")
    try:
        url.encode()
        return parse_qsl(parts.query, keep_blank_values=True, errors="strict")
    except UnicodeError:
        raise OptionError("store", redact(url), _UTF8) from None


def _integer(text: str) -> int:
    # int() also takes spaces, underscores and the digits of other scripts.
    if not _INTEGER.fullmatch(text):
        raise ValueError
    return int(text)


def _truth(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError
    return text.lower() in _TRUE


_READ: Mapping[type[Any], Callable[[str], Any]] = {bool: _truth, int: _integer, str: str}
"""The functions that read the options of a type."""


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
