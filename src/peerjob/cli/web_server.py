"""Serves the dashboard of a node over HTTP, on the event loop of the node."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import ssl
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from peerjob import Node, OptionError
from peerjob.model.clock import Clock
from peerjob.model.extras import needs_extra
from peerjob.model.listen_address import address_not_free, is_loopback, parse_listen
from peerjob.model.rights import ANYBODY, Authenticator, Principal
from peerjob.model.shares import LimitLog, Shares
from peerjob.model.trusted_proxies import LOOPBACK as LOOPBACK_PROXIES
from peerjob.model.trusted_proxies import TrustedProxies, network_of
from peerjob.web import SignIn, dashboard
from peerjob.web.security import LOOPBACK, MAX_FORM

with needs_extra("web", "--web-listen"):
    import uvicorn
    from starlette.requests import Request
    from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

    from peerjob import ServerTls

WEB_PORT = 8080
STOP_SECONDS = 3
"""Seconds in which open requests end when the server stops. Live views end at once."""
MAX_CONNECTIONS = 500
"""The most connections and requests at a time; a further request gets the status 503."""
MAX_CONNECTIONS_ADDRESS = 250
"""The most connections of one address; a further one is closed."""
REQUEST_SECONDS = 10.0
"""Seconds after which a connection without a whole request is closed; it can stay for twice as long."""
MAX_STALLS = 6
"""How many times these seconds a client may take no byte of an answer before its connection is closed."""
SLOWEST = 40 << 10
"""Bytes of a form that must arrive in these seconds, so that its connection stays."""
MAX_SLOW = MAX_FORM + (64 << 10)
"""The most bytes that a connection takes in this way."""

logger = logging.getLogger("peerjob.web")


class WebServer:
    """The dashboard of a node on an address, with `start()` and `stop()`.

    Without `authenticators` each caller is an admin, as for gRPC. Off loopback the server needs TLS with
    `authenticators` or client certificates, unless `insecure` is set. `hosts` are further names in the Host header,
    such as that of a proxy; on loopback, only they and the names of loopback are answered. `trusted_proxies` are the
    addresses and networks of proxies whose X-Forwarded-For counts. Raises OptionError.
    """

    def __init__(
        self,
        node: Node,
        listen: str,
        *,
        authenticators: Sequence[Authenticator] = (),
        tls: ServerTls | None = None,
        insecure: bool = False,
        hosts: Sequence[str] = (),
        root_path: str = "",
        trusted_proxies: Sequence[str] = LOOPBACK_PROXIES,
    ) -> None:
        self._host, self._port = parse_listen("web_listen", listen, example=WEB_PORT)
        self._node = node
        self._tls = tls
        loopback = is_loopback(self._host)
        is_safe = tls is not None and (authenticators or tls.client_ca is not None)
        if not insecure and not loopback and not is_safe:
            raise OptionError("web_listen", listen, "an address of loopback, or TLS and tokens, or --insecure")
        if not insecure and hosts and not authenticators and (tls is None or tls.client_ca is None):
            raise OptionError("web_host", ", ".join(hosts), "tokens with it, or --insecure: a proxy lets others in")
        if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
            raise OptionError("web_root_path", root_path, "a path such as /jobs")
        names = [*LOOPBACK, self._host, *hosts] if loopback else list(hosts)
        authorize = SignIn(authenticators, clock=node.clock, namespace=node.namespace) if authenticators else _anybody
        self._dashboard = dashboard(node, authorize=authorize, hosts=names or None, trusted_proxies=trusted_proxies)
        self._limits = _ConnectionLimits(node.clock, TrustedProxies(trusted_proxies))
        self._root_path = root_path
        self._server: _UvicornServer | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The address for browsers on this machine."""
        host = self._host if self._host not in ("0.0.0.0", "[::]") else "127.0.0.1"  # noqa: S104  # it is compared
        return f"{'http' if self._tls is None else 'https'}://{host}:{self._port}{self._root_path}/"

    async def start(self) -> None:
        """Listen; raises OptionError for an address that is not free, or files of TLS that cannot be read."""
        tls = self._tls
        config = uvicorn.Config(
            self._dashboard,
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            # the dashboard itself reads the headers of proxies, and no variable of the environment trusts others
            proxy_headers=False,
            http=type("LimitedProtocol", (_HttpProtocol,), {"limits": self._limits}),
            root_path=self._root_path,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=STOP_SECONDS,
            ssl_certfile=None if tls is None else _path(tls.certificate),
            ssl_keyfile=None if tls is None else _path(tls.key),
            ssl_ca_certs=None if tls is None or tls.client_ca is None else _path(tls.client_ca),
            ssl_cert_reqs=ssl.CERT_NONE if tls is None or tls.client_ca is None else ssl.CERT_REQUIRED,
        )
        try:
            if tls is not None:
                tls.read()
            config.load()
        except OSError as error:
            raise OptionError("tls", repr(tls), f"a certificate and its private key ({error})") from None
        family = socket.AF_INET6 if self._host.startswith("[") else socket.AF_INET
        try:
            listening = socket.create_server((self._host.strip("[]"), self._port), family=family, backlog=128)
        except OSError as error:
            address = f"{self._host}:{self._port}"
            raise address_not_free("web_listen", address, error.strerror or str(error)) from None
        listening.setblocking(False)
        self._port = int(listening.getsockname()[1])
        self._server = _UvicornServer(config)
        self._serving = asyncio.get_running_loop().create_task(self._server.serve([listening]), name="peerjob-web")
        logger.info("node %r serves the dashboard on %s", self._node.name, self.url)

    def reload(self) -> None:
        """Use the present certificate for new connections; the old one stays if the files cannot be read."""
        if self._server is not None and self._tls is not None and self._server.config.ssl is not None:
            try:
                # OpenSSL would ask the terminal for the password of a key
                self._tls.read()
                self._server.config.ssl.load_cert_chain(_path(self._tls.certificate), _path(self._tls.key))
            except (OptionError, OSError) as error:
                logger.error("the certificate of the dashboard stays as it was: %s", error)  # noqa: TRY400  # one line

    async def stop(self, grace: float = 0.0) -> None:
        """End live views, let other requests end, and close; idempotent. Every request ends within three seconds."""
        server, serving = self._server, self._serving
        self._server = self._serving = None
        if server is not None and serving is not None:
            self._dashboard.close()
            server.should_exit = True
            await serving


