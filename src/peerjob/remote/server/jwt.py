"""Callers with a JSON Web Token of an identity provider (OpenID Connect)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import logging
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import msgspec

from peerjob.model.arguments import typed
from peerjob.model.clock import Clock, SystemClock, to_datetime
from peerjob.model.durations import Duration, to_seconds
from peerjob.model.errors import OptionError, UnauthenticatedError
from peerjob.model.extras import needs_extra
from peerjob.model.latest import Latest
from peerjob.model.limits import encodable
from peerjob.model.listen_address import is_loopback
from peerjob.model.rights import Authenticator, Principal, Rights

if TYPE_CHECKING:
    from jwt import PyJWK

logger = logging.getLogger("peerjob.server")

ALGORITHMS = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256", "ES384", "ES512"),
    "OKP": ("EdDSA",),
}
"""The type of a key → the algorithms that the server accepts with it. Shared secrets and "none" are never accepted."""
MAX_KEYS_BYTES = 256 << 10
MIN_RSA_BITS = 2_048
"""The fewest bits of an RSA key; a shorter one is left out."""
FETCH_SECONDS = 5.0
MAX_AGE = 300.0
"""Seconds after which the keys are read again."""
MIN_AGE = 10.0
"""The fewest seconds between two reads of the keys, if tokens name keys that are not known."""
MAX_KNOWN = 1_000
"""The most tokens whose signature need not be checked again."""
MAX_NAME = 200


class Jwt(Authenticator):
    """Accepts JSON Web Tokens that an issuer signed for an audience. Needs the extra `jwt`. Raises OptionError.

    - `keys`: the issuer's keys (JWKS), as a file or as an https URL, which is read every five minutes, and for an
      unknown key. Only RSA, EC and Ed25519 signatures are accepted.
    - `rights`: value of the claim → rights. The first entry counts whose value the claim has. `claim` may have a path,
      such as realm_access.roles.
    - A token is valid until its `exp`; `leeway` allows for clocks that disagree.
    """

    @typed
    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        keys: str | Path,
        rights: Mapping[str, Rights],
        claim: str = "roles",
        leeway: Duration = 30.0,
        clock: Clock | None = None,
    ) -> None:
        for name, value in (("issuer", issuer), ("audience", audience), ("claim", claim), ("rights", rights)):
            if not value:
                raise OptionError(name, value, "a value")
        _library()
        self._issuer = issuer
        self._audience = audience
        self._rights = dict(rights)
        self._claim = claim
        self._leeway = to_seconds(leeway, "leeway")
        self._clock = SystemClock() if clock is None else clock
        self._keys = _Keys(keys, self._clock)
        self._known = Latest[str, Principal](MAX_KNOWN)

    async def principal_of(self, token: str) -> Principal | None:
        if token.count(".") != 2:
            return None
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
        known = self._known.get(digest)
        if known is not None and self.knows(known):
            return known
        principal = await self._checked(token)
        self._known[digest] = principal
        return principal

    def knows(self, principal: Principal) -> bool:
        return bool(principal.key) and self._keys.has(principal.key)

    async def _checked(self, token: str) -> Principal:
        jwt = _library()
        try:
            name = str(jwt.get_unverified_header(token).get("kid", ""))
            key = await self._keys.key(name)
            claims: dict[str, Any] = jwt.decode(
                token,
                key=key.public,
                algorithms=list(key.algorithms),
                audience=self._audience,
                issuer=self._issuer,
                # the times are checked below, by the clock of the node
                options={
                    "require": ["exp", "iss", "aud", "sub"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.InvalidTokenError as error:
            raise UnauthenticatedError(f"the token is not valid here: {type(error).__name__}") from None
        until = self._until(claims)
        values = _values(claims, self._claim)
        rights = next((given for value, given in self._rights.items() if value in values), None)
        if rights is None:
            raise UnauthenticatedError(f"the claim {self._claim!r} of the token gives no rights here")
        subject = str(claims["sub"])
        if not subject:
            raise UnauthenticatedError("the token is not valid here: sub is empty")
        until = until if rights.until is None else min(until, rights.until)
        return Principal(
            name=subject[:MAX_NAME], rights=replace(rights, until=until), credential=f"jwt {subject}", key=key.id
        )

    def _until(self, claims: dict[str, Any]) -> datetime:
        now = self._clock.time_us() / 1_000_000
        ends, begins = claims["exp"], claims.get("nbf", 0)
        if not all(isinstance(time, int | float) and abs(time) < 1e11 for time in (ends, begins)):
            raise UnauthenticatedError("the token is not valid here: exp or nbf is no time")
        if begins > now + self._leeway:
            raise UnauthenticatedError("the token is not valid yet")
        try:
            return to_datetime(round((ends + self._leeway) * 1_000_000))
        except (OverflowError, ValueError):
            raise UnauthenticatedError("the token is not valid here: exp is no time") from None


@dataclass(frozen=True, kw_only=True)
class _Key:
    id: str
    """A hash of the key and its name: a key that replaces another one under the same name has another id."""
    public: Any
    algorithms: tuple[str, ...]
    """The algorithm that the issuer names; if it names none, all that fit the key."""


class _Keys:
    """The keys of an issuer, read again when they are old or when a token names an unknown key."""

    def __init__(self, source: str | Path, clock: Clock) -> None:
        self._source = source
        self._url = _checked_url(source)
        self._clock = clock
        self._keys: dict[str, _Key] = {}
        self._read_at: float | None = None
        self._reading: asyncio.Task[None] | None = None
        self._complaint = ""
        if self._url is None:
            self._set(_parsed(_file(Path(source))))

    def has(self, id: str) -> bool:
        """Whether the issuer has a key, by the last read. Old keys are read again, for the next call."""
        self._refreshed(MAX_AGE)
        return any(key.id == id for key in self._keys.values())

    async def key(self, name: str) -> _Key:
        """The key of a name; without a name, the only key. Raises UnauthenticatedError."""
        key = self._find(name)
        reading = self._refreshed(MIN_AGE if key is None else MAX_AGE)
        # old keys are used until the new ones are there
        if key is None and reading is not None:
            await asyncio.shield(reading)
            key = self._find(name)
        if key is None:
            raise UnauthenticatedError("the token is signed with a key that is not known here")
        return key

    def _find(self, name: str) -> _Key | None:
        return next(iter(self._keys.values())) if not name and len(self._keys) == 1 else self._keys.get(name)

    def _refreshed(self, seconds: float) -> asyncio.Task[None] | None:
        """The task that reads the keys, if they are older than some seconds."""
        if self._read_at is not None and self._clock.elapsed() - self._read_at <= seconds:
            return None
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(
                self._refresh(), name="peerjob-jwt-keys", context=Context()
            )
        return self._reading

    async def _refresh(self) -> None:
        try:
            read: Callable[[Any], bytes] = _file if self._url is None else _fetched
            source: Any = self._url or Path(self._source)
            self._set(_parsed(await _in_thread(read, source)))
            self._complaint = ""
        except OptionError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                # without a traceback, since the error names the source
                logger.error("the keys of the token issuer stay as they were: %s", error)  # noqa: TRY400
        finally:
            self._read_at = self._clock.elapsed()
            self._reading = None

    def _set(self, keys: dict[str, _Key]) -> None:
        self._keys, self._read_at = keys, self._clock.elapsed()


def _library() -> ModuleType:
    """PyJWT; raises MissingExtraError."""
    with needs_extra("jwt", "Jwt"):
        import cryptography as _needed_by_jwt  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import jwt
    return jwt


def _checked_url(source: str | Path) -> str | None:
    """The URL, or None for a file."""
    if isinstance(source, Path) or "://" not in source:
        if "\0" in str(source) or not encodable(str(source)):
            raise OptionError("keys", source, "a file or an https URL")
        return None
    parts = urllib.parse.urlsplit(source)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise OptionError("keys", source, "a file, or a URL with https://")
    return source


def _file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEYS_BYTES + 1)
    except OSError as error:
        raise OptionError("keys", str(path), f"a file that can be read ({error.strerror})") from None


async def _in_thread(read: Callable[[Any], bytes], source: str | Path) -> bytes:
    """Read the source of the keys; raises OptionError, also after FETCH_SECONDS.

    The thread is a daemon, so that a source that sends its bytes one by one does not keep the process from its end.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()

    def resolve(data: bytes, error: Exception | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(data)
        else:
            answer.set_exception(error)

    def run() -> None:
        data, failed = b"", None
        try:
            data = read(source)
        except Exception as error:  # noqa: BLE001  # raised again by the caller
            failed = error
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(resolve, data, failed)

    threading.Thread(target=run, name="peerjob-jwt-keys", daemon=True).start()
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            return await answer
    except TimeoutError:
        raise OptionError("keys", str(source), f"a source that can be read within {FETCH_SECONDS:g} s") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _fetched(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
    try:
        with opener.open(url, timeout=FETCH_SECONDS) as answer:
            return cast(bytes, answer.read(MAX_KEYS_BYTES + 1))
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is the response
        raise OptionError("keys", url, f"a URL that can be read ({error})") from None


def _parsed(data: bytes) -> dict[str, _Key]:
    """The keys of a JWKS that verify signatures, by name."""
    jwt = _library()
    if len(data) > MAX_KEYS_BYTES:
        raise OptionError("keys", f"more than {MAX_KEYS_BYTES:,} bytes", "a JWKS")
    keys: dict[str, _Key] = {}
    try:
        for entry in json.loads(data)["keys"]:
            if entry.get("kty") in ALGORITHMS and entry.get("use", "sig") == "sig":
                try:
                    keys[str(entry.get("kid", ""))] = _key(entry, jwt.PyJWK(entry))
                except (jwt.PyJWTError, _WeakKeyError) as error:
                    logger.warning("a key of the token issuer is left out: %s", error)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise OptionError("keys", f"{len(data):,} bytes", 'a JWKS: {"keys": […]}') from None
    return keys


class _WeakKeyError(Exception):
    """A key with which others can sign tokens."""


def _key(given: Mapping[str, Any], key: PyJWK) -> _Key:
    if key.key_type == "RSA" and key.key.key_size < MIN_RSA_BITS:
        raise _WeakKeyError(f"an RSA key must have at least {MIN_RSA_BITS:,} bits, this one has {key.key.key_size:,}")
    parts = json.dumps([given.get(name) for name in ("kid", "kty", "crv", "n", "e", "x", "y")])
    fitting = ALGORITHMS[str(key.key_type)]
    if "alg" in given or key.key_type == "EC":  # each curve has one algorithm
        fitting = tuple(algorithm for algorithm in fitting if algorithm == key.algorithm_name)
    return _Key(id=hashlib.sha256(parts.encode()).hexdigest(), public=key.key, algorithms=fitting)


def _values(claims: Mapping[str, Any], path: str) -> set[str]:
    """The values of a claim: a text with words, or a list of texts."""
    value: Any = claims.get(path)
    if value is None:
        value = claims
        for part in path.split("."):
            value = cast("dict[str, Any]", value).get(part) if isinstance(value, dict) else None
    if isinstance(value, str):
        return {value, *value.split()}
    try:
        return set(msgspec.convert(value, list[str]))
    except msgspec.ValidationError:
        return set()


def parse_rights(option: str, texts: list[str]) -> dict[str, Rights]:
    """Read VALUE=ROLE;kinds=…;namespaces=… for each value of a claim; raises OptionError."""
    mapped: dict[str, Rights] = {}
    for text in texts:
        value, equals, rights = text.partition("=")
        if not equals or not value or value in mapped:
            wanted = "VALUE=ROLE, such as ops=admin or mail-team=operator;kinds=mail.*, once for each value"
            raise OptionError(option, text, wanted)
        mapped[value] = Rights.parse(option, rights.split(";"))
    return mapped
