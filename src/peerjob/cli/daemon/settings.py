"""The table of jobd's options, with their defaults and their help, and what a daemon makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peerjob import Clock, Node, OptionError
from peerjob.cli.settings import (
    declare,
    given_layers,
    merged,
    options_of,
    parameters_of,
    read_setting,
    setting,
    use_file,
    variable_of,
)
from peerjob.model.durations import to_seconds
from peerjob.model.trusted_proxies import LOOPBACK, TrustedProxies

from .logs import LogFormat, LogLevel

if TYPE_CHECKING:  # these imports load gRPC, so at run time only the functions that need gRPC import them
    from peerjob import Jwt, ScalerServer, Server, ServerTls, Tokens
    from peerjob.cli.web_server import WebServer
    from peerjob.node.observe.metrics import MetricsServer
    from peerjob.sql import OutboxRelay

OFF = "off"
DEFAULT_STORE = "sqlite:///./peerjob.db"
METRICS_PORT = 9090
STORE, SERVICE, LOGS = "Store", "Service", "Logs"
"""The titles of the panels in which the help of `jobd` shows the options."""


@dataclass(frozen=True, kw_only=True)
class DaemonSettings:
    """The options of a daemon, checked as far as that needs no file and no server."""

    jobs: Annotated[
        list[str],
        typer.Argument(
            metavar="MODULE...",
            envvar=variable_of("jobs"),
            help="The modules of the jobs, such as app.jobs. jobd looks in --app-dir, then among installed packages.",
            show_default=False,
        ),
    ] = field(default_factory=list[str])
    config: Annotated[
        Path | None,
        setting(
            "A TOML file with any of these options. Flags and the environment override it.",
            variable="PEERJOB_JOBD_CONFIG",
            is_eager=True,
            callback=use_file,
        ),
    ] = None
    app_dir: Annotated[
        Path, setting("The folder in which jobd looks for modules first.", metavar="DIR", default="the current folder")
    ] = Path()
    name: Annotated[
        str | None, setting("The node's name, for people.", metavar="NAME", default="host name and process id")
    ] = None
    workers: Annotated[
        int, setting("The number of jobs that run at a time. With 0, the node only serves.", min=0, metavar="N")
    ] = 10
    grace: Annotated[str, setting("How long running jobs may continue when the node stops.", metavar="DURATION")] = (
        "30s"
    )
    lease_ttl: Annotated[
        str, setting("The time after which peers take over the jobs of a dead node; 1s or more.", metavar="DURATION")
    ] = "5s"
    allow_references: Annotated[
        list[str] | None,
        setting(
            "A module or package whose functions options of single runs may name. Modules with jobs are always "
            "allowed.",
            metavar="MODULE",
        ),
    ] = None
    timezone: Annotated[str, setting("The time zone of cron schedules that name none.", metavar="ZONE")] = "UTC"

    store: Annotated[
        str,
        setting(
            "The store that the nodes share: redis://, valkey:// or etcd://, with TLS rediss:// and so on; behind "
            "sentinels redis+sentinel://; sqlite:///path/file.db for the nodes of this machine. memory:// ends with "
            "this process.",
            metavar="URL",
            panel=STORE,
        ),
    ] = field(default=DEFAULT_STORE, repr=False)  # the URL can contain a password
    store_file: Annotated[
        Path | None,
        setting("A file that contains the store's URL. The list of processes then shows no password.", panel=STORE),
    ] = None
    store_retry: Annotated[
        str,
        setting(
            "How long a call is repeated while the store is away. Outcomes of jobs are repeated without a limit.",
            metavar="DURATION",
            panel=STORE,
        ),
    ] = "30s"
    coordinator: Annotated[
        str | None,
        setting(
            "The service that elects the leader, which fires schedules; such as etcd://host.",
            metavar="URL",
            default="the store",
            panel=STORE,
        ),
    ] = field(default=None, repr=False)
    coordinator_file: Annotated[Path | None, setting("A file that contains the coordinator's URL.", panel=STORE)] = None
    namespace: Annotated[str, setting("Separates the applications of one store.", metavar="NAME", panel=STORE)] = (
        "default"
    )

    outbox: Annotated[
        str | None,
        setting(
            "The database whose outbox this node relays, as a URL of SQLAlchemy: postgresql://host/app.",
            metavar="URL",
            default="none",
            panel=STORE,
        ),
    ] = field(default=None, repr=False)  # the URL can contain a password
    outbox_file: Annotated[Path | None, setting("A file that contains the URL of the outbox.", panel=STORE)] = None
    outbox_table: Annotated[str, setting("The table of the outbox.", metavar="NAME", panel=STORE)] = "peerjob_outbox"

    listen: Annotated[
        str,
        setting(f"The address for gRPC: jobctl and clients. {OFF} disables it.", metavar="HOST:PORT", panel=SERVICE),
    ] = "127.0.0.1:59051"
    insecure: Annotated[
        bool, setting("Accept all callers on an address off loopback, without TLS or tokens.", panel=SERVICE)
    ] = False
    tls_cert: Annotated[Path | None, setting("The node's certificate, as PEM.", default="no TLS", panel=SERVICE)] = None
    tls_key: Annotated[Path | None, setting("The key of the certificate, as PEM.", panel=SERVICE)] = None
    tls_client_ca: Annotated[
        Path | None, setting("Accept only clients with a certificate of this CA.", panel=SERVICE)
    ] = None
    tokens_file: Annotated[
        Path | None, setting("Accept only callers with a token of this file; see `jobd token create`.", panel=SERVICE)
    ] = None
    jwt_issuer: Annotated[
        str | None,
        setting("Accept callers with a JWT of this issuer (OIDC).", metavar="URL", default="no JWT", panel=SERVICE),
    ] = None
    jwt_audience: Annotated[str | None, setting("The audience of a JWT.", metavar="NAME", panel=SERVICE)] = None
    jwt_keys: Annotated[
        str | None, setting("The issuer's keys (JWKS): a file, or an https URL.", metavar="FILE|URL", panel=SERVICE)
    ] = None
    jwt_claim: Annotated[
        str,
        setting("The claim with the roles; may be a path, such as realm_access.roles.", metavar="CLAIM", panel=SERVICE),
    ] = "roles"
    jwt_rights: Annotated[
        list[str] | None,
        setting(
            "A value of the claim, and its rights: ops=admin, or mail-team=operator;kinds=mail.*. May be repeated; the "
            "first match counts.",
            metavar="VALUE=RIGHTS",
            panel=SERVICE,
        ),
    ] = None
    rate: Annotated[
        float | None,
        setting(
            "The maximum of calls per second from one address.",
            min=0.001,
            metavar="N",
            default="unlimited",
            panel=SERVICE,
        ),
    ] = None
    max_connections: Annotated[
        int,
        setting(
            "The maximum of gRPC connections. jobd closes further ones at once.", min=1, metavar="N", panel=SERVICE
        ),
    ] = 1_000
    trusted_proxy: Annotated[
        list[str] | None,
        setting(
            "The address or network of a proxy, such as 10.0.0.0/8: behind it, X-Forwarded-For has the address of the "
            "caller. May be repeated.",
            metavar="ADDRESS",
            default="none; for the dashboard, loopback",
            panel=SERVICE,
        ),
    ] = None
    metrics_listen: Annotated[
        str,
        setting(
            f"The address for metrics (HTTP, for Prometheus) and for probes. {OFF} disables both.",
            metavar="HOST:PORT",
            panel=SERVICE,
        ),
    ] = f"127.0.0.1:{METRICS_PORT}"
    metrics_compat: Annotated[bool, setting("Also export metrics under go-job's names.", panel=SERVICE)] = False

    scaler_listen: Annotated[
        str,
        setting(
            f"The address for KEDA, as an external scaler, with the TLS of the service. {OFF} disables it.",
            metavar="HOST:PORT",
            panel=SERVICE,
        ),
    ] = OFF

    web_listen: Annotated[
        str,
        setting(
            f"The address of the dashboard, with the TLS and the tokens of the service. {OFF} disables it.",
            metavar="HOST:PORT",
            panel=SERVICE,
        ),
    ] = OFF
    web_host: Annotated[
        list[str] | None,
        setting(
            "A further name of the dashboard in the Host header, such as that of a proxy. May be repeated.",
            metavar="NAME",
            default="the names of loopback; all on another address",
            panel=SERVICE,
        ),
    ] = None
    web_root_path: Annotated[
        str | None, setting("The path of the dashboard behind a proxy that removes it.", metavar="PATH", panel=SERVICE)
    ] = None

    log_format: Annotated[
        LogFormat, setting("Lines for people (human), or one JSON object a line (json).", panel=LOGS)
    ] = LogFormat.HUMAN
    log_level: Annotated[LogLevel, setting("The lowest level that is logged.", panel=LOGS)] = LogLevel.INFO

    def __post_init__(self) -> None:
        """Raise OptionError for options that contradict each other, and for bad durations."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise OptionError("--tls-cert", "one of --tls-cert and --tls-key", "both, or none of them")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise OptionError("--tls-client-ca", str(self.tls_client_ca), "--tls-cert and --tls-key with it")
        jwt = {name: getattr(self, name) for name in ("jwt_issuer", "jwt_audience", "jwt_keys", "jwt_rights")}
        if any(jwt.values()) and not all(jwt.values()):
            missing = ", ".join(f"--{name.replace('_', '-')}" for name, value in jwt.items() if not value)
            raise OptionError("--jwt-issuer", "an incomplete set of options", f"also {missing}")
        TrustedProxies(self.trusted_proxy or (), "--trusted-proxy")
        for option, value in (
            ("--grace", self.grace),
            ("--lease-ttl", self.lease_ttl),
            ("--store-retry", self.store_retry),
        ):
            to_seconds(value, option)

    @property
    def grace_seconds(self) -> float:
        return to_seconds(self.grace, "--grace")

    @property
    def tls(self) -> ServerTls | None:
        """The TLS of the gRPC service."""
        from peerjob import ServerTls

        if self.tls_cert is None or self.tls_key is None:
            return None
        return ServerTls(certificate=self.tls_cert, key=self.tls_key, client_ca=self.tls_client_ca)

    def jwt(self, clock: Clock) -> Jwt | None:
        """The JWTs that the gRPC service accepts; None if it accepts none."""
        from peerjob.remote.server.jwt import Jwt, parse_rights

        if self.jwt_issuer is None or self.jwt_audience is None or self.jwt_keys is None:
            return None
        return Jwt(
            issuer=self.jwt_issuer,
            audience=self.jwt_audience,
            keys=self.jwt_keys,
            rights=parse_rights("--jwt-rights", self.jwt_rights or []),
            claim=self.jwt_claim,
            clock=clock,
        )

    def node(self, jobs: Sequence[Any], clock: Clock) -> Node:
        """The node of these settings, not started."""
        return Node(
            self.store,
            jobs=jobs,
            workers=self.workers,
            coordinator=self.coordinator,
            namespace=self.namespace,
            name=self.name,
            lease_ttl=self.lease_ttl,
            store_retry=self.store_retry,
            timezone=self.timezone,
            clock=clock,
            allow_unknown=True,
            allow_references=(*self.jobs, *(self.allow_references or ())),
            outbox=self.relay(),
        )

    def relay(self) -> OutboxRelay | None:
        """The relay of the outbox; None without one."""
        if self.outbox is None:
            return None
        from peerjob.sql import OutboxRelay

        return OutboxRelay.at(self.outbox, self.outbox_table)

    def server(self, node: Node, tokens: Tokens | None) -> Server | None:
        """The gRPC service of a node, not started; None if it is off."""
        from peerjob import Server

        if self.listen == OFF:
            return None
        return Server(
            node,
            self.listen,
            tls=self.tls,
            tokens=tokens,
            jwt=self.jwt(node.clock),
            insecure=self.insecure,
            rate=self.rate,
            max_connections=self.max_connections,
            trusted_proxies=self.trusted_proxy or (),
        )

    def metrics(self, node: Node) -> MetricsServer | None:
        """The server of a node's metrics, not started; None if it is off."""
        from peerjob.node.observe.metrics import Metrics, MetricsServer

        if self.metrics_listen == OFF:
            return None
        return MetricsServer(Metrics(node, compat=self.metrics_compat), self.metrics_listen)

    def scaler(self, node: Node) -> ScalerServer | None:
        """The external scaler of KEDA, not started; None if it is off."""
        from peerjob import ScalerServer

        return None if self.scaler_listen == OFF else ScalerServer(node, self.scaler_listen, tls=self.tls)

    def web(self, node: Node, tokens: Tokens | None) -> WebServer | None:
        """The dashboard of a node, not started; None if it is off."""
        if self.web_listen == OFF:
            return None
        from peerjob.cli.web_server import WebServer

        return WebServer(
            node,
            self.web_listen,
            authenticators=[
                authenticator for authenticator in (tokens, self.jwt(node.clock)) if authenticator is not None
            ],
            tls=self.tls,
            insecure=self.insecure,
            hosts=self.web_host or (),
            root_path=self.web_root_path or "",
            trusted_proxies=self.trusted_proxy or LOOPBACK,
        )