def _path(given: object) -> str:
    if not isinstance(given, str | Path):
        raise OptionError("tls", "bytes", "files: the dashboard reads them itself")
    return str(given)


class _ConnectionLimits:
    """Leaves each address a share of the connections; not trusted proxies, since many callers share them."""

    def __init__(self, clock: Clock, proxies: TrustedProxies) -> None:
        self._shares = Shares(math.inf, MAX_CONNECTIONS_ADDRESS)
        self._proxies = proxies
        self._log = LimitLog(logger, clock)

    def take(self, address: str) -> str | None:
        """A permit for a connection, which is given back by its name; None if there is none for this address."""
        # there is no limit of all here: uvicorn answers requests above it with 503
        caller = "" if self._proxies.trusts(address) else network_of(address)
        if caller and not self._shares.admits(caller):
            self._log.warn(
                "address",
                "the dashboard closes a connection from %s: one address may have %d of %d; if it is a proxy, trust it",
                address,
                MAX_CONNECTIONS_ADDRESS,
                MAX_CONNECTIONS,
            )
            return None
        if self._shares.total >= MAX_CONNECTIONS:
            self._log.warn("all", "the dashboard has %d connections; further requests get 503", self._shares.total)
        self._shares.take(caller)
        return caller

    def give_back(self, caller: str) -> None:
        self._shares.give_back(caller)


class _HttpProtocol(H11Protocol):
    """Closes connections whose request does not arrive, so that they do not keep others out."""

    limits: _ConnectionLimits
    _permit: str | None = None
    _timer: asyncio.TimerHandle | None = None
    _received = _slow = 0
    """The bytes of this connection, and how many of them came while it stayed only because they did."""
    _unsent = _stalls = 0
    """The bytes that the client has not taken, and how many times in a row it took none."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._permit = self.limits.take(str((transport.get_extra_info("peername") or ("",))[0]))
        if self._permit is None:
            transport.abort()
        else:
            self._look(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._permit is not None:
            self.limits.give_back(self._permit)
            self._permit = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def _look(self, waited_for: object, received: int = 0) -> None:
        # the cycle is that of the latest request: it is the same as before if no other one has begun since
        cycle = cast("RequestResponseCycle | None", self.cycle)
        unsent = self.transport.get_write_buffer_size()
        # otherwise, the application can have added more than the client took
        adds_nothing = self.flow.write_paused or cycle is None or cycle.response_complete
        self._stalls = self._stalls + 1 if adds_nothing and unsent and unsent >= self._unsent else 0
        self._unsent = unsent
        if self._stalls > MAX_STALLS:
            # a close would wait for the client
            self.transport.abort()
            return
        waits = cycle is None or cycle.response_complete or cycle.more_body
        state = (cycle, waits)
        if waits and state == waited_for:
            arrived = self._received - received
            self._slow += arrived
            # a large form on a slow network is no connection that keeps others out
            if cycle is None or not cycle.more_body or arrived < SLOWEST or self._slow > MAX_SLOW:
                self.transport.close()
        self._timer = self.loop.call_later(REQUEST_SECONDS, self._look, state, self._received)


class _UvicornServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield  # the daemon handles signals


async def _anybody(request: Request) -> Principal:
    return ANYBODY