_URLS = ("store", "coordinator", "outbox")
"""The options with a URL, each of which a file can contain."""
EXCLUSIVE = tuple(({f"--{name}"}, {f"--{name}-file"}) for name in _URLS)


def takes_settings(command: Callable[..., int]) -> Callable[..., int]:
    """Make a command of a function that takes DaemonSettings, and other options by keyword."""
    own = options_of(command, environment=True)

    def run(*, ctx: typer.Context, **given: Any) -> int:
        values: dict[str, Any] = {field.name: given.pop(field.name) for field in fields(DaemonSettings)}
        values.update(_urls(ctx))
        return command(DaemonSettings(**values), **given)

    declare(run, [*parameters_of(DaemonSettings, environment=True), *own])
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _urls(context: typer.Context) -> dict[str, str]:
    """The URLs of the store, the coordinator and the outbox, each from its option or its file, by precedence."""
    names = {f"{name}{end}": f"--{name}{end.replace('_', '-')}" for name in _URLS for end in ("", "_file")}
    values = merged(given_layers(context, names), EXCLUSIVE)
    urls: dict[str, str] = {}
    for name in _URLS:
        if (file := values.get(f"--{name}-file")) is not None:
            # older releases of typer keep the text of the command line here
            urls[name] = read_setting(f"--{name}-file", Path(file))
        elif f"--{name}" in values:
            urls[name] = values[f"--{name}"]
    return urls
